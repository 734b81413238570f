"""mvpnet: virtual machines as one MPI job, joined by an Ethernet that MPI messages carry.

The public API is loaded at its first use: `compose`, `open_run`, and the types that they return and raise.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvpnet.api import Run, TableRow, open_run
    from mvpnet.config.in_process import compose
    from mvpnet.errors import ConfigError, MvpnetError
    from mvpnet.spec.model import JobSpec

__version__ = "0.2.0"
__all__ = ["ConfigError", "JobSpec", "MvpnetError", "Run", "TableRow", "__version__", "compose", "open_run"]

_MODULES = {
    "ConfigError": "mvpnet.errors",
    "JobSpec": "mvpnet.spec.model",
    "MvpnetError": "mvpnet.errors",
    "Run": "mvpnet.api",
    "TableRow": "mvpnet.api",
    "compose": "mvpnet.config.in_process",
    "open_run": "mvpnet.api",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(globals().keys() | _MODULES.keys())
