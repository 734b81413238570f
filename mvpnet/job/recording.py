"""Recording of a job in its run folder, from its start to its outcome. Only rank 0 has `RunRecords`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mvpnet.errors import HostError
from mvpnet.job.coordinator import JobOutcome
from mvpnet.job.messages import GuestReport, JobOrder, Provenance
from mvpnet.logs import say
from mvpnet.paths import RunFolder
from mvpnet.records.inputs import Input
from mvpnet.records.manifest import Recorder, own_inputs
from mvpnet.records.recorded import recorded_spec
from mvpnet.records.result import result
from mvpnet.spec.model import JobSpec
from mvpnet.ssh import KeyPair, make_key_pair
from mvpnet.util.files import make_private, write_json, write_private
from mvpnet.util.text import timestamp


@dataclass(frozen=True)
class RunSummary:
    """Summary of a job's run for its records, once its guests have started."""

    started: str  # as util.text.timestamp writes it
    seconds: Mapping[str, float]  # boot_s, app_s, total_s, as far as there were any
    reports: Sequence[GuestReport]
    restarts: int
    steps: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  # of the app
    metrics: Mapping[str, Any] = field(default_factory=dict)


class RunRecords:
    """Writes a run's records as the job goes on.

    A record that cannot be written, say for a full disk, does not undo the job: `say` gets a warning.
    """

    def __init__(self, order: JobOrder, hosts: Sequence[str], provenance: Provenance) -> None:
        self._order = order
        self._hosts = hosts
        self._run = RunFolder(order.spec.run_dir)
        self._manifest = Recorder(self._run, order.spec, hosts, provenance.replays, resumes=provenance.resumes)

    @property
    def inputs(self) -> Mapping[int, Sequence[Input]]:
        """Inputs of the run, by rank."""
        return self._manifest.inputs

    def opened(self) -> None:
        """Record that the job prepares."""
        with warning_of(self._run.manifest):
            self._manifest.begin()

    def started(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Record that all ranks are ready; `found` has the facts of each (`records.manifest.rank_facts`)."""
        with warning_of(self._run.manifest):
            self._manifest.started(found, own_inputs(self._order.spec))

    def refused(self, exit_code: int) -> None:
        """Record that a rank could not be prepared, and that no guest was started."""
        outcome, now = JobOutcome("refused before any guest started", exit_code), timestamp()
        self._write_results(outcome, RunSummary(now, {}, (), 0))
        with warning_of(self._run.manifest):
            self._manifest.ended("refused", asdict(outcome), [])

    def gave_up(self, outcome: JobOutcome, summary: RunSummary) -> None:
        """Record the end of a job that lost ranks, so that counters cannot be gathered."""
        self._write_manifest(outcome, summary, ())
        self._write_results(outcome, summary)

    def ended(
        self,
        outcome: JobOutcome,
        summary: RunSummary,
        accounts: list[dict[str, Any]],
        timelines: Sequence[Sequence[tuple[str, float]]],
    ) -> None:
        """The job is over: each rank's counters (`RankSession.account`), and states with their times."""
        self._write_manifest(outcome, summary, timelines)
        if self._order.spec.config.logging.stats:
            with warning_of(self._run.stats_json):
                self._run.stats_json.write_text(json.dumps(traffic(accounts), indent=1) + "\n")
        self._write_results(outcome, summary)

    def digested(self, found: Sequence[Input]) -> None:
        """Record digests that were made after the guests had ended."""
        with warning_of(self._run.manifest):
            self._manifest.digested(found)

    def _write_manifest(self, outcome: JobOutcome, summary: RunSummary, timelines: Sequence[Any]) -> None:
        with warning_of(self._run.manifest):
            guests = [asdict(report) for report in summary.reports]
            self._manifest.ended("completed", asdict(outcome), guests, timelines)

    def _write_results(self, outcome: JobOutcome, summary: RunSummary) -> None:
        """Write job.json, and last of all result.json: a folder that has it is of a job that ended."""
        times = {"started": summary.started, "ended": timestamp()}
        facts = {
            **times,
            "hosts": self._hosts,
            "verdict": asdict(outcome),
            "guests": [asdict(report) for report in summary.reports],
        }
        with warning_of(self._run.job_json):
            _write_job(self._run, self._order.spec, facts)
        whole = result(
            how=outcome.how,
            code=outcome.code,
            digest=self._order.asked_digest,
            repeat=self._order.spec.repeat,
            times={**times, **summary.seconds},
            steps=summary.steps,
            metrics=summary.metrics,
            restarts=summary.restarts,
        )
        with warning_of(self._run.result_json):
            write_json(self._run.result_json, whole)


def open_run_folder(run: RunFolder, spec: JobSpec, keys: KeyPair | None) -> KeyPair:
    """Make the run folder this job's, with its key pair: `keys`, or a new one.

    Raises:
        ConfigError: another run is in it.
        HostError: it cannot be written.
    """
    try:
        make_private(run.root)
        is_new = {path.name for path in run.root.iterdir()} <= {".hydra"}  # made for this job, with the umask
        run.claim("hydra.run.dir", hint="leave it out, or name a new folder")
        if is_new:
            run.root.chmod(0o700)
        _write_job(run, spec, {"started": timestamp()})
        run.ssh_key.unlink(missing_ok=True)
        if keys:
            write_private(run.ssh_key, keys.private)
            run.ssh_key.with_suffix(".pub").write_text(keys.public)
            return keys
        make_key_pair(run.ssh_key, f"mvpnet job {spec.name}")
        public = run.ssh_key.with_suffix(".pub").read_text()
        return KeyPair(public, run.ssh_key.read_text())
    except OSError as error:
        raise HostError(f"hydra.run.dir: cannot write {run.root}: {error.strerror}") from error


def _write_job(run: RunFolder, spec: JobSpec, facts: dict[str, Any]) -> None:
    write_json(run.job_json, {"spec": recorded_spec(spec), "digest": spec.digest(), **facts})


@contextmanager
def warning_of(path: Path) -> Iterator[None]:
    """Warn of a record that cannot be written while inside, and go on."""
    try:
        yield
    except OSError as error:
        say(f"warning: cannot write {path}: {error.strerror}")


def traffic(counters: list[dict[str, Any]]) -> dict[str, Any]:
    """stats.json: the counters of each rank, and bytes from rank to rank where there were any."""
    matrix = {str(rank): counts.pop("bytes_by_destination") for rank, counts in enumerate(counters)}
    return {"ranks": counters, "traffic_bytes": {rank: row for rank, row in matrix.items() if row}}
