"""How errors become messages and exit codes."""

from __future__ import annotations

import os
import sys

from mvpnet.errors import MvpnetError, SplitWorldError
from mvpnet.logs import write_quietly
from mvpnet.mpi.launcher import launched_rank
from mvpnet.spec.urls import masked
from mvpnet.util.encoding import encoded


def report_error(error: MvpnetError) -> int:
    """Write the error, without secrets of URLs, to standard error; return its exit code."""
    write_quietly(sys.stderr, encoded(masked(f"mvpnet: {error}\n")))
    return error.exit_code


def is_repeated(error: MvpnetError) -> bool:
    """Whether every rank finds this error, and another one reports it.

    Every rank finds a split world, and the launcher's first one reports it. The others exit with 0, as launchers kill
    all ranks when one fails, and the first would not come to report it.
    """
    return isinstance(error, SplitWorldError) and launched_rank(os.environ) not in (None, 0)


def worst(codes: list[int]) -> int:
    """Return the first exit code that is not 0."""
    return next((code for code in codes if code), 0)
