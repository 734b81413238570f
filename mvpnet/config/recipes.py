"""All recipes that there are, and what each says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvpnet.paths import conf_folder, host_path, launch_folder, user_config_folders
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import Recipe


@dataclass(frozen=True)
class Described:
    """A recipe and its own words."""

    name: str
    path: Path
    facts: Recipe

    def as_dict(self) -> dict[str, Any]:
        """Return what `mvpnet recipes --json` prints of it."""
        return {"name": self.name, "path": str(self.path), **plain(self.facts)}


def described(config_dir: str | None = None) -> list[Described]:
    """Return all recipes, by name; of several of one name, the one that a job would take.

    Args:
        config_dir: one more folder with config groups, behind all others.

    Raises:
        ConfigError: a recipe cannot be read. Names the file.
    """
    from mvpnet.config.recipe_file import facts_in  # with OmegaConf: other verbs import this module and need none

    folders = [*user_config_folders(launch_folder()), conf_folder()]
    folders += [host_path(config_dir, "--config-dir")] if config_dir else []
    paths: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / "recipe").glob("*.yaml"):
            paths.setdefault(path.stem, path)
    return [Described(name, path, facts_in(path)) for name, path in sorted(paths.items())]
