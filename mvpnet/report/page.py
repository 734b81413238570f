"""Writing of a report: one HTML page with embedded pictures, and the same pictures as PNG files beside it.

    RUN/report/report.html     self-contained: no network, no script
    RUN/report/*.png

The page says which parts are missing because the run left no data for them.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvpnet.errors import HostError
from mvpnet.report.html import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 144
_SHOWN_DPI = 100  # in the page: sharp on a screen with two dots per pixel
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
PICTURED_METRICS = 24

Cells = tuple[tuple[str, ...], Sequence[Sequence[str]]]  # a table's headings and rows


@dataclass(frozen=True)
class Picture:
    """A drawn figure with its file name (without ending) and caption."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Page:
    """A report before it is written. `body` is HTML in which {{NAME}} stands for the picture of that name."""

    title: str
    body: str
    pictures: Sequence[Picture]


def write(page: Page, folder: Path) -> Path:
    """Write the page and its pictures, and return the page's path.

    Raises:
        HostError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        body = page.body
        for picture in page.pictures:
            data = io.BytesIO()
            picture.figure.savefig(data, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": "mvpnet"})
            (folder / f"{picture.name}.png").write_bytes(data.getvalue())
            body = body.replace(f"{{{{{picture.name}}}}}", _figure(picture, data.getvalue()))
        title = html.escape(page.title)
        target = folder / "report.html"
        target.write_text(
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
            f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
            encoding="utf-8",
            errors="replace",  # names of files need be no text
        )
    except OSError as error:
        raise HostError(f"{folder}: the report cannot be written: {error.strerror}") from error
    return target


def _figure(picture: Picture, png: bytes) -> str:
    """Return a picture's HTML; all have one scale, by the width in the PNG header (PNG specification, 11.2.1)."""
    data, caption = base64.b64encode(png).decode(), html.escape(picture.caption)
    width = round(int.from_bytes(png[16:20], "big") * _SHOWN_DPI / _DPI)
    image = f'<img alt="{caption}" width="{width}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def load_charts() -> Any:
    try:
        from mvpnet.report import charts
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        raise HostError(
            "a report's pictures are drawn by matplotlib, which is not installed", hint="pip install 'mvpnet[report]'"
        ) from error
    return charts
