"""The manifest of a run, manifest.json: spec, environment, inputs and outcome, for replay and comparison.

It is written before anything of the job runs (status "preparing"), again when all ranks are ready to start
("running"), and completed at the end ("completed", or "refused" where no guest started). A manifest with the status
"running" belongs to a job that runs or was killed. It is always replaced as a whole, by a rename.

It holds no secrets: it excludes the job's keys, and user names, passwords and signatures are removed from URLs
(`left_out` lists the keys). docs/records.md describes each field; FORMAT is increased when a reader of the old format
would misread the new one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mvpnet.errors import ConfigError, MvpnetError
from mvpnet.guest.drives import DrivePlan
from mvpnet.guest.requirements import HostPlan
from mvpnet.images.boot import BootFiles
from mvpnet.paths import RunFolder, jobs_of_sweep, launch_folder
from mvpnet.records import environment
from mvpnet.records.inputs import Input, as_plain, error_free, job_inputs, rank_inputs, with_digests
from mvpnet.records.recorded import recorded_spec
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.plain import plain
from mvpnet.spec.rank_set import ranks_text
from mvpnet.ssh import SshEndpoint
from mvpnet.util.files import write_json

FORMAT = 1


class ManifestError(ConfigError):
    """A manifest is missing, incomplete, or of another format."""


class Recorder:
    """Writes the manifest on rank 0 as the job proceeds. Methods raise OSError if it cannot be written."""

    def __init__(
        self,
        run: RunFolder,
        spec: JobSpec,
        hosts: Sequence[str],
        replays: Mapping[str, Any] | None,
        resumes: Mapping[str, Any] | None = None,
    ) -> None:
        self._run = run
        self._hosts = hosts
        self._inputs: dict[int, list[Input]] = {0: []}
        found = {**plain(spec), "typed": list(spec.typed)}
        shown = recorded_spec(spec)
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "status": "preparing",
            "job": spec.name,
            "digest": spec.digest(),
            "typed": shown["typed"],
            "recipe": str(spec.recipe) if spec.recipe else None,
            "launch_folder": str(launch_folder()),
            "replays": dict(replays) if replays else None,
            "resumes": dict(resumes) if resumes else None,
            "software": {},
            "hosts": {},
            "ranks": {},
            "inputs": [],
            "batch_system": environment.batch_system(os.environ),
            "times": {"begun": time.time()},
            "verdict": None,
            "guests": [],
            "left_out": _differences(found, shown),
            "spec": shown,
        }

    def begin(self) -> None:
        self._write()

    def started(self, found: Sequence[Mapping[str, Any]], own: Sequence[Input]) -> None:
        """Write the manifest when all ranks are ready.

        Args:
            found: The facts of each rank (`rank_facts`).
            own: The inputs that only rank 0 reports (`own_inputs`).
        """
        self._content["status"] = "running"
        self._content["times"]["prepared"] = time.time()
        self._content["software"] = {
            **environment.software(),
            "qemu": found[0]["qemu"],
            "mpi": found[0]["host_facts"]["mpi"],
        }
        self._content["hosts"] = _by_host(self._hosts, found)
        self._content["ranks"] = {
            str(rank): {key: one[key] for key in ("host", "accel", "accel_why", "ssh_port")}
            for rank, one in enumerate(found)
        }
        for rank, one in enumerate(found):
            if one["qemu"] and one["qemu"] != found[0]["qemu"] and not one["host_facts"]:
                self._content["ranks"][str(rank)]["qemu"] = one["qemu"]
        self._inputs = {rank: list(one["inputs"]) for rank, one in enumerate(found)}
        self._inputs[0] += own
        self._write()

    def ended(
        self,
        status: str,
        verdict: Mapping[str, Any],
        guests: Sequence[Mapping[str, Any]],
        timelines: Sequence[Any] = (),
    ) -> None:
        """Complete the manifest; `timelines` are the states of each rank's guest with their times."""
        self._content["status"] = status
        self._content["times"] |= {**_phases(timelines), "ended": time.time()}
        self._content["verdict"] = dict(verdict)
        self._content["guests"] = list(guests)
        for rank, states in enumerate(timelines):
            self._content["ranks"][str(rank)]["states"] = states
        self._write()

    @property
    def inputs(self) -> Mapping[int, Sequence[Input]]:
        """All inputs, by rank."""
        return self._inputs

    def digested(self, found: Sequence[Input]) -> None:
        """Add digests that were made after the guests had ended."""
        self._inputs = with_digests(self._inputs, found)
        self._write()

    def _write(self) -> None:
        self._content["inputs"] = as_plain(self._inputs)
        write_json(self._run.manifest, self._content)


class ReadyGuest(Protocol):
    """A rank's prepared guest: the attributes of job.prepare.PreparedRank that the manifest needs."""

    @property
    def spec(self) -> RankSpec: ...
    @property
    def host(self) -> HostPlan: ...
    @property
    def endpoint(self) -> SshEndpoint: ...
    @property
    def drives(self) -> tuple[DrivePlan, ...]: ...
    @property
    def boot(self) -> BootFiles: ...


def rank_facts(rank: int, hosts: Sequence[str], job: JobSpec, ready: ReadyGuest) -> dict[str, Any]:
    """Return the facts that a prepared rank reports to rank 0; a host's first rank includes the host's facts."""
    first_here = hosts.index(hosts[rank]) == rank
    binary = ready.spec.qemu.binary
    return {
        "host": hosts[rank],
        "accel": ready.host.accel.name,
        "accel_why": ready.host.accel_why,
        "ssh_port": ready.endpoint.port,
        "qemu": environment.qemu(binary) if first_here or binary != job.config.qemu.binary else None,
        "host_facts": environment.host_facts() if first_here else None,
        "inputs": error_free(lambda: rank_inputs(ready.spec, ready.drives, ready.boot.kernel, ready.boot.initrd)),
    }


def own_inputs(job: JobSpec) -> list[Input]:
    """Return the inputs that only rank 0 reports; empty if they cannot be determined."""
    return error_free(lambda: job_inputs(job))


def _by_host(hosts: Sequence[str], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        one["host"]: {
            **one["host_facts"],
            "qemu": one["qemu"],
            "ranks": ranks_text([rank for rank, host in enumerate(hosts) if host == one["host"]]),
        }
        for one in found
        if one["host_facts"]
    }


def _phases(timelines: Sequence[Sequence[tuple[str, float]]]) -> dict[str, float]:
    """Return when the job entered each phase, in seconds since 1970: for `up` the last rank counts, else the first."""
    times: dict[str, list[float]] = {}
    for states in timelines:
        first = dict(reversed(states))  # reversed, so that the first time counts for a restarted guest
        for state, at in first.items():
            times.setdefault(state, []).append(at)
    phases: dict[str, float] = {
        state: min(times[state]) for state in ("starting", "running", "stopping") if state in times
    }
    if len(times.get("up", [])) == len(timelines) and timelines:
        phases["up"] = max(times["up"])
    return phases


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return the dotted keys whose values differ between two trees of the same shape."""
    if isinstance(old, Mapping):
        return [found for name in old for found in _differences(old[name], new[name], f"{key}.{name}".lstrip("."))]
    if isinstance(old, list):
        return [
            found for i, (a, b) in enumerate(zip(old, new, strict=True)) for found in _differences(a, b, f"{key}[{i}]")
        ]
    return [] if old == new else [key]


def read_manifest(run: RunFolder) -> dict[str, Any]:
    """Return the manifest of a run folder.

    Raises:
        ManifestError: It is missing, truncated, or was written by a newer mvpnet.
    """
    path = run.manifest
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise _no_manifest(run) from None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(
            f"{path}: is no whole manifest: {error}", hint="its copy was cut short, or it was edited"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ManifestError(f"{path}: is no manifest of mvpnet's: it has no format number")
    if content["format"] > FORMAT:
        by = content.get("software", {}).get("mvpnet", {}).get("version", "a newer one")
        raise ManifestError(
            f"{path}: has format {content['format']}, and this mvpnet reads formats up to {FORMAT}",
            hint=f"use the mvpnet that wrote it: {by}",
        )
    if missing := [key for key in ("status", "digest", "spec", "inputs", "hosts", "software") if key not in content]:
        raise ManifestError(f"{path}: is not whole: it has no {', '.join(missing)}")
    return content


def _no_manifest(run: RunFolder) -> MvpnetError:
    if not run.root.is_dir():
        return ManifestError(f"{run.root}: there is no such run folder", hint="run folders are runs/DATE/TIME-JOB")
    jobs = jobs_of_sweep(run.root)
    if jobs and not run.job_json.exists():
        return ManifestError(f"{run.root}: is the folder of a sweep", hint=f"name one of its jobs: {jobs[0]} and so on")
    if run.job_json.exists():
        return ManifestError(
            f"{run.root}: has no manifest.json: the run was killed before it wrote one, or an older mvpnet made it"
        )
    return ManifestError(f"{run.root}: is no run folder: there is no manifest.json and no job.json in it")
