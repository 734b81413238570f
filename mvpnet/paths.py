"""Paths of a job: the run folder, logs, scratch folders, caches and configuration."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import ConfigError, HostError
from mvpnet.util.files import create_folder

UNIX_PATH_MAX = 107  # bytes of sun_path but for the closing zero: unix(7)
_PATH_MAX, _NAME_MAX = 4096, 255  # bytes, as in Linux's limits.h


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

    def claim(self, key: str, *, hint: str) -> None:
        """Make job.json, by which others see that a run is in the folder: of two that ask at once, one is refused.

        Raises:
            ConfigError: A run is in it; the message names the `key` that set the folder.
            OSError: It cannot be written.
        """
        try:
            self.job_json.open("x").close()
        except FileExistsError:
            self.refuse_another_run(key, hint=hint)

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
    """Return the folder of built and fetched images (XDG Base Directory Specification).

    Raises:
        HostError: Nothing says where it is: there is no home folder.
    """
    if cache_dir:
        return host_path(cache_dir, "image.cache_dir")
    return _user_folder("XDG_CACHE_HOME", ".cache", "or image.cache_dir=FOLDER") / "mvpnet"


def state_base() -> Path:
    """Return the folder of what mvpnet keeps for the user, such as saves. Raises HostError as `cache_base` does."""
    return _user_folder("XDG_STATE_HOME", ".local/state") / "mvpnet"


def _user_folder(variable: str, below_home: str, otherwise: str = "") -> Path:
    if value := os.environ.get(variable):
        return Path(value)
    if (home := home_folder()) is None:
        hint = f"set HOME, or {variable}{', ' if otherwise else ''}{otherwise}"
        raise HostError(f"HOME is not set, and this host knows no home folder of user id {os.getuid()}", hint=hint)
    return home / below_home


def user_config_folders(launch_dir: Path) -> list[Path]:
    """Return the existing folders with the user's own config groups, in order of precedence.

    A folder that this user may not look into, as below another user's HOME, counts as none.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or (home_folder() or Path("/")) / ".config") / "mvpnet"
    return [one for one in (launch_dir / "mvpnet.d", home) if os.access(one, os.R_OK | os.X_OK) and one.is_dir()]


def launch_folder() -> Path:
    """Return the folder that this launch was made in, from which relative paths count.

    Raises:
        HostError: It was removed, or this user may not look at it.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise HostError(
            f"the folder that mvpnet was started in cannot be used: {error.strerror}",
            hint="cd to a folder that exists",
        ) from None


def home_folder() -> Path | None:
    """Return this user's home folder: HOME, else the one that the host knows; None where neither is there."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def host_path(text: str, key: str, folder: Path | None = None, *, template: bool = False) -> Path:
    """Return the absolute path of this host that a user means; every path that users write goes through this.

    Args:
        text: As written: `~` and `~NAME` at its beginning are home folders.
        key: What set it, for messages.
        folder: Where relative paths count from; default the folder of the launch.
        template: Whether {rank} and {job} are expanded in the result. Braces in what is put in front are doubled then,
            as only what the user wrote is a template.

    Raises:
        ConfigError: It is empty, or nobody knows that home folder. Names `key`.
        HostError: The folder of the launch is gone.
    """
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{key}: {text!r} is no path", hint="leave the key out, or name a file or folder")
    path = Path(text)
    if len(os.fsencode(text)) >= _PATH_MAX or any(len(os.fsencode(part)) > _NAME_MAX for part in path.parts):
        raise ConfigError(f"{key}: {text[:40]!r}… is too long for a path")
    if path.is_absolute():
        return path
    if text.startswith("~"):
        base, path = _home_of(path.parts[0], key), Path(*path.parts[1:])
    else:
        base = folder or launch_folder()
    return (Path(doubled_braces(str(base))) if template else base) / path


def _home_of(name: str, key: str) -> Path:
    """Return the home folder for `~` or `~NAME`. Raises ConfigError, which names `key`."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{key}: this host knows no home folder {name}",
            hint=f"write the folder out; ./{name} is a file of that name",
        ) from None


def doubled_braces(text: str) -> str:
    """Return a text that is no template in the form of one: {rank} and {job} are not expanded in it."""
    return text.replace("{", "{{").replace("}", "}}")


def claim_new_folder(wanted: Path) -> Path:
    """Make a folder that nobody else has: `wanted`, or the first of `wanted-2`, `wanted-3`, … that is not there yet.

    Of processes that ask for the same at the same time, each gets one of its own. Raises OSError.
    """
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if create_folder(folder):
            return folder
    raise AssertionError("numbers do not end")


def conf_folder() -> Path:
    """Return the folder of the shipped config: in a wheel below the package, in a checkout beside it."""
    here = Path(__file__).resolve().parent
    return next(c for c in (here / "conf", here.parent / "conf") if (c / "config.yaml").is_file())
