"""Run folders as jobs leave them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvpnet.paths import RankLogs, RunFolder
from mvpnet.records.inputs import Input
from mvpnet.records.manifest import Recorder
from mvpnet.spec.model import JobSpec
from mvpnet.spec.schema import Config, Image, ImageKind
from mvpnet.spec.schema import Job as JobSection

HOST_FACTS = {"cpu": "a CPU", "cpus": 2, "cpus_allowed": 2, "memory_bytes": 2**30, "os": "an OS", "kernel": "a kernel"}
STATES = ("starting", "booting", "up", "running", "stopping", "gone")


def job(folder: Path, ranks: int = 2, **sections: Any) -> JobSpec:
    config = Config(job=JobSection(name="records"), **{"image": Image(kind=ImageKind.tiny), **sections})
    return JobSpec(ranks, folder, config, typed=("image=tiny",))


def rank_told(host: str = "here", inputs: list[Input] | None = None, **changes: Any) -> dict[str, Any]:
    """What a rank tells rank 0 when it is prepared."""
    told = {
        "host": host,
        "accel": "tcg",
        "accel_why": "asked",
        "ssh_port": 2200,
        "qemu": {"path": "/qemu", "version": "7.2.0"},
        "host_facts": {**HOST_FACTS, "mpi": "an MPI"},
        "inputs": inputs or [],
    }
    return told | changes


def make_run(
    folder: Path,
    spec: JobSpec | None = None,
    *,
    inputs: list[Input] | None = None,
    metrics: Mapping[str, Any] | None = None,
    code: int = 0,
    ended: bool = True,
) -> RunFolder:
    """A run of all its guests on one host."""
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    spec = replace(spec, run_dir=folder) if spec else job(folder)
    recorder = Recorder(run, spec, ["here"] * spec.world_size, None)
    first, *others = [rank_told(inputs=inputs) for _ in range(spec.world_size)]
    recorder.started([first, *({**one, "host_facts": None, "qemu": None} for one in others)], [])
    run.job_json.write_text("{}")
    if ended:
        states = [(state, 1000.0 + second) for second, state in enumerate(STATES)]
        recorder.ended("completed", {"how": "the app ended", "code": code}, [], [states] * spec.world_size)
    if metrics is not None:
        run.result_json.write_text(json.dumps({"format": 1, "exit_code": code, "metrics": dict(metrics)}))
    return run


def add_traffic(run: RunFolder, ranks: int = 2) -> None:
    """Counters, sampled and at the end, of guests that send to their neighbour."""
    for rank in range(ranks):
        folder = run.rank_folder(rank, None, "records")
        folder.mkdir()
        lines = [
            {"t": 1000.0 + second, "frames_from_guest": 10 * second, "bytes_from_guest": 9000 * second, "drops": {}}
            for second in range(5)
        ]
        RankLogs(folder).traffic.write_text("".join(json.dumps(line) + "\n" for line in lines))
    matrix = {str(rank): {str((rank + 1) % ranks): 36000 + rank} for rank in range(ranks)}
    counters = [{"drops": {"guest_full": 3 * rank}} for rank in range(ranks)]
    run.stats_json.write_text(json.dumps({"ranks": counters, "traffic_bytes": matrix}))
