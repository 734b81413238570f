"""The verb `bench`: `mpirun -n RANKS mvpnet bench [OPTIONS] [WORKLOAD ...]`.

As with a job, rank 0 alone reads the command line, and tells the others what to take part in until it sends them
the exit code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypedDict

import click

from mvpnet.bench.report import tables
from mvpnet.bench.workloads import PING_FRAME_BYTES, WORKLOADS, Plan, Result
from mvpnet.config.overrides import renamed_words
from mvpnet.dataplane.frame import ETHERNET_HEADER_BYTES, MAX_FRAME_BYTES
from mvpnet.errors import ConfigError
from mvpnet.logs import say
from mvpnet.mpi.launch import Launch
from mvpnet.mpi.world import World
from mvpnet.spec.aliases import OldNames
from mvpnet.spec.schema import Net, NetKind

# The keys of `net` that tune the data path.
TUNING = tuple(
    f.name for f in dataclasses.fields(Net) if f.name.endswith(("_bytes", "_us", "_ms", "credits", "compiled"))
)
_FLAGS = {"true": True, "false": False}


@click.command()
@click.option(
    "--link",
    "kinds",
    multiple=True,
    type=click.Choice([kind.name for kind in NetKind]),
    default=["stream"],
    show_default=True,
    help="kind of link, as net.kind of a job; may be given twice",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(ETHERNET_HEADER_BYTES, MAX_FRAME_BYTES),
    default=[64, 1514, 9014],
    show_default=True,
    metavar="BYTES",
    help="frame size of floods; may be repeated",
)
@click.option(
    "--gap",
    "gaps_ms",
    multiple=True,
    type=click.FloatRange(min=0),
    default=[0.0, 1.0, 100.0],
    show_default=True,
    metavar="MS",
    help=f"time between two round trips (of {PING_FRAME_BYTES}-byte frames); may be repeated",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.01), default=2.0, show_default=True, help="time for each measurement"
)
@click.option("--from", "source", type=click.IntRange(min=0), default=0, show_default=True, help="rank that sends")
@click.option("--to", type=click.IntRange(min=0), help="rank that it sends to  [default: the last]")
@click.option(
    "--set",
    "tuning",
    multiple=True,
    metavar="net.KEY=VALUE",
    help=f"tuning as for a job: {', '.join(TUNING)}",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.argument("workloads", nargs=-1, type=click.Choice(WORKLOADS), metavar="[WORKLOAD]...")
@click.pass_obj
def bench(
    launch: Launch | None,
    kinds: tuple[str, ...],
    sizes: tuple[int, ...],
    gaps_ms: tuple[float, ...],
    seconds: float,
    source: int,
    to: int | None,
    tuning: tuple[str, ...],
    as_json: bool,
    workloads: tuple[str, ...],
) -> None:
    """Measure the network between the ranks of a launch, without qemu: mpirun -n RANKS mvpnet bench

    WORKLOAD is flood, roundtrip (both between two ranks), all-to-all, broadcast; by default all of them. See
    docs/bench.md for what the figures mean.
    """
    if launch is None or launch.world.size == 1:
        raise ConfigError(
            "bench measures between ranks, and there is one alone", hint="mpirun -n 2 mvpnet bench, or more ranks"
        )
    size = launch.world.size
    ends = {"--from": source, "--to": size - 1 if to is None else to}
    for option, rank in ends.items():
        if rank >= size:
            raise ConfigError(f"{option} {rank}: there are ranks 0 to {size - 1} in this launch")
    if ends["--from"] == ends["--to"]:
        raise ConfigError(f"--from and --to are both rank {source}", hint="a guest does not send to itself")
    nets = tuple(dataclasses.replace(Net(), kind=NetKind[kind], **tuned(tuning)) for kind in dict.fromkeys(kinds))
    chosen = tuple(name for name in WORKLOADS if name in workloads) or WORKLOADS
    plan = Plan(chosen, nets, sizes, gaps_ms, seconds, ends["--from"], ends["--to"])
    from mvpnet.bench import session  # starts MPI, which --help does without

    results, facts = session.run(launch, plan), launch_facts(launch.world, session.mpi_library())
    click.echo(document(facts, results) if as_json else text(facts, results), nl=as_json)


def tuned(settings: Sequence[str]) -> dict[str, Any]:
    """`net.KEY=VALUE` as changes of Net. Raises ConfigError for a key that does not tune, or a value that is none."""
    changes: dict[str, Any] = {}
    old_names = OldNames()
    for setting in renamed_words(settings, old_names):
        key, equals, value = setting.partition("=")
        name = key.removeprefix("net.")
        if not equals or name not in TUNING or not key.startswith("net."):
            raise ConfigError(f"--set {setting}: not net.KEY=VALUE with one of {', '.join(TUNING)}")
        if isinstance(getattr(Net(), name), bool):
            if value not in _FLAGS:
                raise ConfigError(f"--set {setting}: {key} is to be true or false")
            changes[name] = _FLAGS[value]
            continue
        least = 0 if name.endswith("_us") else 1
        if not value.isdecimal() or int(value) < least:
            raise ConfigError(f"--set {setting}: {key} is to be a whole number, {least} or more")
        changes[name] = int(value)
    if warning := old_names.warning():
        say(warning)
    return changes


class LaunchFacts(TypedDict):
    """What the figures were measured on."""

    ranks: int
    hosts: list[str]
    mpi: str


def launch_facts(world: World, mpi: str) -> LaunchFacts:
    return {"ranks": world.size, "hosts": world.hosts, "mpi": mpi}


def document(facts: LaunchFacts, results: list[Result]) -> str:
    return json.dumps({**facts, "results": results}, indent=1)


def text(facts: LaunchFacts, results: list[Result]) -> str:
    hosts = len(set(facts["hosts"]))
    return f"{facts['ranks']} ranks on {hosts} host{'s' * (hosts != 1)}, {facts['mpi']}\n\n{tables(results)}"
