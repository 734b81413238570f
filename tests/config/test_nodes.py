"""What mvpnet does with OmegaConf's private parts. Needs OmegaConf alone, to be run with versions that are to come."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ReadonlyConfigError

from mvpnet.config import nodes
from mvpnet.spec import schema

PRIVATE = {"_get_node", "_set_flag", "_get_flag", "_is_none", "_value", "_set_value", "_content", "_metadata"}


def dictionary(content: object) -> DictConfig:
    config = OmegaConf.create({"top": content})
    assert isinstance(config, DictConfig)
    return config


def test_children_are_nodes_that_are_not_resolved() -> None:
    config = dictionary({"a": "${nothing.of.the.kind}", "b": [1, "${oc.env:NONE}"], True: None, "c": "???"})
    top = nodes.children(config)["top"]
    assert list(nodes.children(top)) == ["a", "b", True, "c"]
    assert all(OmegaConf.is_config(top) for top in [top, nodes.children(top)["b"]])
    assert list(nodes.children(nodes.children(top)["b"])) == [0, 1]
    assert nodes.raw_text(nodes.children(top)["a"]) == "${nothing.of.the.kind}"
    assert nodes.raw_text(nodes.children(nodes.children(top)["b"])[1]) == "${oc.env:NONE}"


@pytest.mark.parametrize("content", ["text", 3, None, "???", "${other}", {}, []])
def test_what_holds_nothing_has_no_children(content: object) -> None:
    assert nodes.children(nodes.children(dictionary(content))["top"]) == {}
    assert nodes.children(content if isinstance(content, (str, int)) else None) == {}


def test_null_in_place_of_a_group_has_no_children() -> None:
    named = OmegaConf.create({"a": DictConfig(None), "b": DictConfig("${c}")})
    assert [nodes.children(child) for child in nodes.children(named).values()] == [{}, {}]


@pytest.mark.parametrize(
    ("value", "text"), [("a ${b} c", "a ${b} c"), ("${b}", "${b}"), ("", ""), ("???", "???"), (3, None), (None, None)]
)
def test_raw_text_is_what_was_written(value: object, text: str | None) -> None:
    assert nodes.raw_text(nodes.children(dictionary(value))["top"]) == text


def test_another_text_is_put_in_place_of_a_reference() -> None:
    config = dictionary("${rank}")
    nodes.set_raw_text(nodes.children(config)["top"], r"\${rank}")
    assert config.top == "${rank}"  # escaped, it is text


def test_a_ranks_own_values_are_left_for_the_rank() -> None:
    cloud_init = {
        "runcmd": ["echo ${rank} ${host_name}", ["${address}", 3], {"x": "${world_size}"}],
        "locale": "${rank}",
        "timezone": "${name}",
        "proxy": r"\${rank}",
    }
    ranks = {"a": {"on": 1, "cloud_init": {"locale": "${rank}"}}, "b": None}
    config = OmegaConf.merge(nodes.writable(schema.Config), {"cloud_init": cloud_init, "ranks": ranks})
    assert isinstance(config, DictConfig)
    OmegaConf.set_readonly(config, True)
    nodes.keep_rank_values(config)
    whole = OmegaConf.to_container(config, resolve=False)
    assert isinstance(whole, dict)
    found = OmegaConf.to_container(
        OmegaConf.create({"name": "n", "cloud_init": whole["cloud_init"], "ranks": whole["ranks"]}), resolve=True
    )
    assert isinstance(found, dict)
    kept = found["cloud_init"]
    assert kept["runcmd"] == ["echo ${rank} ${host_name}", ["${address}", 3], {"x": "${world_size}"}]
    assert (kept["locale"], kept["timezone"], kept["proxy"]) == ("${rank}", "n", "${rank}")
    assert found["ranks"]["a"]["cloud_init"]["locale"] == "${rank}"


def test_a_config_without_cloud_init_for_its_ranks_is_left_as_it_is() -> None:
    config = OmegaConf.create({"ranks": {"a": {"on": "${rank}"}}, "cloud_init": None})
    assert isinstance(config, DictConfig)
    nodes.keep_rank_values(config)
    assert OmegaConf.to_container(config, resolve=False)["ranks"] == {"a": {"on": "${rank}"}}  # type: ignore[index]


def test_a_frozen_dataclass_can_be_written_and_takes_no_unknown_key() -> None:
    with pytest.raises(ReadonlyConfigError):
        OmegaConf.structured(schema.Config).vm.cpus = 2
    config = nodes.writable(schema.Config)
    config.vm.cpus = 2
    config.image.prepare.size = "3G"
    config.image.properties.cache = "none"  # no field, but a mapping for any keys
    config.ranks.a = {"on": "0"}
    assert (config.vm.cpus, config.image.prepare.size, config.image.properties.cache) == (2, "3G", "none")
    with pytest.raises(ConfigAttributeError):
        config.vm.turbo = 2
    merged = OmegaConf.merge(nodes.writable(schema.Vm), {"cpus": 3})
    assert OmegaConf.to_object(merged) == schema.Vm(cpus=3)


def test_keys_that_the_schema_has_not_are_found_wherever_they_are() -> None:
    config = nodes.writable(schema.Config)
    assert list(nodes.unknown_keys(config)) == []
    OmegaConf.update(config, "vm.turbo", 1, force_add=True)
    OmegaConf.update(config, "image.prepare.fast", 1, force_add=True)
    OmegaConf.update(config, "extra", {"a": 1}, force_add=True)
    OmegaConf.update(config, "image.properties.cache", "none", force_add=True)
    OmegaConf.update(config, "ranks.a", {"vm": {"turbo": 1}}, force_add=True)
    assert sorted(nodes.unknown_keys(config)) == ["extra", "image.prepare.fast", "vm.turbo"]


def test_all_keys_are_those_of_the_dataclasses() -> None:
    def declared(kind: Any, prefix: str) -> set[str]:
        found = set()
        for name, value in vars(kind()).items():
            found.add(f"{prefix}{name}")
            if dataclasses.is_dataclass(value):
                found |= declared(type(value), f"{prefix}{name}.")
        return found

    keys = nodes.all_keys()
    assert set(keys) == declared(schema.Config, "") and len(keys) == len(set(keys))
    assert keys[:2] == ["job", "job.name"]


SOURCES = [*Path(nodes.__file__).parents[1].rglob("*.py"), *Path(nodes.__file__).parents[2].glob("hydra_plugins/*.py")]


def uses_omegaconf(tree: ast.Module) -> bool:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any((node.module or "").partition(".")[0] in ("omegaconf", "hydra") for node in imports)


def test_nothing_else_uses_private_parts_of_omegaconf_or_hydra() -> None:
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        if path == Path(nodes.__file__) or not uses_omegaconf(tree):
            continue
        found += [
            f"{path.name}: {node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in PRIVATE
        ]
        found += [
            f"{path.name}: {node.module}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and "._" in f"{node.module}."
        ]
    assert found == []
