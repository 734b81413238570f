"""The result of a job, result.json: the facts that sweeps, comparisons and reports need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvpnet.paths import RunFolder

FORMAT = 1


def result(
    *,
    how: str,
    code: int,
    digest: str,
    repeat: int,
    times: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    restarts: int,
) -> dict[str, Any]:
    """Return the content of result.json.

    `digest` is that of the requested spec; with `repeat` it identifies a job in a sweep.
    """
    return {
        "format": FORMAT,
        "verdict": how,
        "exit_code": code,
        "digest": digest,
        "repeat": repeat,
        "times": dict(times),
        "steps": [dict(step) for step in steps],
        "restarts": restarts,
        "metrics": dict(metrics),
    }


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the result of the run in a folder; None if the run did not end or another version wrote it."""
    try:
        found = json.loads(RunFolder(folder).result_json.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def jobs_ran(number: int, failed: int) -> str:
    """Describe how several jobs ended."""
    return f"{number} jobs ran, {f'{failed} of them failed' if failed else 'all ended well'}"
