"""A sweep under way: which of its jobs are done, which is next, and how far it is.

A job is told by the digest of its spec and the number of its repeat, not by its own number: so a sweep that was cut
short is taken up by any later launch that asks for the same.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mvpnet.errors import ConfigError
from mvpnet.logs import say, write_quietly
from mvpnet.paths import host_path
from mvpnet.records.recorded import mask_files
from mvpnet.records.result import read_result
from mvpnet.spec.escape import resolved_already
from mvpnet.spec.urls import masked_words, urls_in_words
from mvpnet.sweep.model import SweepJob, swept_keys
from mvpnet.sweep.results import csv_text, document, next_number, results_in
from mvpnet.util.encoding import encoded
from mvpnet.util.files import write_json, write_whole
from mvpnet.util.hydra_options import is_inspecting
from mvpnet.util.hydra_quotes import quoted, without_quotes
from mvpnet.util.text import duration


@dataclass
class Sweep:
    """All jobs of a sweep, as far as they are known; `current` is the one that runs."""

    argv: tuple[str, ...]  # what was typed, for whoever takes the sweep up again
    resuming: bool = False
    folder: Path | None = None
    jobs: list[SweepJob] = field(default_factory=list)
    current: SweepJob | None = None
    _took_s: list[float] = field(default_factory=list)
    _began_s: float = 0.0

    def plan(self, folder: Path, jobs: Iterable[SweepJob]) -> list[SweepJob]:
        """Add jobs, and find out which of them ended well in this folder before.

        Returns:
            All of them, in order.

        Raises:
            ConfigError: the folder holds another sweep, and this is not to take it up.
        """
        if self.folder is None and not self.resuming and (folder / "results.json").exists():
            raise ConfigError(
                f"hydra.sweep.dir: {folder} holds another sweep",
                hint="name a new folder, or sweep.resume=FOLDER to run what is missing there",
            )
        is_first, self.folder = self.folder is None, folder
        added = list(jobs)
        ended = {(result.get("digest"), result.get("repeat")): (path, result) for path, result in results_in(folder)}
        for job in added:
            if found := ended.get((job.digest, job.repeat)):
                job.folder, job.result = found
                job.number = int(job.folder.name) if job.folder.name.isdigit() else None
        self.jobs += added
        if self.resuming:
            ready = sum(job.done for job in added)
            say(f"sweep: {ready} of {len(added)} jobs are done already in {folder}")
        elif is_first:
            say(f"sweep: {len(added)} jobs in {folder}; should it be cut short, sweep.resume={folder} runs the rest")
        self._write()
        return added

    def begin(self, job: SweepJob) -> None:
        """Make a job the current one, give it a number, and say how far the sweep is."""
        numbers = [one.number for one in self.jobs if one.number is not None]
        self.current, job.number = job, max([next_number(self.folder), *(number + 1 for number in numbers)])
        job.folder = job.result = job.problem = None
        say(self._progress(job))
        self._began_s = time.monotonic()

    def failed(self, message: str, code: int) -> None:
        """Record that the current job was refused, or did not come up."""
        assert self.current
        self.current.problem = (message, code)

    def end(self) -> None:
        """Record the end of the current job, whatever way it ended."""
        job, self.current = self.current, None
        assert job
        self._took_s.append(time.monotonic() - self._began_s)
        job.result = read_result(job.folder) if job.folder else None
        self._write()

    def tell(self) -> None:
        """Write the table of all jobs to standard output."""
        if self.jobs and self.folder:
            from mvpnet.sweep.table import table  # loads rich, which a job that is no sweep does without

            write_quietly(sys.stdout, encoded(table(self.jobs)))
            say(f"sweep: results.csv and results.json are in {self.folder}; mvpnet report {self.folder} draws them")

    def _progress(self, job: SweepJob) -> str:
        """Return a line such as `sweep: job 3 of 12 (vm.memory=1G, net=dgram), about 4 min left`."""
        keys = [f"{key}={value}" for key, value in job.settings().items() if key in swept_keys(self.jobs)]
        keys += [f"repeat {job.repeat}"] if any(one.repeat > 1 for one in self.jobs) else []
        what = f" ({', '.join(keys)})" if keys else ""
        place = next(at for at, one in enumerate(self.jobs, 1) if one is job)
        to_do = sum(not one.done for one in self.jobs[place - 1 :])
        mean_s = sum(self._took_s) / len(self._took_s) if self._took_s else None
        left = "" if mean_s is None else f", about {duration(mean_s * to_do)} left"
        return f"sweep: job {place} of {len(self.jobs)}{what}{left}"

    def _write(self) -> None:
        """Write results.json and results.csv, and take secrets out of what Hydra wrote. A full disk ends no sweep."""
        assert self.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            urls = urls_in_words(self.argv)
            argv = [masked_words(word, urls) for word in self.argv]
            write_json(self.folder / "results.json", document(argv, self.jobs))
            write_whole(self.folder / "results.csv", csv_text(self.jobs))
            mask_files(self.folder, urls)
        except OSError as error:
            say(f"warning: cannot write the results into {self.folder}: {error.strerror}")


def resumed(argv: Sequence[str]) -> list[str]:
    """Return the command line as Hydra needs it: with -m for a sweep, and with the words of a sweep to take up.

    A sweep is taken up by sweep.resume=FOLDER. Where nothing else is asked for, the words that it was started with are
    put in. A command line that only looks at the config stays as it is.

    Raises:
        ConfigError: the folder holds no sweep.
    """
    if is_inspecting(argv):
        return list(argv)
    folder = next((without_quotes(word.partition("=")[2]) for word in argv if word.startswith("sweep.resume=")), None)
    if not folder:
        repeats = any(word.startswith("sweep.repeat=") for word in argv)
        return ["-m", *argv] if repeats and not _multirun(argv) else list(argv)
    if any(word.startswith("hydra.sweep.dir=") for word in argv):
        raise ConfigError("sweep.resume: names the sweep folder, and so does hydra.sweep.dir", hint="leave one out")
    path = host_path(folder, "sweep.resume").resolve()
    try:
        found = json.loads((path / "results.json").read_bytes())
        before = [str(word) for word in found["argv"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = "there is no results.json in it" if isinstance(error, FileNotFoundError) else error
        raise ConfigError(
            f"sweep.resume: {folder} holds no sweep: {why}", hint="name the folder that has the jobs' folders 0, 1, …"
        ) from None
    rest = [word for word in argv if not word.startswith("sweep.resume=") and word not in ("-m", "--multirun")]
    found = quoted(resolved_already(str(path)))
    return ["-m", *(rest or before), f"sweep.resume={found}", f"hydra.sweep.dir={found}"]


def _multirun(argv: Sequence[str]) -> bool:
    return any(word in ("-m", "--multirun") for word in argv)


def remembered(argv: Sequence[str]) -> tuple[str, ...]:
    """Return those words of a command line that a later launch needs to ask for the same sweep."""
    ours = ("sweep.resume=", "hydra.sweep.dir=")
    return tuple(word for word in argv if not word.startswith(ours) and word not in ("-m", "--multirun"))
