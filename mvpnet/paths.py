"""Paths of a job: the run folder, logs, scratch folders, caches and configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ConfigError

UNIX_PATH_MAX = 107  # bytes of sun_path but for the closing zero: unix(7)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a job's run folder. `root` is Hydra's folder of the job."""

    root: Path

    def refuse_another_run(self, key: str, *, hint: str) -> None:
        """Refuse a folder that holds a run already.

        Raises:
            ConfigError: A run is in it; the message names the `key` that set the folder.
        """
        if self.job_json.exists():
            raise ConfigError(f"{key}: {self.root} holds another run", hint=hint)

    @property
    def job_json(self) -> Path:
        return self.root / "job.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def inputs(self) -> Path:
        """Files from an archive of a run that its replay uses, each in a folder named by its digest."""
        return self.root / "inputs"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def stats_json(self) -> Path:
        return self.root / "stats.json"

    @property
    def result_json(self) -> Path:
        """Outcome and metrics of the job; it exists only after the end."""
        return self.root / "result.json"

    @property
    def metrics_json(self) -> Path:
        """Metrics that a program on the host may write."""
        return self.root / "metrics.json"

    def app_log(self, rank: int | None, step: str | None) -> Path:
        """Return the path of the output of the app or of a named step, on the host (rank None) or in a guest."""
        folder = self.root if rank is None else self.root / f"rank-{rank:04d}"
        return folder / (f"app-{step}.log" if step else "app.log")

    def collected(self, rank: int, step: str | None) -> Path:
        """Return the folder for files fetched from a guest."""
        folder = self.root / f"rank-{rank:04d}" / "collected"
        return folder / step if step else folder

    @property
    def ssh_config(self) -> Path:
        return self.root / "ssh_config"

    @property
    def inventory(self) -> Path:
        return self.root / "inventory.yaml"

    @property
    def ssh_key(self) -> Path:
        return self.root / "id_ed25519"

    def rank_folder(self, rank: int, log_dir: str | None, job_name: str) -> Path:
        """Return the folder of a rank's logs: below logging.dir and the job's name if set, else in the run folder."""
        base = Path(log_dir) / job_name if log_dir else self.root
        return base / f"rank-{rank:04d}"


def jobs_of_sweep(root: Path) -> list[Path]:
    """Return the run folders of a sweep's jobs, in order; empty if the folder is not a sweep's."""
    folders = [path.parent for path in root.glob("*/job.json")]
    return sorted(folders, key=lambda path: (not path.name.isdecimal(), path.name.zfill(12)))


@dataclass(frozen=True)
class RankLogs:
    """Paths of one rank's logs."""

    folder: Path

    @property
    def mvpnet(self) -> Path:
        return self.folder / "mvpnet.log"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def qemu(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def monwrap(self) -> Path:
        return self.folder / "monwrap.log"

    @property
    def traffic(self) -> Path:
        return self.folder / "traffic.jsonl"

    @property
    def recent(self) -> Path:
        return self.folder / "recent.log"


def scratch_base(scratch_dir: str | None) -> Path:
    """Return the folder of all this user's scratch folders on this host."""
    return Path(scratch_dir or os.environ.get("TMPDIR") or "/tmp") / f"mvpnet-{os.getuid()}"


def registry_base() -> Path:
    """Return the folder where this user's running jobs on this host are registered, independent of TMPDIR."""
    return Path(os.environ.get("MVPNET_REGISTRY") or f"/tmp/mvpnet-jobs-{os.getuid()}")


def cache_base(cache_dir: str | None) -> Path:
    """Return the folder of built and fetched images (XDG Base Directory Specification)."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvpnet"


def user_config_folders(launch_dir: Path) -> list[Path]:
    """Return the existing folders with the user's own config groups, in order of precedence."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mvpnet"
    return [folder for folder in (launch_dir / "mvpnet.d", home) if folder.is_dir()]


def conf_folder() -> Path:
    """Return the folder of the shipped config: in a wheel below the package, in a checkout beside it."""
    here = Path(__file__).resolve().parent
    return next(c for c in (here / "conf", here.parent / "conf") if (c / "config.yaml").is_file())
