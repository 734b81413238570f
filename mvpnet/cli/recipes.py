"""`mvpnet recipes`: what each recipe does, and what it was last proven to do. Facts only; nothing is composed.

A recipe says this of itself under `recipe` (schema.Recipe), in its own file: shipped ones, and those of the user's own
folders, of which the first of a name wins as it does for a job.
"""

from __future__ import annotations

import json

import click
from rich import box
from rich.table import Table

from mvpnet.config.recipes import Described, described
from mvpnet.spec.schema import Proof, Recipe
from mvpnet.util.tables import table_text


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON: a list with an object for each recipe")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
def recipes(as_json: bool, config_dir: str | None) -> None:
    """List the recipes: what each does, and what it was last proven to do. mpirun -n RANKS mvpnet recipe=NAME"""
    listed = described(config_dir)
    if as_json:
        click.echo(json.dumps([recipe.as_dict() for recipe in listed], indent=1))
    else:
        click.echo(table(listed), nl=False)


def table(listed: list[Described]) -> str:
    """For people, as wide as the terminal."""
    shown = Table("recipe", "ranks", "what it does", "last proven", box=box.SIMPLE_HEAD, pad_edge=False)
    for recipe in listed:
        facts = recipe.facts
        ranks = "" if facts.ranks is None else str(facts.ranks)
        shown.add_row(recipe.name, ranks, facts.about or "it does not say", proven(facts))
    return table_text(shown)


def proven(facts: Recipe) -> str:
    """`2026-11-24, booted: …`."""
    if facts.proof is Proof.none:
        return "not yet"
    how = f": {facts.proven_how.strip()}" if facts.proven_how else ""
    return f"{facts.proven_on or 'no day given'}, {facts.proof.value}{how}"
