"""Hydra's `--help`, `--cfg job` and the like, which need no MPI."""

from __future__ import annotations

from mvpnet.cli.outcome import report_error, worst
from mvpnet.config import compose


def inspect(argv: list[str]) -> int:
    """Print what is asked for; return the exit code. Raises ConfigError."""
    return worst(compose.run(argv, 1, lambda spec: 0, report_error))
