"""The program: a verb, or a job. The only place that exits.

mvpnet VERB …                       see `cli`
mpirun -n 4 mvpnet bench …          this verb all ranks run, and `replay` and `doctor`
mpirun -n 4 mvpnet GROUP=OPTION …   a job: rank 0 composes it, all ranks run it
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from mvpnet import logs
from mvpnet.errors import MpiError, MvpnetError, SplitWorldError
from mvpnet.mpi.launcher import launched_rank, launched_size
from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals, die_with_parent
from mvpnet.spec.model import JobSpec

_INSPECTING = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i")


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    logs.silence()
    try:
        inspecting = any(word.split("=")[0] in _INSPECTING for word in argv) and launched_size(os.environ) is None
        if argv[:1] == ["bench"] and not inspecting:
            return launch(argv, lead_verb, follow_bench)
        if argv[:1] == ["replay"] and not inspecting:
            return launch(argv, lead_verb, follow)
        if argv[:1] == ["doctor"] and not inspecting:
            return examine(argv)
        completes = "_MVPNET_COMPLETE" in os.environ  # set by what `mvpnet completion` printed
        if completes or (argv and (argv[0].isidentifier() or argv == ["--version"])):
            from mvpnet.cli import main

            return main.run(argv)
        if inspecting:
            return inspect(argv)
        return launch(argv, lead, follow)
    except MvpnetError as error:
        return 0 if _is_repeated(error) else report_error(error)


def inspect(argv: list[str]) -> int:
    """Hydra's `--help`, `--cfg job` and the like need no MPI."""
    from mvpnet.config import compose

    return _worst(compose.run(argv, 1, lambda spec: 0, report_error))


def launch(
    argv: list[str],
    lead: Callable[[World, StopSignals, list[str]], int],
    follow: Callable[[World, StopSignals], int],
) -> int:
    """Run what `argv` asks for on all ranks of this launch; the same exit code on every rank.

    An error that nobody foresaw on any rank prints its traceback and ends all ranks.
    """
    signals = StopSignals()
    signals.install()
    if launched_size(os.environ) is not None:
        die_with_parent(signal.SIGTERM)  # Open MPI's ranks would outlive a killed mpirun
    world = World.start()
    try:
        code = lead(world, signals, argv) if world.rank == 0 else follow(world, signals)
        signals.over()
        return code
    except BaseException:
        failed = f"mvpnet: rank {world.rank} on {world.hosts[world.rank]} failed:\n{traceback.format_exc()}"
        logs.write_quietly(sys.stderr, failed.encode())
        world.abort(MvpnetError.exit_code)
        raise


def examine(argv: list[str]) -> int:
    """`doctor` looks at the ranks' hosts together; without MPI at this one, and says what keeps MPI from starting."""
    try:
        return launch(argv, lead_verb, follow_doctor)
    except MpiError as error:
        from mvpnet.cli import main

        return 0 if _is_repeated(error) else main.run(argv, error)


def lead(world: World, signals: StopSignals, argv: list[str]) -> int:
    """Rank 0: compose with Hydra, run each job together with the others, then send them home."""
    from mvpnet.config import compose
    from mvpnet.job import lifecycle
    from mvpnet.job.resume import is_resume
    from mvpnet.records.result import jobs_ran

    def run_job(spec: JobSpec) -> int:
        try:
            code = lifecycle.lead(world, signals, spec)
        except MvpnetError as error:
            if not signals.received:
                raise
            code = report_error(error)
        if signals.received:
            codes_of_stopped.append(code)
            raise compose.SweepStopped
        return code

    codes_of_stopped: list[int] = []
    try:
        world.refuse_mixed_versions()
        codes = (
            [resume(world, signals, argv)] if is_resume(argv) else compose.run(argv, world.size, run_job, report_error)
        )
    except MvpnetError as error:
        codes = [report_error(error)]
    code = _worst(codes + codes_of_stopped)
    if len(codes) > 1:
        logs.write_quietly(sys.stderr, f"mvpnet: {jobs_ran(len(codes), sum(1 for one in codes if one))}\n".encode())
    world.broadcast(code)
    return code


def resume(world: World, signals: StopSignals, argv: list[str]) -> int:
    """Rank 0 of a job that goes on from a save. Raises MvpnetError."""
    from mvpnet.job import lifecycle, messages
    from mvpnet.job.resume import saved_job

    with signals.raising():
        found = saved_job(argv, world.size)
    return lifecycle.lead(
        world, signals, found.spec, messages.Provenance(resumes=found.record, resume=found.resume, keys=found.keys)
    )


def follow(world: World, signals: StopSignals) -> int:
    """The other ranks: take part in every job that rank 0 announces, until it sends the exit code."""
    from mvpnet.job import lifecycle

    while not isinstance(order := world.broadcast(), int):
        lifecycle.follow(world, signals, order)
    return order


def lead_verb(world: World, signals: StopSignals, argv: list[str]) -> int:
    """Rank 0 of a verb that all ranks run."""
    from mvpnet.cli import main
    from mvpnet.mpi.launch import Launch

    try:
        if argv[0] != "doctor":  # which tells it in its own way
            world.refuse_mixed_versions()
        code = main.run(argv, Launch(world, signals))
    except MvpnetError as error:
        code = report_error(error)
    world.broadcast(code)
    return code


def follow_doctor(world: World, signals: StopSignals) -> int:
    from mvpnet.doctor import survey

    return survey.follow(world)


def follow_bench(world: World, signals: StopSignals) -> int:
    from mvpnet.bench.session import follow

    return follow(world, signals)


def report_error(error: MvpnetError) -> int:
    """Say what was wrong, plainly; the exit code that it means."""
    logs.write_quietly(sys.stderr, f"mvpnet: {error}\n".encode())
    return error.exit_code


def _is_repeated(error: MvpnetError) -> bool:
    """Whether it is what every rank finds and the launcher's first one tells; the others end well, as launchers kill
    all ranks when one fails, and the first would not come to tell it."""
    return isinstance(error, SplitWorldError) and launched_rank(os.environ) not in (None, 0)


def _worst(codes: list[int]) -> int:
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    main()
