"""Reading of a run folder for comparison and reports; missing files are tolerated, broken ones raise clear errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mvpnet.app.metrics import is_number
from mvpnet.errors import ConfigError
from mvpnet.paths import RankLogs, RunFolder
from mvpnet.records.manifest import read_manifest
from mvpnet.records.typed import Manifest, Verdict, read_as


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: RunFolder
    content: Mapping[str, Any]  # of manifest.json, in JSON's types

    @cached_property
    def manifest(self) -> Manifest:
        """What ran, on what, made from which files, and how it ended. Raises ConfigError where it is broken."""
        return read_as(Manifest, self.content, str(self.folder.manifest))

    @property
    def name(self) -> str:
        return self.folder.root.name

    @property
    def is_complete(self) -> bool:
        """Whether the run ended; otherwise it is running or was killed."""
        return self.manifest.status in ("completed", "refused")

    @property
    def verdict(self) -> Verdict:
        """`how` the run ended, and mvpnet's exit `code`; None before the end."""
        return self.manifest.verdict or Verdict("no end is recorded: it runs, or was killed")

    @property
    def world_size(self) -> int:
        return int(self.content["spec"]["world_size"])

    def metrics(self) -> dict[str, float]:
        """Return the app's metrics from result.json; empty without the file.

        Raises:
            ConfigError: The file is broken, or a metric is not a number.
        """
        path = self.folder.result_json
        metrics = (read_json(path) or {}).get("metrics", {})
        if not isinstance(metrics, dict):
            raise ConfigError(f"{path}: its metrics are {metrics!r}, and no names with numbers")
        for name, value in metrics.items():
            if not is_number(value):
                raise ConfigError(f"{path}: the metric {name!r} is {value!r}, and no number")
        return {str(name): float(value) for name, value in metrics.items()}

    def stats(self) -> dict[str, Any]:
        """Return the content of stats.json; empty without the file."""
        return read_json(self.folder.stats_json) or {}

    def traffic(self) -> dict[int, list[dict[str, Any]]]:
        """Return the traffic samples of each rank that has any."""
        logging, name = self.content["spec"]["config"]["logging"], self.manifest.job or ""
        own = [self.folder.rank_folder(rank, None, name) for rank in range(self.world_size)]
        elsewhere = [self.folder.rank_folder(rank, logging["dir"], name) for rank in range(self.world_size)]
        found = {rank: samples(RankLogs(path).traffic) for rank, path in enumerate(own)}
        if logging["dir"] and not any(found.values()):
            found = {rank: samples(RankLogs(path).traffic) for rank, path in enumerate(elsewhere)}
        return {rank: lines for rank, lines in found.items() if lines}


def open_run(path: Path) -> Run:
    """Open a run folder.

    Raises:
        ManifestError: It holds no run, or no complete manifest.
    """
    folder = RunFolder(path)
    return Run(folder, read_manifest(folder))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if the file does not exist.

    Raises:
        ConfigError: The file is broken.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="it was cut short, or edited") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is no JSON object")
    return content


def samples(path: Path) -> list[dict[str, Any]]:
    """Return the samples in a traffic.jsonl; a last line that a killed job left incomplete is ignored."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
