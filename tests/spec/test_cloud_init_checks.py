"""What cloud-init reads elsewhere, or not at all, is refused by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError
from mvpnet.spec.checks import check_job
from mvpnet.spec.cloud_init_checks import check_cloud_init
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import CloudInit, Config, Image, Job, Prepare

V1: dict[str, Any] = {"version": 1, "config": [{"type": "physical", "name": "eth0"}]}
V2: dict[str, Any] = {"version": 2, "ethernets": {"mvpnet": {"mtu": 9000}}}


def check(config: Config, *overrides: Override) -> None:
    check_job(JobSpec(1, Path("/run"), config, overrides))


def given(key: str, value: dict[str, Any]) -> Config:
    if key == "image.prepare.user_data":
        return Config(job=Job(name="job"), image=Image(prepare=Prepare(user_data=value)))
    return Config(job=Job(name="job"), cloud_init=CloudInit(**{key.removeprefix("cloud_init."): value}))


@pytest.mark.parametrize(
    "value",
    [
        {},
        V2,
        {"network": V2},
        {"network": {"ethernets": {}}, "renderer": "networkd"},
        {"bonds": {"b": {"interfaces": ["user"]}}, "vlans": {}},
    ],
)
def test_a_network_of_version_2_goes_into_ours(value: dict[str, Any]) -> None:
    check(given("cloud_init.network_config", value))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (V1, "`config` is of version 1"),
        ({"version": 1}, "version: 1 does"),
        ({"version": "2"}, "version: '2' does"),
        ({"version": None}, "version: None does"),
        ({"version": True}, "version: True does"),
        ({"config": "disabled"}, "without a network"),
        ({"network": V1}, "`config` is of version 1"),
        ({"network": {"config": "disabled"}}, "without a network"),
        ({"network": "disabled"}, "network: there is no such key"),
        ({"eth0": {"dhcp4": True}}, "eth0: there is no such key"),
        ({"ethernet": {}}, "ethernets"),
        ({"ethernets": [{"name": "eth0"}]}, "ethernets: .* is no group of devices"),
    ],
)
def test_any_other_network_is_refused(value: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=rf"^cloud_init\.network_config.*{what}"):
        check(given("cloud_init.network_config", value))


@pytest.mark.parametrize("section", ["cloud_init.user_data", "image.prepare.user_data"])
@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("network", "cloud_init.network_config={}"),
        ("network-config", "cloud_init.network_config={}"),
        ("ethernets", "cloud_init.network_config={}"),
        ("user-data", "in cloud_init.user_data itself"),
        ("cloud_init", "in cloud_init.user_data itself"),
        ("meta_data", "cloud_init.meta_data"),
        ("local-hostname", "cloud_init.meta_data"),
        ("datasource", "/etc/cloud"),
        ("datasource_list", "/etc/cloud"),
        ("#cloud-config", "first line"),
    ],
)
def test_what_user_data_cannot_say_is_refused(section: str, key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(given(section, {"timezone": "UTC", key: {"a": "b"}}))
    assert str(caught.value).startswith(section) and key in str(caught.value) and hint in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("network-interfaces", "auto eth0", "cloud_init.network_config"),
        ("network", {}, "cloud_init.network_config"),
        ("user-data", "x", "cloud_init.user_data"),
        ("hostname", "web", "local-hostname"),
        ("local_hostname", "web", "local-hostname"),
        ("instance_id", "i-1", "instance-id"),
        ("seedfrom", "http://x/", "cloud_init.path"),
        ("dsmode", "disabled", "local, or net"),
    ],
)
def test_what_meta_data_cannot_say_is_refused(key: str, value: Any, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(given("cloud_init.meta_data", {key: value}))
    assert str(caught.value).startswith(f"cloud_init.meta_data.{key}: ") and hint in str(caught.value)


def test_names_and_facts_of_one_s_own_are_meta_data() -> None:
    check(given("cloud_init.meta_data", {"local-hostname": "web${rank}", "dsmode": "local", "rank": "${rank}"}))


@pytest.mark.parametrize(
    "changes",
    [{"network_config": {"network": V1}}, {"user_data": {"network": V2}}, {"meta_data": {"hostname": "x"}}],
)
def test_a_rank_s_own_settings_are_checked(changes: dict[str, Any]) -> None:
    override = Override("a", RankSet.parse("0"), {"cloud_init": changes})
    with pytest.raises(ConfigError, match=r"^ranks\.a\.cloud_init\."):
        check(Config(job=Job(name="job")), override)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"ethernets": None}, "ethernets"),
        ({"ethernets": {"user": None}}, "ethernets.user"),
        ({"ethernets": {"mvpnet": {"addresses": None}}}, "ethernets.mvpnet.addresses"),
        ({"network": {"ethernets": {"mvpnet": {"match": None}}}}, "ethernets.mvpnet.match"),
    ],
)
def test_a_network_that_null_takes_away_is_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^cloud_init\.network_config\.{key}: null would leave"):
        check_cloud_init("", Config(cloud_init=CloudInit(network_config=settings)))
