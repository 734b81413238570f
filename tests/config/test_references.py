r"""`${…}` in texts: what is for a shell is refused with key, file and hint, never replaced silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.config.compose import compose
from mvpnet.config.references import references_in
from mvpnet.errors import ConfigError
from mvpnet.spec.model import JobSpec

SHELL = (
    *("${V:-x}", "${V:=x}", "${1:?u}", "${f%.*}", "${f##*/}", "${#a[@]}", "${a[0]}", "${!x}", "${x^^}", "${x//a/b}"),
    *("${HOME}", "${1}", "${@}", "${?}", "${ }", "${", "${x", "${V:-${W}}", "${rank:-0}"),
)
SECTIONS = ("${image}", "${job}", "${net}", "${app}", "${cloud_init}", "${app.steps}", "${ranks}")
LISTS = ("${cloud_init.ssh_authorized_keys}", "${qemu.extra_args}", "${image.drives}", "${oc.dict.keys:image}")
NOTHING = ("${job.ranks}", "${image.path}")

# A text of each section that takes one, as YAML with the text put in.
PLACES = {
    "app.command[2]": "app: {command: [sh, -c, '%s']}",
    "app.steps.one.command": "app: {steps: {one: {command: '%s'}}}",
    "app.collect[0]": "app: {kind: guest, collect: ['%s']}",
    "cloud_init.runcmd[0]": "cloud_init: {runcmd: ['%s']}",
    "cloud_init.write_files[0].content": "cloud_init: {write_files: [{path: /x, content: '%s'}]}",
    "cloud_init.user_data.motd": "cloud_init: {user_data: {motd: '%s'}}",
    "ranks.a.cloud_init.runcmd[0]": "ranks: {a: {on: 0, cloud_init: {runcmd: ['%s']}}}",
    "image.kernel_args": "image: {kernel_args: '%s'}",
    "qemu.extra_args[0]": "qemu: {extra_args: ['%s']}",
    "job.name": "job: {name: '%s'}",
}


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    return tmp_path


def by_recipe(folder: Path, document: str) -> JobSpec:
    recipe = folder / "mvpnet.d" / "recipe" / "mine.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(f"# @package _global_\n{document}\n")
    return compose(["recipe=mine"], 4)


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        *(("cloud_init.runcmd[0]", reference) for reference in (*SHELL, *SECTIONS, *LISTS, *NOTHING)),
        *((key, reference) for key in PLACES for reference in ("${V:-x}", "${job}")),
    ],
)
def test_a_reference_that_is_for_a_shell_is_refused_with_key_file_and_hint(
    launch_folder: Path, key: str, reference: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        by_recipe(launch_folder, PLACES[key] % f"echo {reference} x")
    message = str(caught.value)
    assert message.startswith(f"{key}: ${{")
    assert "in: the config file recipe/mine.yaml" in message
    assert r"\${…}" in message


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        *((key, "${sweep}") for key in PLACES),
        *(
            (key, "${image.drives}")
            for key in ("app.command[2]", "image.kernel_args", "qemu.extra_args[0]", "job.name")
        ),
    ],
)
def test_a_section_is_no_text_as_the_whole_of_one(launch_folder: Path, key: str, reference: str) -> None:
    with pytest.raises(ConfigError, match=r"is (a list|a whole section), and no text\n.*\n.*\\\$\{…\}"):
        by_recipe(launch_folder, PLACES[key] % reference)


def test_nothing_is_no_word_of_a_command() -> None:
    with pytest.raises(ConfigError, match=r"app\.command\[1\]: \$\{image\.path\}: is null, and no text"):
        compose(["app.command=[a,'${image.path}']"], 1)


@pytest.mark.parametrize("reference", ("${V:-x}", "${1:?u}", "${f%.*}", "${HOME}", *SECTIONS, *NOTHING))
def test_the_same_is_refused_on_the_command_line(reference: str) -> None:
    for word in (f"app.command=[sh,-c,echo {reference}]", f"cloud_init.runcmd=['echo {reference}']"):
        with pytest.raises(ConfigError) as caught:
            compose([word], 1)
        message = str(caught.value)
        assert message.startswith(word.split("=")[0])
        assert "the command line" in message
        assert r"\${…}" in message


@pytest.mark.parametrize("reference", [one for one in SHELL if one != "${"])
def test_an_escaped_reference_reaches_the_shell(launch_folder: Path, reference: str) -> None:
    escaped = reference.replace("${", r"\${")
    spec = by_recipe(
        launch_folder,
        f"""
app: {{command: [sh, -c, 'echo {escaped} x']}}
cloud_init:
  runcmd: ['{escaped}']
  write_files: [{{path: /x, content: '{escaped}'}}]
  user_data: {{motd: '{escaped}'}}
image: {{kernel_args: '{escaped}'}}
ranks: {{a: {{on: 0, cloud_init: {{runcmd: ['{escaped}']}}}}}}
""",
    )
    cloud_init = spec.config.cloud_init
    assert spec.config.app.command == ["sh", "-c", f"echo {reference} x"]
    assert cloud_init.runcmd == spec.overrides[0].changes["cloud_init"]["runcmd"] == [reference]
    assert (cloud_init.write_files[0]["content"], cloud_init.user_data["motd"]) == (reference, reference)
    assert spec.config.image.kernel_args == reference


def test_a_reference_to_a_scalar_is_put_in_as_the_config_writes_it(launch_folder: Path) -> None:
    config = by_recipe(
        launch_folder,
        "job: {name: a}\nnet: {kind: dgram}\nvm: {cpus: 3}\n"
        "app: {command: ['${net.kind}', 'x ${net.kind} ${vm.cpus} ${job.name} ${logging.file}', '${vm.cpus}']}",
    ).config
    assert list(map(str, config.app.command)) == ["dgram", "x dgram 3 a true", "3"]


def test_a_list_may_be_the_whole_of_a_list(launch_folder: Path) -> None:
    config = by_recipe(
        launch_folder, "image: {drives: ['x,a=b']}\nqemu: {extra_args: '${app.command}'}\napp: {command: [a, b]}"
    ).config
    assert config.qemu.extra_args == ["a", "b"]


@pytest.mark.parametrize(
    "key", ["app.steps", "image.properties", "app", "ranks.a", "qemu.extra_args", "cloud_init.user_data"]
)
def test_an_escaped_reference_is_no_mapping(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        compose([f"++{key}=\\${{x}}"], 1)


def test_what_a_user_may_want_of_the_launch_is_named(launch_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "me")
    assert by_recipe(launch_folder, "app: {command: [echo, 'by ${oc.env:WHO}']}").config.app.command == [
        "echo",
        "by me",
    ]
    with pytest.raises(ConfigError, match=r"\$\{oc\.env:NAME\}"):
        by_recipe(launch_folder, "app: {command: [echo, 'by ${WHO}']}")


def test_a_reference_in_double_quotes_of_yaml_is_told_how_it_is_escaped(launch_folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        by_recipe(launch_folder, r'app: {command: [sh, -c, "echo \${HOME}"]}')
    assert r"\\${…}" in str(caught.value.hint)


def test_a_ranks_own_values_are_for_cloud_init_alone(launch_folder: Path) -> None:
    spec = by_recipe(launch_folder, "cloud_init: {runcmd: ['echo ${rank} ${address}']}")
    assert spec.config.cloud_init.runcmd == ["echo ${rank} ${address}"], "filled in when a rank's seed is made"
    with pytest.raises(ConfigError, match=r"app\.command\[1\]: \$\{rank\}: there is no key 'rank'"):
        by_recipe(launch_folder, "app: {command: [echo, '${rank}']}")


@pytest.mark.parametrize(
    ("text", "references"),
    [
        ("a ${b} c ${d.e}", ["${b}", "${d.e}"]),
        (r"\${b} \\${c} \\\${d}", ["${c}"]),
        ("${a.${b}}x", ["${a.${b}}"]),
        ("$b $(c) ${", ["${"]),
        ("", []),
    ],
)
def test_references_are_found_with_what_is_nested_in_them(text: str, references: list[str]) -> None:
    assert list(references_in(text)) == references


@pytest.mark.parametrize("reference", ("${sweep}", "${image.path}", "${HOME}", "${image.drives}"))
def test_the_run_folder_is_named_by_scalars(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: "):
        compose([f"hydra.run.dir=x{reference}"], 1)


def test_a_recipe_may_name_the_run_folder(launch_folder: Path) -> None:
    assert by_recipe(launch_folder, "hydra: {run: {dir: mine}}").run_dir == launch_folder / "mine"
