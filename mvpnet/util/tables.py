"""Format tables as text, for a terminal, a file, or an error's message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_WIDTH = 160  # columns, without a terminal


def table_text(table: Table, **options: Any) -> str:
    """Return the table's lines, without blank ones. `options` are rich's Console's; cells are not parsed as markup."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, **options)
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines() if line.strip())
