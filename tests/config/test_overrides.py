"""Old names among the words of a command line."""

from __future__ import annotations

import pytest

from mvpnet.config.overrides import renamed_words
from mvpnet.errors import ConfigError
from mvpnet.spec.aliases import OldNames


@pytest.mark.parametrize(
    ("word", "today"),
    [
        ("net.spin_us=0,10", "net.busy_poll_us=0,10"),
        ("+net.spin_us=0", "+net.busy_poll_us=0"),
        ("++ranks.a.net.nap_ms=1", "++ranks.a.net.max_sleep_ms=1"),
        ("~net.nap_ms", "~net.max_sleep_ms"),
        ("~net.nap_ms=10", "~net.max_sleep_ms=10"),
        ("app.steps.x.ssh_at_once=3", "app.steps.x.max_parallel_ssh=3"),
        ("net={nap_ms: 5, mtu: 3},{nap_ms: 6}", "net={max_sleep_ms: 5, mtu: 3},{max_sleep_ms: 6}"),
        (
            "+ranks.a={on: '0,nap_ms: 3', logging: {digest_s: 3, dir: 'x:{digest_s: 4}'}, vm: {cpus: 3}}",
            "+ranks.a={on: '0,nap_ms: 3', logging: {digest_timeout_s: 3, dir: 'x:{digest_s: 4}'}, vm: {cpus: 3}}",
        ),
        (
            "app.steps={a: {ssh_at_once: 3, command: [ssh_at_once, {ssh_at_once: 1}]}, b: {ssh_at_once:4}}",
            "app.steps={a: {max_parallel_ssh: 3, command: [ssh_at_once, {ssh_at_once: 1}]}, b: {max_parallel_ssh:4}}",
        ),
        ("app.command=[a,'${net.nap_ms}']", "app.command=[a,'${net.max_sleep_ms}']"),
    ],
)
def test_old_names_are_replaced_wherever_a_key_can_stand(word: str, today: str) -> None:
    met = OldNames()
    assert renamed_words(["vm.cpus=2", word], met) == ["vm.cpus=2", today]
    assert met.warning()


@pytest.mark.parametrize(
    "word",
    [
        *("-m", "--config-dir", "net.nap_ms", "net=dgram", "--cfg=job", "recipe@x=y", "", "=", "+", "{"),
        "cloud_init.user_data={net: {nap_ms: 3}}",
        "cloud_init.runcmd=['echo \"nap_ms: 3\"',{a: b}]",
        "app.command='net={nap_ms: 3}'",
        'image.path="disk-{rank}.qcow2"',
        "vm.memory='it\\'s {",
        "vm.cpus=choice(1,2)",
        "vm.cpus=}{,:",
    ],
)
def test_all_else_is_left_as_it_was_typed(word: str) -> None:
    met = OldNames()
    assert renamed_words([word], met) == [word]
    assert met.warning() is None


@pytest.mark.parametrize(
    "words",
    [
        ["net.nap_ms=1", "net.max_sleep_ms=2"],
        ["net.max_sleep_ms=2", "-m", "+net.nap_ms=1,2"],
        ["net={max_sleep_ms: 2}", "net.nap_ms=1"],
        ["net={max_sleep_ms: 2, nap_ms: 1}"],
    ],
)
def test_old_and_new_name_together_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"net\.nap_ms.*net\.max_sleep_ms, which is given too"):
        renamed_words(words, OldNames())


def test_ranks_may_be_given_one_name_each() -> None:
    words = ["+ranks.a.logging.digest_s=1", "+ranks.b.logging.digest_timeout_s=2"]
    assert renamed_words(words, OldNames())[1] == words[1]
