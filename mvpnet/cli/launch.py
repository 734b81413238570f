"""From the command line to what runs: a verb, an inspection, or a program that all ranks of a launch run.

A thousand ranks import this from one shared file system: what only some of them need is imported once it is known
who does.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from mvpnet.cli.outcome import is_repeated
from mvpnet.errors import MpiError, MvpnetError
from mvpnet.logs import write_quietly
from mvpnet.mpi.launcher import launched_rank, launched_size
from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals, die_with_parent
from mvpnet.util.encoding import encoded
from mvpnet.util.hydra_options import is_inspecting

_OF_ALL_RANKS = ("bench", "replay", "doctor")


class Asked(Enum):
    """What a command line asks for."""

    job = auto()
    bench = auto()
    replay = auto()
    doctor = auto()
    verb = auto()
    inspection = auto()
    nothing = auto()  # what another rank prints for all


def asked_for(argv: list[str], environ: Mapping[str, str]) -> Asked:
    """Tell jobs, verbs that all ranks run, other verbs, and inspection apart.

    Inspection needs no MPI, also when a launcher starts it: its first rank prints, and the others have nothing to do.
    """
    verb = argv[0] if argv and argv[0].isidentifier() else None
    inspecting = is_inspecting(argv)
    if "_MVPNET_COMPLETE" in environ:  # set by what `mvpnet completion` printed
        return Asked.verb
    if verb in _OF_ALL_RANKS and not inspecting:
        return Asked[verb]
    prints = inspecting if verb is None or verb in _OF_ALL_RANKS else verb in ("help", "completion")
    if (prints or argv == ["--version"]) and launched_rank(environ) not in (None, 0):
        return Asked.nothing
    if verb or argv == ["--version"]:
        return Asked.verb
    return Asked.inspection if inspecting else Asked.job


@dataclass(frozen=True)
class Program:
    """What the ranks of a launch run, as `module:function`: imported after MPI has started, by who runs it."""

    lead: str  # rank 0's, of a World, StopSignals and the command line
    follow: str  # the others', of a World and StopSignals


JOB = Program("mvpnet.cli.lead:lead", "mvpnet.cli.follow:follow")
BENCH = Program("mvpnet.cli.main:lead", "mvpnet.bench.session:follow")
REPLAY = Program("mvpnet.cli.main:lead", "mvpnet.cli.follow:follow")
DOCTOR = Program("mvpnet.cli.main:lead", "mvpnet.doctor.survey:follow")


def launch(program: Program, argv: list[str]) -> int:
    """Run a program on all ranks of this launch; the same exit code on every rank.

    An error that nobody foresaw on any rank prints its traceback and ends all ranks.
    """
    signals = StopSignals()
    signals.install()
    if launched_size(os.environ) is not None:
        die_with_parent(signal.SIGTERM)  # Open MPI's ranks would outlive a killed mpirun
    world = World.start()
    try:
        code = _load(program.lead)(world, signals, argv) if world.rank == 0 else _load(program.follow)(world, signals)
        signals.over()
        return code
    except BaseException:
        failed = f"mvpnet: rank {world.rank} on {world.hosts[world.rank]} failed:\n{traceback.format_exc()}"
        write_quietly(sys.stderr, encoded(failed))
        world.abort(MvpnetError.exit_code)
        raise


def examine(argv: list[str]) -> int:
    """`doctor` looks at the ranks' hosts together; without MPI at this one, and says what keeps MPI from starting."""
    try:
        return launch(DOCTOR, argv)
    except MpiError as error:
        return 0 if is_repeated(error) else run_verb(argv, error)


def run_verb(argv: list[str], without_mpi: MpiError | None = None) -> int:
    """Run a verb in this process alone. Raises MvpnetError."""
    return _load("mvpnet.cli.main:run")(argv, without_mpi)


def inspect(argv: list[str]) -> int:
    """Print what Hydra's options ask for. Raises ConfigError."""
    return _load("mvpnet.cli.inspect:inspect")(argv)


def _load(name: str) -> Callable[..., int]:
    module, _, function = name.partition(":")
    found: Callable[..., int] = getattr(importlib.import_module(module), function)
    return found
