"""The verb `completion`, and the answers to a shell that completes a command line."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from mvpnet.control.registry import find_jobs
from mvpnet.errors import MvpnetError

COMPLETE_VARIABLE = "_MVPNET_COMPLETE"  # click's own, made of the program's name
SHELLS = ("bash", "zsh", "fish")


class Words(click.types.StringParamType):
    """`[JOB] RANK …`, which are told apart by `choose`; completed from the jobs that run."""

    def __init__(self, takes_rank: bool = True) -> None:
        self._takes_rank = takes_rank

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        words = ctx.params.get(param.name or "") or ()
        return [CompletionItem(word) for word in candidates(words, self._takes_rank) if word.startswith(incomplete)]


def candidates(words: Sequence[str], takes_rank: bool) -> list[str]:
    """What may come next after these words: jobs by name and id, and ranks of the job that is meant."""
    jobs = [job.entry for job in find_jobs() if job.alive]
    ranks: list[str] = []
    if not words:
        if takes_rank and len(jobs) == 1:
            ranks = [str(rank) for rank in range(jobs[0].world_size)]
        return ranks + list(dict.fromkeys(job.name for job in jobs)) + [str(job.pid) for job in jobs]
    named = [job for job in jobs if words[-1] in (job.name, str(job.pid))]
    if takes_rank and len(words) == 1 and named:
        ranks = [str(rank) for rank in range(named[0].world_size)]
    return ranks


def complete(verbs: click.Group) -> int | None:
    """Answer a shell that completes; None when that is not what we were started for."""
    asked = os.environ.get(COMPLETE_VARIABLE)
    if asked is None:
        return None
    try:
        return shell_complete(verbs, {}, "mvpnet", COMPLETE_VARIABLE, asked)
    except MvpnetError:  # say a registry that is not ours: there is nothing to offer
        return 1


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete verbs, options, jobs and ranks.

    \b
    bash   mvpnet completion bash > ~/.local/share/bash-completion/completions/mvpnet
    zsh    mvpnet completion zsh > ~/.zfunc/_mvpnet       (a folder in $fpath)
    fish   mvpnet completion fish > ~/.config/fish/completions/mvpnet.fish
    """
    kind = get_completion_class(shell)
    assert kind and context.parent
    click.echo(kind(context.parent.command, {}, "mvpnet", COMPLETE_VARIABLE).source())
