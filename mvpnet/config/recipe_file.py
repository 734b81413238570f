"""What a recipe's file says of the recipe, read without composing it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvpnet.cloudinit.yaml_file import read_yaml
from mvpnet.config.kinds import root
from mvpnet.errors import ConfigError
from mvpnet.spec.schema import Recipe


def facts_in(path: Path) -> Recipe:
    """Return what a recipe's file says under `recipe`.

    Raises:
        ConfigError: the file cannot be read, or a key is none of a recipe's. Names the file and the key.
    """
    try:
        whole = read_yaml(path, root(), str(path))
        asked = (whole.get("recipe") or {}) if isinstance(whole, dict) else {}
        if not isinstance(asked, dict):
            raise ConfigError(f"{path}: recipe: {asked!r} is no group of keys")
        node = OmegaConf.structured(Recipe())
        OmegaConf.set_readonly(node, False)
        facts = OmegaConf.to_object(OmegaConf.merge(node, asked))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    assert isinstance(facts, Recipe)
    return facts
