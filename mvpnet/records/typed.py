"""The files of a run folder as typed objects: manifest.json, result.json, stats.json.

Unknown keys are ignored and missing keys get their default, so that files of other versions can be read.
docs/records.md describes each field.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mvpnet.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """How a job ended."""

    how: str
    code: int | None = None
    """mvpnet's exit code; None while there is no end."""


@dataclass(frozen=True)
class MvpnetVersion:
    """Version of the mvpnet that ran a job."""

    version: str
    commit: str | None = None
    dirty: bool | None = None
    """Whether the checkout's sources differed from the commit."""


@dataclass(frozen=True)
class QemuVersion:
    """Version of a host's qemu."""

    path: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Software:
    """Versions of a job's programs on rank 0."""

    mvpnet: MvpnetVersion | None = None
    python: str | None = None
    executable: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    qemu: QemuVersion | None = None
    mpi: str | None = None


@dataclass(frozen=True)
class HostFacts:
    """Facts about a host, and the ranks on it."""

    ranks: str | None = None
    """A rank set, such as `0-3,7`."""
    kernel: str | None = None
    os: str | None = None
    machine: str | None = None
    cpu: str | None = None
    cpu_features: str | None = None
    cpus: int | None = None
    cpus_allowed: int | None = None
    memory_bytes: int | None = None
    python: str | None = None
    mpi: str | None = None
    qemu: QemuVersion | None = None


@dataclass(frozen=True)
class RankFacts:
    """Host of a rank, and the states of its guest."""

    host: str
    accel: str
    accel_why: str | None = None
    ssh_port: int | None = None
    states: tuple[tuple[str, float], ...] = ()
    """Each state with the time when the guest came into it, in seconds since 1970."""
    qemu: QemuVersion | None = None
    """Given only if it differs from rank 0's."""


@dataclass(frozen=True)
class InputFile:
    """An input of the run: a file, folder or device."""

    key: str
    ranks: str
    path: str | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    by: str | None = None
    """Source of the digest, or the reason why it is missing."""
    written: bool = False
    """Whether the guest wrote to it."""


@dataclass(frozen=True)
class Times:
    """Times at which the job entered each phase, in seconds since 1970."""

    begun: float | None = None
    prepared: float | None = None
    starting: float | None = None
    up: float | None = None
    running: float | None = None
    stopping: float | None = None
    ended: float | None = None


@dataclass(frozen=True)
class Restart:
    """The death of a guest that was restarted."""

    at: float | None = None
    how: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class GuestEnd:
    """How a guest ended."""

    rank: int
    host: str
    how: str
    phase: str | None = None
    """The last state before the end."""
    reason: str | None = None
    cause: str | None = None
    console: tuple[str, ...] = ()
    """The last lines of its console."""
    restarts: tuple[Restart, ...] = ()


@dataclass(frozen=True)
class Replays:
    """The run that a replay repeated."""

    run: str
    digest: str | None = None
    begun: float | None = None
    changed: tuple[str, ...] = ()
    """Inputs that had changed."""


@dataclass(frozen=True)
class Resumes:
    """The save that a job resumed."""

    save: str
    id: str | None = None
    saved_s: float | None = None
    job: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json: spec, environment, inputs and outcome of a run."""

    format: int
    status: str
    """`preparing`, `running`, `completed` or `refused`."""
    digest: str
    """SHA-256 of the spec, apart from run folder, job name, and how it was typed."""
    job: str | None = None
    typed: tuple[str, ...] = ()
    """The overrides, as typed."""
    recipe: str | None = None
    launch_folder: str | None = None
    replays: Replays | None = None
    resumes: Resumes | None = None
    software: Software = field(default_factory=Software)
    hosts: dict[str, HostFacts] = field(default_factory=dict)
    ranks: dict[int, RankFacts] = field(default_factory=dict)
    inputs: tuple[InputFile, ...] = ()
    batch_system: dict[str, str] = field(default_factory=dict)
    times: Times = field(default_factory=Times)
    verdict: Verdict | None = None
    """None while the job runs, and for a job that was killed."""
    guests: tuple[GuestEnd, ...] = ()
    left_out: tuple[str, ...] = ()
    """Keys out of which user names and passwords of URLs were taken."""


@dataclass(frozen=True)
class ResultTimes:
    """Times of the guests' start and of the job's end, and durations of its parts."""

    started: str | None = None
    ended: str | None = None
    boot_s: float | None = None
    app_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True)
class StepOutcome:
    """Outcome of a step of the app. A step that did not begin has no exit code."""

    name: str
    kind: str
    exit_code: int | None = None
    exit_codes: dict[str, int] = field(default_factory=dict)
    """By guest."""
    seconds: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """Content of result.json: how a job ended, and its app's metrics."""

    exit_code: int
    verdict: str | None = None
    digest: str | None = None
    repeat: int = 1
    times: ResultTimes = field(default_factory=ResultTimes)
    steps: tuple[StepOutcome, ...] = ()
    restarts: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RankCounters:
    """Traffic counters of a rank. docs/dataplane.md describes each counter."""

    frames_from_guest: int = 0
    bytes_from_guest: int = 0
    frames_to_guest: int = 0
    bytes_to_guest: int = 0
    frames_above_mtu: int = 0
    broadcast_frames: int = 0
    arp_replies: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    doorbells_rung: int = 0
    sleeps: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    """By reason."""
    restarts: int = 0
    compiled: bool = False


@dataclass(frozen=True)
class Counters:
    """Content of stats.json: the counters of all ranks at the end of the job."""

    ranks: tuple[RankCounters, ...] = ()
    traffic_bytes: dict[int, dict[int, int]] = field(default_factory=dict)
    """Unicast bytes, by the rank that sent them and the rank that they were for."""


def read_as(kind: type[T], content: Mapping[str, Any], where: str) -> T:
    """Return the content of a file as an object.

    Args:
        kind: One of the classes of this module.
        content: The content of the file, in JSON's types.
        where: The file's name for messages.

    Raises:
        ConfigError: A key that has no default is missing, or a value is of another type.
    """
    made: T = _value(kind, content, where)
    return made


def _made(kind: type[Any], content: Any, place: str) -> Any:
    if not isinstance(content, Mapping):
        raise _of_another_type(content, kind.__name__, place)
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        has_default = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        if one.name not in content and not has_default:
            raise ConfigError(f"{place}: is not whole: it has no {one.name}")
    known = {key: _value(kind_of, content[key], f"{place}: {key}") for key, kind_of in hints.items() if key in content}
    return kind(**known)


def _value(kind: Any, value: Any, place: str) -> Any:
    arguments, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin is types.UnionType:
        return None if value is None else _value(arguments[0], value, place)
    if dataclasses.is_dataclass(kind):
        return _made(typing.cast(type[Any], kind), value, place)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(
                _value(one, item, f"{place}[{i}]") for i, (one, item) in enumerate(zip(kinds, value, strict=True))
            )
    if origin is dict and isinstance(value, Mapping):
        return {_key(arguments[0], k, place): _value(arguments[1], item, f"{place}.{k}") for k, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise _of_another_type(value, str(getattr(kind, "__name__", kind)), place)


def _key(kind: type[Any], text: str, place: str) -> Any:
    """Return a key in its own type, because JSON has only texts as keys."""
    if kind is int and not text.isdecimal():
        raise _of_another_type(text, "rank", place)
    return kind(text)


def _of_another_type(value: Any, kind: str, place: str) -> ConfigError:
    return ConfigError(f"{place}: {value!r} is no {kind}", hint="the file was edited, or another program wrote it")
