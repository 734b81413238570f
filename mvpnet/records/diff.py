"""Comparison of two runs: spec, inputs, hosts, versions, metrics and outcome, but not the times at which they ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mvpnet.records.run import Run
from mvpnet.spec.aliases import renamed_spec

# Keys of the spec that say where its records are and how it was requested; its digest excludes the same keys.
_NO_DIFFERENCE = ("run_dir", "typed", "recipe", "repeat", "config.job.name", "config.job.ranks", "config.sweep")

_KEPT_OUT = tuple(f"{key}." for key in _NO_DIFFERENCE)


@dataclass(frozen=True)
class Difference:
    """A key whose values differ between two runs; None stands for a missing key."""

    section: str
    key: str
    first: Any
    second: Any

    @property
    def change(self) -> str:
        """Return the relative change between two numbers, in words."""
        if isinstance(self.first, float) and isinstance(self.second, float) and self.first:
            return f"{100 * (self.second - self.first) / abs(self.first):+.1f} %"
        return ""


def _spec(run: Run) -> dict[str, Any]:
    spec = renamed_spec(run.content["spec"])
    told = flat(spec | {"overrides": {one["name"]: one for one in spec["overrides"]}})
    return {key: value for key, value in told.items() if not f"{key}.".startswith(_KEPT_OUT)}


def _inputs(run: Run) -> dict[str, Any]:
    found = {}
    for one in run.manifest.inputs:
        told = one.sha256 or f"{one.by} ({one.size_bytes} bytes, changed {one.mtime_ns})"
        found[f"{one.key} (ranks {one.ranks})"] = told
    return found


def _hosts(run: Run) -> dict[str, Any]:
    found = {f"rank {rank}": one.host for rank, one in run.manifest.ranks.items()}
    found |= {f"rank {rank} accelerator": one.accel for rank, one in run.manifest.ranks.items()}
    return found | flat(run.content["hosts"])


def _versions(run: Run) -> dict[str, Any]:
    return {key: value for key, value in flat(run.content["software"]).items() if key != "executable"}


def _verdict(run: Run) -> dict[str, Any]:
    return {"status": run.manifest.status, **asdict(run.verdict)}


SECTIONS: Mapping[str, Callable[[Run], Mapping[str, Any]]] = {
    "spec": _spec,
    "inputs": _inputs,
    "hosts": _hosts,
    "versions": _versions,
    "verdict": _verdict,
    "metrics": Run.metrics,
}


def differences(first: Run, second: Run, sections: tuple[str, ...] = tuple(SECTIONS)) -> list[Difference]:
    """Return the differences between two runs, in the order of the sections and of the first run's keys.

    Raises:
        ConfigError: A result.json is broken.
    """
    return [found for section in sections for found in _in_section(section, first, second)]


def _in_section(section: str, first: Run, second: Run) -> Iterator[Difference]:
    a, b = SECTIONS[section](first), SECTIONS[section](second)
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield Difference(section, key, a.get(key), b.get(key))


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return a tree of mappings as one mapping with dotted keys; lists are values."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
