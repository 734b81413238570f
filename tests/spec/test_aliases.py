"""Old names of keys: in dotted keys, in trees and saved specs, and in the digest."""

from __future__ import annotations

import dataclasses
import json
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError
from mvpnet.spec import aliases, schema
from mvpnet.spec.aliases import OldNames, new_key, renamed, renamed_references
from mvpnet.spec.codec import job_spec
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.plain import digest_of, plain
from mvpnet.spec.rank_set import RankSet
from records.runs import job


@pytest.mark.parametrize(("old", "new"), aliases.RENAMED_KEYS.items())
def test_the_table_names_keys_that_are_and_keys_that_are_not(old: str, new: str) -> None:
    attrgetter(new)(schema.Config())
    with pytest.raises(AttributeError):
        attrgetter(old)(schema.Config())


@pytest.mark.parametrize(
    ("key", "today"),
    [
        ("net.spin_us", "net.busy_poll_us"),
        ("net.max_spin_us", "net.max_spin_us"),
        ("spin_us", "spin_us"),
        ("ranks.a.logging.digest_s", "ranks.a.logging.digest_timeout_s"),
        ("ranks.a.net.nap_ms", "ranks.a.net.max_sleep_ms"),
        ("app.ssh_at_once", "app.max_parallel_ssh"),
        ("app.steps.x.ssh_at_once", "app.steps.x.max_parallel_ssh"),
        ("app.steps.x.command", "app.steps.x.command"),
        ("app.steps.ssh_at_once.user", "app.steps.ssh_at_once.user"),
        ("hydra.sweeper.params.net.nap_ms", "hydra.sweeper.params.net.max_sleep_ms"),
        ("cloud_init.user_data.net.nap_ms", "cloud_init.user_data.net.nap_ms"),
    ],
)
def test_keys_are_known_with_what_stands_before_them(key: str, today: str) -> None:
    assert new_key(key) == today


def test_a_tree_keeps_its_order_and_all_else() -> None:
    tree = {"net": {"mtu": 3, "nap_ms": 5, "kind": "dgram"}, "vm": None, True: [{"nap_ms": 1}]}
    assert json.dumps(renamed({"a": 1, **tree})) == json.dumps(
        {"a": 1, "net": {"mtu": 3, "max_sleep_ms": 5, "kind": "dgram"}, "vm": None, True: [{"nap_ms": 1}]}
    )
    assert renamed({"nap_ms": 5}, "net.") == {"max_sleep_ms": 5}


def test_old_and_new_name_in_one_tree_are_refused_with_their_place() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: net\.nap_ms: .* net\.max_sleep_ms, which is given too"):
        renamed({"net": {"nap_ms": 5, "max_sleep_ms": 5}}, where="x.yaml")


def test_references_are_renamed_and_nothing_like_them() -> None:
    met = OldNames()
    assert renamed_references("${net.nap_ms} $net.nap_ms ${net.nap_msx} net.nap_ms", met).split() == [
        *("${net.max_sleep_ms}", "$net.nap_ms", "${net.nap_msx}", "net.nap_ms")
    ]
    assert met.warning() == "warning: old names: net.nap_ms is net.max_sleep_ms now"


def test_each_old_name_is_told_once() -> None:
    met = OldNames()
    assert met.warning() is None
    for _ in range(2):
        met.add("net.nap_ms", "net.max_sleep_ms")
    met.add("job.silence_s", "job.heartbeat_timeout_s")
    told = met.warning()
    assert told and told.count("net.nap_ms") == 1 and "job.silence_s is job.heartbeat_timeout_s now" in told
    met.add("net.nap_ms", "net.max_sleep_ms")
    assert met.warning() is None


def spec_of_today(folder: Path) -> JobSpec:
    override = Override("a", RankSet.parse("0"), {"logging": {"digest_timeout_s": 3.0}})
    step = {"kind": "guest", "command": ["x"], "max_parallel_ssh": 2}
    net = schema.Net(max_sleep_ms=7, coalesce_us=1, busy_poll_us=2, drop_timeout_ms=3, sample_interval_s=4.0)
    spec = job(folder, net=net, app=schema.App(steps={"s": step}), logging=schema.Logging(digest_timeout_s=5.0))
    return dataclasses.replace(spec, overrides=(override,))


def saved_before(spec: JobSpec) -> dict[str, Any]:
    """The spec as a version from before the renaming wrote it."""
    text = json.dumps(plain(spec))
    for old, new in aliases.RENAMED_KEYS.items():
        text = text.replace(f'"{new.partition(".")[2]}"', f'"{old.partition(".")[2]}"')
    saved: dict[str, Any] = json.loads(text)
    return saved


def test_a_spec_that_was_saved_with_old_names_is_read(tmp_path: Path) -> None:
    spec = spec_of_today(tmp_path)
    saved = saved_before(spec)
    assert saved["config"]["net"]["nap_ms"] == 7 and saved["overrides"][0]["changes"]["logging"]["digest_s"] == 3.0
    assert saved["config"]["app"]["steps"]["s"]["ssh_at_once"] == 2
    assert job_spec(saved, "job.json") == spec


def test_a_renamed_key_leaves_the_digest_as_it_was(tmp_path: Path) -> None:
    spec = spec_of_today(tmp_path)
    assert digest_of(saved_before(spec)) == spec.digest() == digest_of(plain(spec))
    assert spec.digest() != dataclasses.replace(spec, overrides=()).digest()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config": {"net": {"nap_ms": 1, "max_sleep_ms": 1}}}, r"job\.json: net\.nap_ms: .*net\.max_sleep_ms"),
        (
            {"overrides": [{"name": "a", "on": "0", "changes": {"logging": {"digest_s": 1, "digest_timeout_s": 1}}}]},
            r"ranks\.a\.logging\.digest_s",
        ),
    ],
)
def test_a_saved_spec_with_both_names_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job_spec({**plain(job(tmp_path)), **change}, "job.json")


def test_the_documentation_lists_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    options = {
        f"{group}={old}": f"{group}={new}"
        for group, names in aliases.RENAMED_OPTIONS.items()
        for old, new in names.items()
    }
    for old, new in (aliases.RENAMED_KEYS | options).items():
        assert f"| `{old}` | `{new}` |" in text
