"""What a recipe says of itself, read from its file alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvpnet.errors import ConfigError

if TYPE_CHECKING:
    from mvpnet.spec.schema import Recipe


@dataclass(frozen=True)
class Described:
    """A recipe and its own words."""

    name: str
    path: Path
    facts: Recipe

    def as_dict(self) -> dict[str, Any]:
        from mvpnet.spec.plain import plain

        return {"name": self.name, "path": str(self.path), **plain(self.facts)}


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
