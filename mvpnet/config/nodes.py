"""OmegaConf's private parts, used here and nowhere else: children as nodes, flags, unknown keys."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override

from mvpnet.spec import schema

# The values of a rank that cloud_init may refer to, as guest.seed puts them in; not where they are escaped already.
_RANK_VALUE = re.compile(r"(?<!\\)\$\{(rank|world_size|host_name|address)\}")


def keep_rank_values(config: DictConfig) -> None:
    """Escape references to a rank's own values in cloud_init, so that they are still there when seeds are made."""

    def escape(node: Any) -> None:
        for child in _children(node).values():
            if isinstance(text := child._value(), str):
                child._set_value(_RANK_VALUE.sub(r"\\\g<0>", text))
            escape(child)

    with flag_override(config, "readonly", False):
        for place in (config, *_children(config.ranks).values()):
            escape(_children(place).get("cloud_init"))


def _children(node: Any) -> dict[Any, Any]:
    """The nodes in a mapping or list, none in anything else, and none of them resolved."""
    content = vars(node)["_content"] if isinstance(node, (DictConfig, ListConfig)) else None
    return dict(enumerate(content)) if isinstance(content, list) else content if isinstance(content, dict) else {}


def writable(node: type) -> DictConfig:
    """A config node of a frozen dataclass that Hydra may still merge into: OmegaConf makes those read-only."""
    config: DictConfig = OmegaConf.structured(node)

    def unlock(part: DictConfig) -> None:
        part._set_flag("readonly", None)
        for key in part:
            child = part._get_node(key)
            if isinstance(child, DictConfig):
                unlock(child)
                if not dataclasses.is_dataclass(OmegaConf.get_type(child)):
                    child._set_flag("struct", False)  # new keys are what it is for; no + in front of them

    unlock(config)
    return config


def unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that the schema does not have: a `+key=value` on the command line puts in what it likes."""
    declared = {f.name for f in dataclasses.fields(OmegaConf.get_type(node))}  # type: ignore[arg-type]
    for key in node:
        child = node._get_node(key)
        if key not in declared:
            yield prefix + str(key)
        elif isinstance(child, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(child)):
            yield from unknown_keys(child, prefix + str(key) + ".")


def all_keys() -> list[str]:
    """Every dotted key of the schema."""

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            yield prefix + str(key)
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from walk(child, prefix + str(key) + ".")

    return list(walk(OmegaConf.structured(schema.Config), ""))
