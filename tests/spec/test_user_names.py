"""Names of users: one rule for all that give one, and what becomes of names that guests have already."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.errors import ConfigError
from mvpnet.spec.app_steps import steps_of
from mvpnet.spec.checks import check_job
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import App, AppKind, Config, Image, Job
from mvpnet.spec.user_names import check_new_user, check_user_name, is_group_name

NAMES = ["root", "chuck", "J.Doe-2", "_x", "1st", "a" * 32]
NO_NAMES = [
    "",
    "-x",
    "a b",
    "a,b",
    "a@b",
    "a;b",
    "a" * 33,
    "a\n",
    "DOMAIN\\me",
    "a:b",
    "a/b",
    ".",
    "..",
    "123",
    "é",
    "a$",
]


def by_image(name: str) -> None:
    check_job(JobSpec(1, Path("/run"), Config(job=Job(name="job"), image=Image(user=name))))


def by_rank(name: str) -> None:
    override = Override("a", RankSet.parse("0"), {"image": {"user": name}})
    check_job(JobSpec(1, Path("/run"), Config(job=Job(name="job")), (override,)))


def by_app(name: str) -> None:
    steps_of(App(kind=AppKind.guest, command="date", user=name))


def by_step(name: str) -> None:
    steps_of(App(kind=AppKind.guest, steps={"one": {"command": "date", "user": name}}))


GIVEN = {"image.user": by_image, "ranks.a.image.user": by_rank, "app.user": by_app, "app.steps.one.user": by_step}


@pytest.mark.parametrize("key", GIVEN)
def test_all_that_give_a_name_have_one_rule(key: str) -> None:
    give = GIVEN[key]
    for name in NAMES:
        give(name)
    for name in NO_NAMES:
        with pytest.raises(ConfigError) as caught:
            give(name)
        assert str(caught.value).startswith(f"{key}: ")


@pytest.mark.parametrize("name", ["daemon", "games", "nobody", "www-data", "operator", "sshd", "systemd-network"])
def test_an_account_of_the_system_is_no_new_user(name: str) -> None:
    check_user_name(name, "app.user")
    with pytest.raises(ConfigError, match=r"^image\.user: (.|\n)*image\.user=root"):
        check_new_user(name, "image.user")


@pytest.mark.parametrize("name", ["staff", "admin", "nogroup", "sudo", "wheel", "users", "docker"])
def test_a_name_of_a_group_can_be_a_new_user_s(name: str) -> None:
    check_new_user(name, "image.user")
    assert is_group_name(name)
