"""Describe the result of a check, one line of the doctor's table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class Level(Enum):
    ok = "ok"
    warning = "warning"  # a job works, with a limitation
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
    """Merge equal findings of one host into one with the ranks of all, in the order of the first of each."""
    ranks: dict[Finding, set[int]] = {}
    for finding in findings:
        ranks.setdefault(replace(finding, ranks=()), set()).update(finding.ranks)
    return [replace(finding, ranks=tuple(sorted(of))) for finding, of in ranks.items()]
