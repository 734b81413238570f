"""result.json: how a job ended, in the few facts that sweeps, comparisons and reports need."""

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
    """What result.json holds. `digest` is the asked-for spec's: with `repeat` it tells a sweep's jobs apart."""
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
    """The result of the run in this folder; None for one that did not end, or that another version wrote."""
    try:
        found = json.loads(RunFolder(folder).result_json.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def jobs_ran(number: int, failed: int) -> str:
    """How several jobs ended, in words."""
    return f"{number} jobs ran, {f'{failed} of them failed' if failed else 'all ended well'}"
