"""What a check found: a line of the doctor's table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class Level(Enum):
    ok = "ok"
    warning = "warning"  # it works, and not as might be expected
    failure = "failure"  # a job would be refused, or fail


@dataclass(frozen=True)
class Finding:
    host: str
    ranks: tuple[int, ...]
    check: str
    level: Level
    seen: str
    todo: str | None = None


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Those that say the same of one host as one, with the ranks of all; in the order in which they came first."""
    ranks: dict[Finding, set[int]] = {}
    for finding in findings:
        ranks.setdefault(replace(finding, ranks=()), set()).update(finding.ranks)
    return [replace(finding, ranks=tuple(sorted(of))) for finding, of in ranks.items()]
