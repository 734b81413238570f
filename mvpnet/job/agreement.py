"""Agreement of all ranks before any guest starts: shared resources of hosts, and errors of preparation."""

from __future__ import annotations

from contextlib import ExitStack

from mvpnet.dataplane.address import host_name
from mvpnet.errors import HostError, MvpnetError
from mvpnet.host.finding import Level
from mvpnet.host.resources import resource_findings, resources, warning_lines
from mvpnet.job.messages import JobOrder, RankError
from mvpnet.job.prepare import PreparedRank, prepare
from mvpnet.logs import rank_logs, say
from mvpnet.mpi.world import World
from mvpnet.paths import RankLogs, scratch_base
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.model import RankSpec
from mvpnet.util.files import make_private
from mvpnet.util.text import count


def short_here(world: World, spec: RankSpec) -> RankError | None:
    """Return why this rank's host lacks resources for all its ranks together; None if it has enough.

    Rank 0 warns of resources that may become short.
    """
    asked = world.allgather(resources(spec, world.hosts[world.rank]))
    if world.rank == 0:
        for line in warning_lines(resource_findings(asked)):
            say(line)
    mine = resource_findings(one for one in asked if one.host == world.hosts[world.rank])
    failed = next((finding for finding in mine if finding.level is Level.failure), None)
    return RankError(HostError.exit_code, f"{failed.check}: {failed.seen}", failed.todo) if failed else None


def prepare_here(
    world: World, signals: StopSignals, spec: RankSpec, order: JobOrder, logs: RankLogs, stack: ExitStack
) -> tuple[PreparedRank | None, RankError | None]:
    """Prepare this rank; return the result or the error. Errors that other ranks must know of are not raised."""
    try:
        with signals.raising():
            make_private(logs.folder)
            stack.enter_context(rank_logs(world.rank, spec.logging, logs))
            most = world.most_ranks_on_one_host()
            return prepare(spec, order, logs, most, stack, say), None
    except MvpnetError as error:
        return None, RankError(error.exit_code, error.message, error.hint)
    except OSError as error:
        where = f"scratch is {scratch_base(spec.scratch_dir)}, logs go to {logs.folder}"
        hint = f"is a disk full, or a folder not writable? {where}"
        return None, RankError(HostError.exit_code, str(error), hint)


def joined_error(problems: dict[int, RankError]) -> MvpnetError:
    """Join the errors of several ranks into one: the first in full, with the ranks that have the same."""
    first = next(iter(problems.values()))
    same = [rank for rank, problem in problems.items() if problem == first]
    others = len(problems) - len(same)
    ranks = f"{host_name(same[0])}" if len(same) == 1 else f"{len(same)} ranks, {host_name(same[0])} first"
    more = f"\n  and {count(others, 'more rank')} failed in other ways" if others else ""
    return MvpnetError(f"{first.message}\n  on: {ranks}{more}", hint=first.hint, exit_code=first.exit_code)
