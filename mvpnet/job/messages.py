"""What ranks tell each other about a job, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.snapshot.restore import Resume
from mvpnet.spec.model import JobSpec
from mvpnet.ssh import KeyPair


@dataclass(frozen=True)
class JobOrder:
    """What rank 0 announces to all."""

    spec: JobSpec
    keys: KeyPair
    facts: SeedFacts
    asked_digest: str  # of the spec before what it names was pinned
    resume: Resume | None = None  # the save that all guests go on from


@dataclass(frozen=True)
class RankError:
    """An error of one rank's, told to the others: errors themselves need not survive pickling."""

    exit_code: int
    message: str
    hint: str | None


@dataclass(frozen=True)
class Provenance:
    """Where a job comes from that its own command line does not say all of."""

    replays: Mapping[str, Any] | None = None  # what the manifest is to say of the run it repeats
    resumes: Mapping[str, Any] | None = None  # and of the save it goes on from
    resume: Resume | None = None
    keys: KeyPair | None = None  # of the save's guests
