"""OmegaConf's private parts, used here and nowhere else: nodes as they are, unresolved, and their raw values.

Nothing of OmegaConf's public interface gives the nodes of a config without resolving what they hold, or puts another
text into one. tests/config/test_nodes.py fails where a version of OmegaConf has other private parts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig, Node, OmegaConf, ValueNode, flag_override

from mvpnet.spec import schema

# The values of a rank that cloud_init may refer to, as cloudinit.seed puts them in; not where they are escaped already.
_RANK_VALUE = re.compile(r"(?<!\\)\$\{(rank|world_size|host_name|address)\}")


def children(node: object) -> dict[Any, Node]:
    """Return the nodes in a mapping or list, none of them resolved; none for anything else, also for null."""
    content = vars(node)["_content"] if isinstance(node, (DictConfig, ListConfig)) else None
    return dict(enumerate(content)) if isinstance(content, list) else content if isinstance(content, dict) else {}


def raw_text(node: Node) -> str | None:
    """Return the text in a node as it was written, references and all; None where there is no text."""
    value = node._value()
    return value if isinstance(value, str) else None


def is_null(node: Node) -> bool:
    """Tell whether a node, of whatever type, holds nothing."""
    return node._is_none()


def set_raw_text(node: Node, text: str) -> None:
    """Put another text into a node."""
    node._set_value(text)


def referred(parent: DictConfig | ListConfig, reference: str) -> object:
    """Return what a `${…}` in a child of `parent` stands for: a scalar, a DictConfig or ListConfig, or None.

    Raises:
        OmegaConfBaseException: there is no such key or resolver, or the reference is not of OmegaConf's grammar.
    """
    node = AnyNode(reference)
    node._set_parent(parent)
    node._metadata.key = "reference"
    found = node._dereference_node()
    return found._value() if isinstance(found, ValueNode) else None if found._is_none() else found


def keep_rank_values(config: DictConfig) -> None:
    """Escape references to a rank's own values in cloud_init, so that they are still there when seeds are made."""

    def escape(node: Node) -> None:
        for child in children(node).values():
            if (text := raw_text(child)) is not None:
                set_raw_text(child, _RANK_VALUE.sub(r"\\\g<0>", text))
            escape(child)

    with flag_override(config, "readonly", False):
        for place in (config, *children(config.ranks).values()):
            if cloud_init := children(place).get("cloud_init"):
                escape(cloud_init)


def writable(node: type) -> DictConfig:
    """Return a config node of a frozen dataclass that Hydra may still merge into: OmegaConf makes those read-only."""
    config: DictConfig = OmegaConf.structured(node)

    def unlock(part: DictConfig) -> None:
        OmegaConf.set_readonly(part, None)
        for child in children(part).values():
            if isinstance(child, DictConfig):
                unlock(child)
                if not dataclasses.is_dataclass(OmegaConf.get_type(child)):
                    OmegaConf.set_struct(child, False)  # new keys are what it is for; no + in front of them

    unlock(config)
    return config


def unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the keys that the schema does not have: a `+key=value` on the command line puts in what it likes."""
    declared = {f.name for f in dataclasses.fields(OmegaConf.get_type(node))}  # type: ignore[arg-type]
    for key, child in children(node).items():
        if key not in declared:
            yield f"{prefix}{key}"
        elif isinstance(child, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(child)):
            yield from unknown_keys(child, f"{prefix}{key}.")


def all_keys() -> list[str]:
    """Return every dotted key of the schema."""

    def walk(node: Node, prefix: str) -> Iterator[str]:
        for key, child in children(node).items():
            yield f"{prefix}{key}"
            if isinstance(child, DictConfig):
                yield from walk(child, f"{prefix}{key}.")

    return list(walk(OmegaConf.structured(schema.Config), ""))
