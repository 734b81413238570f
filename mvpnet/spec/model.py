"""The resolved intent of a job and of one rank: frozen, plain, without I/O.

`JobSpec` is what rank 0 resolved; `JobSpec.for_rank` gives the `RankSpec` in which the rank overrides are merged.
Also here: how sizes ("2G") and rank sets ("0,3,7-9", "even", "last") are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mvpnet.errors import ConfigError, RankSetError
from mvpnet.spec.schema import (
    Boot,
    CloudInit,
    Config,
    Image,
    ImageKind,
    Logging,
    Net,
    Qemu,
    Seed,
    Shutdown,
    Vm,
    WaitFor,
)

MAX_WORLD_SIZE = 2**24 - 3  # 10.0.0.0, 10.255.255.254 (shutdown) and 10.255.255.255 (broadcast) are no guest's

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

T = TypeVar("T")


def parse_size(text: str, key: str, *, bare: str = "") -> int:
    """The bytes in a size such as 512M, 4G or 1.5G (powers of 1024); `bare` is the unit of a number without one.

    Raises ConfigError, naming `key`, for anything else and for sizes that are not whole bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{key}: {text!r} is not a size", hint="write a number and K, M, G or T, as in 512M or 4G")
    size = float(match[1]) * _SCALE[match[2].upper() or ("" if match[3] else bare)]
    if size != int(size):
        raise ConfigError(f"{key}: {text!r} is not a whole number of bytes")
    return int(size)


@dataclass(frozen=True)
class RankSet:
    """Some ranks of a world, as written: comma-separated numbers, ranges a-b and a-, and all, even, odd, last."""

    text: str
    ranges: tuple[tuple[int, int], ...]
    words: frozenset[str]

    WORDS = ("all", "even", "odd", "last")

    @classmethod
    def parse(cls, text: str, key: str = "rank set") -> RankSet:
        """Raises RankSetError, naming `key`, when a part is no number, range or word."""
        ranges: list[tuple[int, int]] = []
        words: set[str] = set()
        for part in (piece.strip() for piece in text.split(",")):
            if part in cls.WORDS:
                words.add(part)
            elif match := re.fullmatch(r"([0-9]+)(-([0-9]+)?)?", part):
                first = int(match[1])
                last = int(match[3]) if match[3] else MAX_WORLD_SIZE - 1 if match[2] else first
                if last < first:
                    raise RankSetError(f"{key}: {part!r} runs backwards in rank set {text!r}")
                ranges.append((first, last))
            else:
                raise RankSetError(
                    f"{key}: {part!r} is no rank in rank set {text!r}",
                    hint="a rank set is numbers, ranges and words, commas between: 0,3,7-9,20- or even, odd, last, all",
                )
        return cls(text, tuple(ranges), frozenset(words))

    def holds(self, rank: int, world_size: int) -> bool:
        return (
            "all" in self.words
            or ("even" in self.words and rank % 2 == 0)
            or ("odd" in self.words and rank % 2 == 1)
            or ("last" in self.words and rank == world_size - 1)
            or any(first <= rank <= last for first, last in self.ranges)
        )

    def is_empty_in(self, world_size: int) -> bool:
        """Whether no rank of a world of this size is in it."""
        named = "all" in self.words or "even" in self.words or "last" in self.words
        return not (
            named or ("odd" in self.words and world_size > 1) or any(first < world_size for first, _ in self.ranges)
        )


def runs_of(ranks: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending ranks as runs of the first and the last: 0, 1, 2, 5 → (0, 2), (5, 5)."""
    runs: list[tuple[int, int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], rank
        else:
            runs.append((rank, rank))
    return runs


@dataclass(frozen=True)
class Override:
    """One named rank override: what it changes, and where. `changes` holds only the keys that were given."""

    name: str
    on: RankSet
    changes: Mapping[str, Any]  # section → key → typed value


@dataclass(frozen=True)
class RankSpec:
    """Everything that one rank is asked to do."""

    rank: int
    world_size: int
    job_name: str
    run_dir: Path
    scratch_dir: str | None
    image: Image
    vm: Vm
    qemu: Qemu
    net: Net
    cloud_init: CloudInit
    logging: Logging
    boot: Boot
    shutdown: Shutdown

    @property
    def makes_seed(self) -> bool:
        """Whether mvpnet makes this guest a cloud-init seed. A ready one, cloud_init.path, takes its place."""
        asked = self.cloud_init.seed
        by_image = self.image.kind in (ImageKind.cloud, ImageKind.debian)
        return self.cloud_init.path is None and (asked is Seed.make or (asked is Seed.auto and by_image))


@dataclass(frozen=True)
class JobSpec:
    """Everything that a job was asked to do, resolved on rank 0 and the same on every rank."""

    world_size: int
    run_dir: Path
    config: Config
    overrides: tuple[Override, ...] = ()
    typed: tuple[str, ...] = ()  # the command line's overrides, as typed
    recipe: Path | None = None  # the file of the recipe that was asked for
    repeat: int = 1  # which of a sweep's repeats of this spec it is

    @property
    def name(self) -> str:
        return self.config.job.name

    def for_rank(self, rank: int) -> RankSpec:
        config = self.config
        for override in self.overrides:
            if override.on.holds(rank, self.world_size):
                config = changed(config, override.changes)
        return RankSpec(
            rank=rank,
            world_size=self.world_size,
            job_name=self.name,
            run_dir=self.run_dir,
            scratch_dir=config.job.scratch_dir,
            image=config.image,
            vm=config.vm,
            qemu=config.qemu,
            net=config.net,
            cloud_init=config.cloud_init,
            logging=config.logging,
            boot=config.boot,
            shutdown=config.shutdown,
        )

    def warnings(self) -> list[str]:
        """What was asked for and has no effect, or is too little."""
        found = [
            f"ranks.{o.name}.on: no rank of this world of {self.world_size} is in {o.on.text!r}; nothing is overridden"
            for o in self.overrides
            if o.on.is_empty_in(self.world_size)
        ]
        seed_keys = ", ".join(_changed_keys(self.config.cloud_init, CloudInit(), apart=("path", "seed", "validate")))
        if seed_keys and not any(self.for_rank(rank).makes_seed for rank in range(self.world_size)):
            found.append(
                f"cloud_init: mvpnet makes no guest a seed that {seed_keys} could go into; see cloud_init.seed"
            )
        least = self.config.recipe.ranks
        if least and self.world_size < least:
            found.append(f"this recipe is made for {least} ranks, and there are {self.world_size}: mpirun -n {least}")
        return found

    def digest(self) -> str:
        """SHA-256 of what was asked for, apart from where the run is kept: equal specs are the same experiment."""
        return digest_of(plain(self))


def digest_of(plain_spec: Mapping[str, Any]) -> str:
    """`JobSpec.digest` of a spec as `plain` gives it, also of one that has not all of today's keys."""
    asked = {key: value for key, value in plain_spec.items() if key not in ("run_dir", "typed", "recipe", "repeat")}
    config = {key: value for key, value in asked["config"].items() if key not in ("sweep", "recipe")}
    # world_size has job.ranks
    config["job"] = {key: value for key, value in config["job"].items() if key not in ("name", "ranks")}
    return hashlib.sha256(json.dumps({**asked, "config": config}, sort_keys=True).encode()).hexdigest()


def changed(section: T, changes: Mapping[str, Any]) -> T:
    """A copy of a dataclass with some fields replaced; nested dataclasses and dicts are merged."""
    new: dict[str, Any] = {}
    for key, value in changes.items():
        old = getattr(section, key)
        if dataclasses.is_dataclass(old) and isinstance(value, Mapping):
            new[key] = changed(old, value)
        elif isinstance(old, dict) and isinstance(value, Mapping):
            new[key] = {**old, **value}
        else:
            new[key] = value
    return dataclasses.replace(section, **new)  # type: ignore[type-var]


def _changed_keys(section: Any, default: Any, apart: tuple[str, ...]) -> list[str]:
    names = (f.name for f in dataclasses.fields(section) if f.name not in apart)
    return [name for name in names if getattr(section, name) != getattr(default, name)]


def plain(value: Any) -> Any:
    """The same in JSON's types: dataclasses as dicts, enums by name, paths and rank sets as written."""
    if isinstance(value, RankSet):
        return value.text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def check_job(spec: JobSpec) -> None:
    """Refuse what cannot work whatever the host. Raises ConfigError naming the key."""
    if not 1 <= spec.world_size <= MAX_WORLD_SIZE:
        raise ConfigError(f"a world of {spec.world_size} ranks does not fit: at most {MAX_WORLD_SIZE} have addresses")
    if not _JOB_NAME.fullmatch(spec.name):
        raise ConfigError(
            f"job.name: {spec.name!r} cannot be used in file names",
            hint="letters, digits, dot, dash and underscore, at most 63, a letter or digit first",
        )
    _at_least("sweep.repeat", spec.config.sweep.repeat, 1)
    _check_sections("", spec.config)
    for override in spec.overrides:
        _check_sections(f"ranks.{override.name}.", changed(spec.config, override.changes))


def _check_sections(prefix: str, config: Config) -> None:
    if parse_size(config.vm.memory, f"{prefix}vm.memory", bare="M") < 2**20:
        raise ConfigError(f"{prefix}vm.memory: {config.vm.memory!r} is less than 1M")
    parse_size(config.logging.recent, f"{prefix}logging.recent")
    _at_least(f"{prefix}vm.cpus", config.vm.cpus, 1)
    _at_least(f"{prefix}vm.restart", config.vm.restart, 0)
    _at_least(f"{prefix}boot.timeout_s", config.boot.timeout_s, 1)
    _at_least(f"{prefix}qemu.answer_timeout_s", config.qemu.answer_timeout_s, 0.1)
    _at_least(f"{prefix}shutdown.powerdown_s", config.shutdown.powerdown_s, 0)
    _at_least(f"{prefix}shutdown.term_s", config.shutdown.term_s, 0)
    if config.boot.wait_for is WaitFor.cloud_init and config.image.kind is ImageKind.tiny:
        raise ConfigError(
            f"{prefix}boot.wait_for: there is no cloud-init in the tiny guest",
            hint="boot.wait_for=ssh, or a cloud image such as image=debian12-built",
        )
    if not 68 <= config.net.mtu <= 65521:  # RFC 791's least; the most that qemu's stream netdev carried (FACTS)
        raise ConfigError(f"{prefix}net.mtu: {config.net.mtu} is not between 68 and 65521 bytes")
    # a read from a datagram link needs room for two of the longest frames (dataplane.frame.MAX_FRAME_BYTES)
    _at_least(f"{prefix}net.chunk_bytes", config.net.chunk_bytes, 140_000)
    _at_least(f"{prefix}net.credits", config.net.credits, 1)
    for key in ("peer_queue_bytes", "queue_bytes", "guest_queue_bytes", "patience_ms", "nap_ms"):
        _at_least(f"{prefix}net.{key}", getattr(config.net, key), 1)
    for key in ("spin_us", "gather_us"):  # 0: never
        _at_least(f"{prefix}net.{key}", getattr(config.net, key), 0)
    if config.net.sample_s:  # 0: never
        _at_least(f"{prefix}net.sample_s", config.net.sample_s, 0.01)
    _at_least(f"{prefix}logging.digest_s", config.logging.digest_s, 0)
    if not 1 <= config.net.ssh_port <= 65535:
        raise ConfigError(f"{prefix}net.ssh_port: {config.net.ssh_port} is no TCP port")
    if config.cloud_init.proxy and urlsplit(config.cloud_init.proxy).password is not None:
        raise ConfigError(
            f"{prefix}cloud_init.proxy: has a password, which the run folder would tell",
            hint="set http_proxy and https_proxy in mpirun's environment, and cloud_init.proxy=env; "
            "what Hydra wrote into .hydra in the run folder has the password in it already",
        )
    for key, level in [
        ("level", config.logging.level),
        ("stderr_level", config.logging.stderr_level),
        *((f"levels.{part}", level) for part, level in config.logging.levels.items()),
    ]:
        if level not in LOG_LEVELS:
            raise ConfigError(f"{prefix}logging.{key}: {level!r} is no level", hint=f"one of {', '.join(LOG_LEVELS)}")


LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")


def _at_least(key: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"{key}: {value:g} is less than {least:g}")
