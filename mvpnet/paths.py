"""Where a job keeps things: every path of the run folder and of the scratch folder, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ConfigError

UNIX_PATH_MAX = 107  # bytes of sun_path but for the closing zero: unix(7)


@dataclass(frozen=True)
class RunFolder:
    """What a job leaves. `root` is Hydra's folder of the job."""

    root: Path

    def refuse_another_run(self, key: str, *, hint: str) -> None:
        """Raises ConfigError, naming the key that the folder is from, where a run is in it already."""
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
        """Files that came with an archive of a run and are used in its replay, each in a folder named by its digest."""
        return self.root / "inputs"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def stats_json(self) -> Path:
        return self.root / "stats.json"

    @property
    def result_json(self) -> Path:
        """How the job ended and what was measured; only there once it has ended."""
        return self.root / "result.json"

    @property
    def metrics_json(self) -> Path:
        """What a program on the host may write."""
        return self.root / "metrics.json"

    def app_log(self, rank: int | None, step: str | None) -> Path:
        """The output of the app, or of one of its named steps, on the host (rank None) or in a guest."""
        folder = self.root if rank is None else self.root / f"rank-{rank:04d}"
        return folder / (f"app-{step}.log" if step else "app.log")

    def collected(self, rank: int, step: str | None) -> Path:
        """What was fetched from a guest."""
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
        """A rank's logs: below logging.dir and the job's name where that is set, else below the run folder."""
        base = Path(log_dir) / job_name if log_dir else self.root
        return base / f"rank-{rank:04d}"


def jobs_of_sweep(root: Path) -> list[Path]:
    """The run folders of a sweep's jobs, in their order; none where it is no sweep."""
    folders = [path.parent for path in root.glob("*/job.json")]
    return sorted(folders, key=lambda path: (not path.name.isdecimal(), path.name.zfill(12)))


@dataclass(frozen=True)
class RankLogs:
    """The logs of one rank."""

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
    """The folder of all this user's scratch folders on this host."""
    return Path(scratch_dir or os.environ.get("TMPDIR") or "/tmp") / f"mvpnet-{os.getuid()}"


def registry_base() -> Path:
    """The folder where all running jobs of this user on this host are found, whatever TMPDIR they were given."""
    return Path(os.environ.get("MVPNET_REGISTRY") or f"/tmp/mvpnet-jobs-{os.getuid()}")


def cache_base(cache_dir: str | None) -> Path:
    """Where built and fetched images are kept (XDG Base Directory Specification)."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvpnet"


def user_config_folders(launch_dir: Path) -> list[Path]:
    """Folders with the user's own config groups, the first wins; only those that exist."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mvpnet"
    return [folder for folder in (launch_dir / "mvpnet.d", home) if folder.is_dir()]


def conf_folder() -> Path:
    """The shipped config: in the wheel below the package, in a checkout beside it."""
    here = Path(__file__).resolve().parent
    return next(c for c in (here / "conf", here.parent / "conf") if (c / "config.yaml").is_file())
