"""Table of guests that did not come up, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from mvpnet.dataplane.address import host_name
from mvpnet.job.messages import GuestReport
from mvpnet.util.tables import table_text
from mvpnet.util.text import and_more


def boot_table(reports: Sequence[GuestReport]) -> str:
    """Return rank, host, phase, likely cause and last console lines of guests that did not come up."""
    table = Table("guest", "host", "reached", "likely cause", "last console lines", box=box.SIMPLE_HEAD)
    for report in reports[:16]:
        table.add_row(
            host_name(report.rank),
            report.host,
            report.phase,
            report.cause or report.reason,
            "\n".join(report.console[-5:]) or "(silent)",
        )
    return table_text(table, width=140, no_color=True) + and_more(len(reports) - 16, before="", after="\n")
