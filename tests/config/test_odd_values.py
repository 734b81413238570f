"""Values that fit no key are refused by name, before anything runs: no numbers, no ends, zero bytes, wrong shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.config.compose import compose
from mvpnet.errors import ConfigError

FLOATS = (
    *("boot.timeout_s", "net.sample_interval_s", "job.heartbeat_timeout_s", "app.timeout_s", "shutdown.powerdown_s"),
    *(
        "shutdown.term_s",
        "qemu.answer_timeout_s",
        "logging.digest_timeout_s",
        "app.login_timeout_s",
        "app.copy_timeout_s",
    ),
)
SHAPES = {
    "image.drives[0]": "image: {drives: [[a]]}",
    "qemu.extra_args[1]": "qemu: {extra_args: [-device, {a: on}]}",
    "app.command[0]": "app: {command: [[a]]}",
    "app.command": "app: {command: {a: b}}",
    "app.collect[0]": "app: {kind: guest, collect: [{a: b}]}",
    "app.steps.s.command": "app: {steps: {s: {command: {a: b}}}}",
    "cloud_init.write_files[0].content": "cloud_init: {write_files: [{path: /x, content: [a]}]}",
    "ranks.a.qemu.extra_args[0]": "ranks: {a: {on: 0, qemu: {extra_args: [{a: b}]}}}",
}


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    return tmp_path


def by_recipe(folder: Path, document: str) -> None:
    recipe = folder / "mvpnet.d" / "recipe" / "mine.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(f"# @package _global_\n{document}\n")
    compose(["recipe=mine"], 4)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", FLOATS)
def test_no_number_and_no_end_are_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: -?(nan|inf) is no number to wait or count by"):
        compose([f"{key}={value}"], 1)


def test_the_same_of_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^app\.steps\.s\.timeout_s: nan"):
        compose(["+app.steps.s={command: x, timeout_s: nan}"], 1)


@pytest.mark.parametrize("key", SHAPES)
def test_a_list_or_mapping_is_no_text(launch_folder: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        by_recipe(launch_folder, SHAPES[key])
    assert caught.value.message.startswith(f"{key}: is a ")


@pytest.mark.parametrize("document", ['app: {command: [ls, "a\\0b"]}', 'image: {kernel_args: "a\\0b"}'])
def test_a_zero_byte_is_refused(launch_folder: Path, document: str) -> None:
    with pytest.raises(ConfigError, match="holds a zero byte"):
        by_recipe(launch_folder, document)


@pytest.mark.parametrize("keys", ["5", "true", "{a: 5}"])
def test_keys_that_are_no_list_are_refused(keys: str) -> None:
    for word in (
        f"+cloud_init.user_data={{ssh_authorized_keys: {keys}}}",
        f"+cloud_init.meta_data={{public-keys: {keys}}}",
    ):
        with pytest.raises(ConfigError, match=r"is no list of public keys|is no text"):
            compose([word], 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["image.kernel=k"], "image.kernel: the tiny guest boots a kernel of its own"),
        (["image=debian12-built", "image.initrd=i"], "image.initrd: the debian guest"),
        (["+ranks.a={on: '0', image: {initrd: i}}"], "ranks.a.image.initrd: the tiny guest"),
        (["image=file", "image.path=d", "image.initrd=i"], "image.initrd: has no effect without image.kernel"),
        (["image=file", "image.path=d", "image.kernel_args=quiet"], "image.kernel_args: has no effect"),
    ],
)
def test_a_kernel_that_would_not_be_booted_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(words, 1)
    assert caught.value.message.startswith(told)
    compose(["image=file", "image.path=d", "image.kernel_args=quiet", "qemu.extra_args=[-kernel,k]"], 1)
