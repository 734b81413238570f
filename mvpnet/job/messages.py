"""Messages between ranks about a job, as types.

`JobOrder` and `RankError` are pickled by MPI's own collectives, before any guest runs. All others travel as control
messages of the data path while the job runs: `encode` and `decode` are the only places that know their format, a JSON
object with the name of its type under "is". Ranks of one job are of the same version of mvpnet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.control import rank_messages
from mvpnet.control.rank_messages import ControlReply, ControlRequest
from mvpnet.guest.states import Ending
from mvpnet.snapshot import restore
from mvpnet.spec.model import JobSpec
from mvpnet.ssh import KeyPair
from mvpnet.util.tagged_json import TaggedJson


@dataclass(frozen=True)
class JobOrder:
    """Rank 0's order for a job, sent to all ranks."""

    spec: JobSpec
    keys: KeyPair
    facts: SeedFacts
    asked_digest: str  # of the spec before what it names was pinned
    resume: restore.Resume | None = None  # the save that all guests resume


@dataclass(frozen=True)
class RankError:
    """An error of one rank for the others; exceptions themselves may not survive pickling."""

    exit_code: int
    message: str
    hint: str | None


@dataclass(frozen=True)
class Provenance:
    """Provenance of a replayed or resumed job."""

    replays: Mapping[str, Any] | None = None  # the manifest's entry about the repeated run
    resumes: Mapping[str, Any] | None = None  # the manifest's entry about the resumed save
    resume: restore.Resume | None = None
    keys: KeyPair | None = None  # of the save's guests


_FAILURES = tuple(end.value for end in (Ending.crashed, Ending.failed_to_start, Ending.killed, Ending.panicked))


@dataclass(frozen=True)
class GuestReport:
    """A rank's report about the end of its guest."""

    rank: int
    host: str
    how: str  # powered_off, stopped, killed, panicked, crashed, failed_to_start (guest.states.Ending)
    phase: str  # the last state before the end
    reason: str
    cause: str | None = None
    console: list[str] = field(default_factory=list)
    restarts: list[dict[str, Any]] = field(default_factory=list)  # at, how and reason of each death before

    @property
    def is_failure(self) -> bool:
        """Whether the end was neither the guest's own shutdown nor requested."""
        return self.how in _FAILURES


# -- from a rank to rank 0 ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateChanged:
    """The rank's guest is in another state."""

    state: str  # a value of guest.states.GuestState


@dataclass(frozen=True)
class GuestEnded:
    """The rank's guest has ended and will not be restarted."""

    report: GuestReport


@dataclass(frozen=True)
class Restarting:
    """The rank's guest died, and is about to be started again."""

    number: int  # 1 for the first restart


@dataclass(frozen=True)
class StopRequested:
    """The job is to stop."""

    why: str
    code: int  # mvpnet's exit code
    by_signal: bool = False


@dataclass(frozen=True)
class Heartbeat:
    """The sender is alive; from rank 0 to all, and from all to rank 0."""


# -- from rank 0 to all ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """All guests are up."""


@dataclass(frozen=True)
class Resume:
    """Let the guests continue: the saved memory of all of them is loaded."""


@dataclass(frozen=True)
class Stop:
    """Stop the guest."""


JobMessage = (
    StateChanged
    | GuestEnded
    | Restarting
    | StopRequested
    | Heartbeat
    | Run
    | Resume
    | Stop
    | ControlRequest
    | ControlReply
)

_OWN = (GuestReport, StateChanged, GuestEnded, Restarting, StopRequested, Heartbeat, Run, Resume, Stop)
_JSON = TaggedJson((*_OWN, *rank_messages.TYPES), nested=("what", "report"))


def encode(message: JobMessage) -> bytes:
    """Write a message as the payload of a control message."""
    return _JSON.encode(message)


def decode(payload: bytes) -> JobMessage:
    """Read what `encode` wrote. Raises KeyError for a message of another version."""
    return cast(JobMessage, _JSON.decode(payload))
