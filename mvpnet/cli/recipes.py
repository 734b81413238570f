"""`mvpnet recipes`: what each recipe does, and what it was last proven to do. Facts only; nothing is composed.

A recipe says this of itself under `recipe` (schema.Recipe), in its own file: shipped ones, and those of the user's own
folders, of which the first of a name wins as it does for a job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvpnet.errors import ConfigError
from mvpnet.util.tables import table_text

if TYPE_CHECKING:
    from mvpnet.spec.schema import Recipe


@dataclass(frozen=True)
class Described:
    """A recipe and its own words."""

    name: str
    path: Path
    facts: Recipe

    def as_dict(self) -> dict[str, Any]:
        from mvpnet.spec.model import plain

        return {"name": self.name, "path": str(self.path), **plain(self.facts)}


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


def described(config_dir: str | None = None) -> list[Described]:
    """All recipes there are, by name. Raises ConfigError, naming the file, for one that cannot be read."""
    from mvpnet.paths import conf_folder, user_config_folders

    folders = [*user_config_folders(Path.cwd()), conf_folder(), *([Path(config_dir)] if config_dir else [])]
    paths: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / "recipe").glob("*.yaml"):
            paths.setdefault(path.stem, path)
    return [Described(name, path, facts_in(path)) for name, path in sorted(paths.items())]


def facts_in(path: Path) -> Recipe:
    """What a recipe's file says under `recipe`. Raises ConfigError, naming the file and the key."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from mvpnet.spec.schema import Recipe

    try:
        whole = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        asked = (whole.get("recipe") or {}) if isinstance(whole, dict) else {}
        if not isinstance(asked, dict):
            raise ConfigError(f"{path}: recipe: {asked!r} is no group of keys")
        node = OmegaConf.structured(Recipe())
        OmegaConf.set_readonly(node, False)
        facts = OmegaConf.to_object(OmegaConf.merge(node, asked))
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    assert isinstance(facts, Recipe)
    return facts


def table(listed: list[Described]) -> str:
    """For people, as wide as the terminal."""
    from rich import box
    from rich.table import Table

    shown = Table("recipe", "ranks", "what it does", "last proven", box=box.SIMPLE_HEAD, pad_edge=False)
    for recipe in listed:
        facts = recipe.facts
        ranks = "" if facts.ranks is None else str(facts.ranks)
        shown.add_row(recipe.name, ranks, facts.about or "it does not say", proven(facts))
    return table_text(shown)


def proven(facts: Recipe) -> str:
    """`2026-11-24, booted: …`."""
    from mvpnet.spec.schema import Proof

    if facts.proof is Proof.none:
        return "not yet"
    how = f": {facts.proven_how.strip()}" if facts.proven_how else ""
    return f"{facts.proven_on or 'no day given'}, {facts.proof.value}{how}"
