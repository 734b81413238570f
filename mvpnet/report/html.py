"""HTML building blocks of reports: sections, tables, numbers, style."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

from mvpnet.records.typed import Verdict

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #2d3748; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem }
.lead { color: #4a5568; margin-top: 0 }
.good, .bad, .open { border-radius: 4px; padding: .1rem .5rem; font-weight: 600 }
.good { background: #d7f0df; color: #1c5c39 } .bad { background: #fbdcd5; color: #8c2a16 }
.open { background: #fdf0cf; color: #7a5200 }
table { border-collapse: collapse; margin: .3rem 0 1rem } img { max-width: 100%; height: auto }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #e2e8f0; vertical-align: top }
th { color: #4a5568; font-weight: 600 } td.number { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .85em; overflow-wrap: anywhere } figure { margin: .3rem 0 } figcaption { color: #4a5568 }
"""


def head(title: str, line: str, verdict: Verdict) -> str:
    kind = {0: "good", None: "open"}.get(verdict.code, "bad")
    return (
        f"<h1>{html.escape(title)}</h1>\n<p class=lead>{html.escape(line)}</p>\n"
        f"<p><span class={kind}>{html.escape(verdict.how)}</span></p>"
    )


def section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{content}"


def table(headings: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; without `headings`, the first cell of each row is its heading."""
    top = "<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in headings) + "</tr>\n" if headings else ""
    lines = (
        "".join(
            f"<th>{html.escape(str(cell))}</th>" if not headings and i == 0 else f"<td>{_cell(str(cell))}</td>"
            for i, cell in enumerate(row)
        )
        for row in rows
    )
    return "<table>\n" + top + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"


def _cell(text: str) -> str:
    escaped = html.escape(text)
    return f"<code>{escaped}</code>" if "/" in text or len(text) > 40 else escaped


def number(value: float) -> str:
    return f"{value:,.6g}"


def date(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at)) if at else "at an unknown time"
