"""A spec survives the way into a run folder and back; what is no spec is refused with its key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvpnet.config.compose import compose
from mvpnet.errors import ConfigError
from mvpnet.spec.codec import job_spec
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.plain import plain
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import Image, ImageKind, Prepare
from records.runs import job


def there_and_back(spec: JobSpec) -> JobSpec:
    return job_spec(json.loads(json.dumps(plain(spec))), "manifest.json")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["image=file", 'image.path="disk-{rank}.qcow2"', "image.properties={cache: none}", "net=dgram", "vm.accel=tcg"],
        ["ranks=[big_head,console_on_zero]", "+ranks.mine={on: '0,last', vm: {memory: 8G, accel: tcg}}"],
        ["app.command=[run,1]", "boot.timeout_s=7", "net.domains=[a.example]", "logging.levels={guest: DEBUG}"],
        ["image=centos9", "cloud_init.user_data={a: [1, {b: null}]}", "cloud_init.files={/etc/motd: motd}"],
        ["recipe=demo"],
    ],
)
def test_a_resolved_spec_comes_back_as_it_was(overrides: list[str]) -> None:
    spec = compose(overrides, 4)
    back = there_and_back(spec)
    assert plain(back) == plain(spec) and back.digest() == spec.digest()
    assert [back.for_rank(rank) for rank in range(4)] == [spec.for_rank(rank) for rank in range(4)]


def test_a_pin_changes_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    image = Image(kind=ImageKind.cloud, path="/disk", prepare=Prepare(runcmd=["true"]))
    pin = Override("pin", RankSet.parse("all"), {"image": {"prepare": {"sha256": "a" * 64}}})
    spec = replace(job(tmp_path, image=image), overrides=(pin,))
    back = there_and_back(spec)
    assert back == spec and back.for_rank(0).image.prepare == Prepare(runcmd=["true"], sha256="a" * 64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config": {"vm": {"turbo": 1}}}, "config.vm.turbo"),
        ({"config": {"vm": {"cpus": "many"}}}, "config.vm.cpus"),
        ({"config": {"vm": {"accel": "warp"}}}, "kvm"),
        ({"config": {"job": {"name": "x"}, "vm": {"cpus": 0}}}, "vm.cpus"),
        ({"config": {"vm": 3}}, "config.vm"),
        ({"world_size": None}, "world_size"),
        ({"overrides": [{"name": "x", "on": "first", "changes": {}}]}, "ranks.x.on"),
        ({"overrides": [{"name": "x", "on": "0", "changes": {"boot": {}}}]}, "ranks.x.boot"),
        ({"overrides": 7}, "no resolved spec"),
        ({"surprise": 7}, "surprise"),
    ],
)
def test_what_is_no_spec_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job_spec({**plain(job(tmp_path)), **change}, "manifest.json")
