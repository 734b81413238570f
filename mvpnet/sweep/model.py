"""A sweep's jobs, and what tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvpnet.spec.urls import masked_words, urls_in_words
from mvpnet.util.hydra_quotes import without_quotes


@dataclass
class SweepJob:
    """One combination of a sweep, in one of its repeats."""

    overrides: tuple[str, ...]
    repeat: int = 1
    digest: str | None = None  # of its spec, where that is known before it runs
    number: int | None = None  # Hydra's, once it ran or was found
    folder: Path | None = None  # its run folder, once that is its own
    result: dict[str, Any] | None = None
    problem: tuple[str, int] | None = None  # what was told and the exit code, where there is no result

    @property
    def done(self) -> bool:
        """Whether it ran to its end without a failure."""
        return self.result is not None and self.result["exit_code"] == 0

    def settings(self) -> dict[str, str]:
        """Return key and value of each override, without secrets in URLs."""
        shown = (masked_words(text, urls_in_words([text])) for text in self.overrides)
        pairs = (text.partition("=") for text in shown if "=" in text)
        own = ("hydra.", "sweep.")
        return {key.lstrip("+"): without_quotes(value) for key, _, value in pairs if not key.startswith(own)}


def swept_keys(jobs: Sequence[SweepJob]) -> list[str]:
    """Return the keys in which the jobs differ, in the order in which they were given."""
    settings = [job.settings() for job in jobs]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


def metric_names(jobs: Iterable[SweepJob]) -> list[str]:
    """Return the names of all metrics that some job has."""
    return list(dict.fromkeys(name for job in jobs if job.result for name in job.result["metrics"]))
