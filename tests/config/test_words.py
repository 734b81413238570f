"""Words stay as typed, in files and on the command line; what cannot be told apart is refused with how to quote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hypothesis import given, settings
from hypothesis import strategies as st

from mvpnet.cloudinit.yaml_file import parse_yaml
from mvpnet.config.compose import compose
from mvpnet.config.kinds import kind_at
from mvpnet.config.value_text import as_written
from mvpnet.config.words import hydra_words
from mvpnet.errors import ConfigError
from mvpnet.spec.aliases import OldNames
from mvpnet.spec.kinds import Free, Keys, Kind, ListOf, Text
from mvpnet.spec.model import JobSpec
from mvpnet.util.hydra_quotes import quoted, without_quotes

# What YAML 1.1, OmegaConf or Hydra read as a number, a date, a switch or nothing.
REWRITTEN = (
    *("0644", "0xf0", "0o17", "12:30:00", "1e6", "2026_06_03", "1.10", "1.0", "+5", "-0", ".5", "1_000", "007"),
    *("true", "True", "yes", "on", "off", "No", "inf", ".nan", "NaN", "2026-06-03", "52:54:00:12:34:56", "="),
)
NOTHING = ("null", "Null", "~")
TEXT_KEYS = ("job.name", "image.path", "vm.machine", "image.kernel_args", "net.tftp_dir", "cloud_init.timezone")


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    return tmp_path


def by_recipe(folder: Path, document: str, *overrides: str) -> JobSpec:
    recipe = folder / "mvpnet.d" / "recipe" / "mine.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(f"# @package _global_\n{document}\n")
    return compose(["recipe=mine", *overrides], 4)


def test_words_of_commands_in_a_file_are_as_written(launch_folder: Path) -> None:
    words = [*REWRITTEN, *NOTHING]
    written = ", ".join(words)
    config = by_recipe(
        launch_folder,
        f"""
app:
  kind: guest
  steps:
    one: {{command: [{written}], script: null, collect: [{", ".join(REWRITTEN)}]}}
cloud_init: {{runcmd: [[{written}]], ssh_authorized_keys: []}}
qemu: {{extra_args: [{written}]}}
net: {{domains: [{written}]}}
""",
    ).config
    assert config.app.steps["one"]["command"] == words
    assert config.app.steps["one"]["collect"] == [*REWRITTEN]
    assert config.cloud_init.runcmd == [words]
    assert config.qemu.extra_args == words
    assert config.net.domains == words


@pytest.mark.parametrize("word", ("0644", "0xf0", "12:30:00", "1e6", "1.10", "yes", "2026-06-03", "="))
def test_texts_in_a_file_are_as_written(launch_folder: Path, word: str) -> None:
    spec = by_recipe(
        launch_folder,
        f"""
app: {{command: {word}}}
image: {{kernel_args: {word}}}
cloud_init: {{timezone: {word}, write_files: [{{path: /x, permissions: {word}, content: {word}}}]}}
ranks: {{a: {{on: 0, vm: {{machine: {word}}}, cloud_init: {{runcmd: [{word}]}}}}}}
""",
    )
    config, changes = spec.config, spec.overrides[0].changes
    assert (config.app.command, config.image.kernel_args, config.cloud_init.timezone) == (word, word, word)
    assert config.cloud_init.write_files == [{"path": "/x", "permissions": word, "content": word}]
    assert changes["vm"]["machine"] == word
    assert changes["cloud_init"]["runcmd"] == [word]


def test_texts_in_mappings_and_lists_of_a_file_are_as_written(launch_folder: Path) -> None:
    named = ", ".join(f"p{i}: {word}" for i, word in enumerate(REWRITTEN))
    written = ", ".join(REWRITTEN)
    config = by_recipe(
        launch_folder,
        f"image: {{properties: {{{named}}}}}\n"
        f"cloud_init: {{runcmd: [{written}], packages: [{written}, [nginx, 1.10], {{apt: [{written}]}}]}}",
    ).config
    assert list(config.image.properties.values()) == [*REWRITTEN]
    assert config.cloud_init.runcmd == [*REWRITTEN]
    assert config.cloud_init.packages == [*REWRITTEN, ["nginx", "1.10"], {"apt": [*REWRITTEN]}]


def test_words_and_texts_on_the_command_line_are_as_written() -> None:
    words = [*REWRITTEN, *NOTHING]
    written = ",".join(words)
    named = ", ".join(f"p{i}: {word}" for i, word in enumerate(words))
    config = compose(
        [
            f"app.command=[{written}]",
            f"cloud_init.runcmd=[[{written}],x]",
            f"cloud_init.packages=[[nginx,1.10],{','.join(REWRITTEN)}]",
            f"image.properties={{{named}}}",
            f"qemu.extra_args=[{written}]",
        ],
        4,
    ).config
    assert config.app.command == words
    assert config.cloud_init.runcmd == [words, "x"]
    assert config.cloud_init.packages == [["nginx", "1.10"], *REWRITTEN]
    assert list(config.image.properties.values()) == words
    assert config.qemu.extra_args == words


@pytest.mark.parametrize("word", ("0644", "0xf0", "12:30:00", "1e6", "1.10", "true", "2026_06_03", "="))
def test_a_text_on_the_command_line_is_as_written(word: str) -> None:
    spec = compose(
        [
            f"image.kernel_args={word}",
            f"vm.machine={word}",
            f"+ranks.a={{on: 0, vm: {{machine: {word}}}}}",
            f"hydra.run.dir=/r/{word}",
            f"+app.steps.one.command=[x,{word}]",
            f"+app.steps.two={{command: [x,{word}]}}",
        ],
        4,
    )
    assert (spec.config.image.kernel_args, spec.config.vm.machine) == (word, word)
    assert spec.overrides[0].changes["vm"]["machine"] == word
    assert spec.run_dir == Path(f"/r/{word}")
    assert [step["command"] for step in spec.config.app.steps.values()] == [["x", word]] * 2


@pytest.mark.parametrize("name", ["2026_06_03", "1e6", "1.10", "0644", "true"])
def test_a_run_folder_and_a_job_are_named_as_written(launch_folder: Path, name: str) -> None:
    spec = compose([f"hydra.run.dir={name}", f"job.name={name}"], 1)
    assert spec.run_dir == launch_folder / name
    assert spec.config.job.name == name


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_null_is_no_value_where_one_may_be_missing(key: str) -> None:
    assert hydra_words([f"{key}=null"], OldNames()) == [f"{key}=null"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("{a: 1.10, b: 3, c: 2.5}", {"a": "1.10", "b": 3, "c": 2.5}),
        ("{on: yes, off: no}", {"on": True, "off": False}),
        ("{mac: 52:54:00:12:34:56, mode: 0644, day: 2026-06-03}", None),
        ("{runcmd: [[chmod, 0644, f], 12:30:00], packages: [1.10]}", None),
        ("{write_files: [{path: /x, permissions: 0644, append: yes}]}", None),
    ],
)
def test_cloud_configs_own_settings_are_read_without_loss(launch_folder: Path, written: str, read: Any) -> None:
    """Numbers that a program would write in the same way are numbers; what cloud-init asks texts for is text."""
    user_data = by_recipe(launch_folder, f"cloud_init: {{user_data: {written}}}").config.cloud_init.user_data
    told = {
        "mac": {"mac": "52:54:00:12:34:56", "mode": "0644", "day": "2026-06-03"},
        "runcmd": {"runcmd": [["chmod", "0644", "f"], "12:30:00"], "packages": ["1.10"]},
        "write_files": {"write_files": [{"path": "/x", "permissions": "0644", "append": True}]},
    }
    assert user_data == (read or told[next(iter(user_data))])


def test_meta_data_and_network_config_are_read_without_loss(launch_folder: Path) -> None:
    config = by_recipe(
        launch_folder,
        "cloud_init:\n  meta_data: {v: 1.10, n: 3}\n"
        "  network_config: {ethernets: {e0: {mtu: 1400, match: {macaddress: 52:54:00:12:34:56}}}}",
    ).config.cloud_init
    assert config.meta_data == {"v": "1.10", "n": 3}
    assert config.network_config["ethernets"]["e0"] == {"mtu": 1400, "match": {"macaddress": "52:54:00:12:34:56"}}


def test_numbers_and_switches_are_read_as_ever(launch_folder: Path) -> None:
    spec = by_recipe(
        launch_folder,
        "vm: {cpus: 0x2}\napp: {show_output: yes, timeout_s: 1e3}\nimage: {size: null, locked: on}\njob: {ranks: 3}",
    )
    config = spec.config
    assert (config.vm.cpus, config.app.show_output, config.app.timeout_s) == (2, True, 1000.0)
    assert (config.image.size, config.image.locked, config.job.ranks) == (None, True, 3)


def test_names_of_steps_rank_sets_and_files_are_as_written(launch_folder: Path) -> None:
    spec = by_recipe(
        launch_folder,
        "app: {steps: {01: {command: [x]}, on: {command: [y]}}}\nranks: {1: {on: 0}, 1.10: {on: 1}}\n"
        "cloud_init: {files: {/x: 1.10}}",
    )
    assert list(spec.config.app.steps) == ["01", "on"]
    assert [override.name for override in spec.overrides] == ["1", "1.10"]
    assert spec.config.cloud_init.files == {"/x": str(launch_folder / "1.10")}


def test_merge_keys_and_anchors_go_through(launch_folder: Path) -> None:
    spec = by_recipe(
        launch_folder,
        "app:\n  steps:\n    a: &a {command: &c [chmod, 0644, f], timeout_s: 5}\n    b: {<<: *a, timeout_s: 6}\n"
        "    c: {command: *c}",
    )
    assert [step["command"] for step in spec.config.app.steps.values()] == [["chmod", "0644", "f"]] * 3
    assert spec.config.app.steps["b"]["timeout_s"] == 6.0


def test_folders_of_hydras_searchpath_are_read_like_the_users_own(launch_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "more" / "recipe" / "theirs.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# @package _global_\napp: {command: [chmod, 0644]}\nnet: {spin_us: 7}\n")
    for folder in (f"file://{tmp_path}/more", f"{tmp_path}/more"):
        spec = compose([f"hydra.searchpath=[{folder}]", "recipe=theirs"], 1)
        assert spec.config.app.command == ["chmod", "0644"]
        assert spec.config.net.busy_poll_us == 7, "old names of keys are known there too"


@pytest.mark.parametrize(
    "value",
    [
        *("~/d.qcow2", "d#1.qcow2", "Größe/d.qcow2", "(1)", "d(1).qcow2", "{x}", "a;b", "a!b", "it's", 'a"b', "a=b"),
        *("x,media=disk", "~/a,b", " lead", "a : b", "[x].qcow2", "<a>", "a&b", "`x`", "^x", "“x”", "a\tb", "x\\~"),
    ],
)
def test_a_word_that_is_one_value_is_taken_whole(value: str) -> None:
    key = "image.kernel_args"
    assert compose([f"{key}={value}"], 1).config.image.kernel_args == value
    (word,) = hydra_words([f"{key}={value}"], OldNames())
    assert hydra_words([word], OldNames()) == [word], "a recorded word is read again"


def test_words_of_a_list_are_taken_whole() -> None:
    words = ["./run.sh", "--size=5", "{print $1, $2}", "a[1]", "for i in 1 2; do echo $i; done", "x#y", "~/x", "(y)"]
    assert compose([f"app.command=[{','.join(words)}]"], 1).config.app.command == words


@pytest.mark.parametrize(
    ("word", "told", "hint"),
    [
        ("app.command=[sh,-c,it's]", "cannot tell where it's ends", '"it\'s"'),
        ('app.command=[sh,-c,echo "a, b"]', 'cannot tell where echo "a ends', "'echo \"a, b\"'"),
        ("image.path=a\\,b~", "cannot tell whether the backslashes", '"a\\,b~"'),
        ("vm.cpus=~4", "vm.cpus: Value '~4'", ""),
        ("image.pat=~/d.qcow2", "there is no key 'image.pat' (did you mean image.path", ""),
        ("image.path = d.qcow2", "blanks before the =", "image.path=d.qcow2"),
        ("app.command=[a", "brackets do not fit together", "needs quotes of its own"),
        ('app.command=[a,"b"c]', 'whether the quotes in "b"c are its own', "'\"b\"c'"),
        ("hydra.searchpath=[/nosuch]", "there is no folder /nosuch", ""),
        ("cloud_init.ssh_authorized_keys=[-----BEGIN OPENSSH PRIVATE KEY-----]", "holds a private key", ".pub"),
        ("app.command=[a,,b]", "do not fit together", "needs quotes of its own"),
        ("vm.memory=1G,2G", "vm.memory: 1G,2G is several values", "'vm.memory=\"1G,2G\"'"),
        ("=x", "cannot read '=x'", "KEY=VALUE"),
        ("x", "cannot read 'x'", "KEY=VALUE"),
        ("~", "cannot read '~'", "KEY=VALUE"),
        ("image=1.10", "image: there is no option '1.10'", "options of image"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_with_quotes(word: str, told: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([word], 1)
    assert told in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("word", ["int(3)", "str(1.10)", "glob(*)", "print(3)", "choice(a)", "float(1)"])
def test_functions_of_hydras_are_words_in_a_list(word: str) -> None:
    config = compose([f"app.command=[sh,-c,{word}]", f"image.properties={{x: {word}}}"], 1).config
    assert config.app.command == ["sh", "-c", word]
    assert config.image.properties == {"x": word}


@pytest.mark.parametrize("default", ["1.10", "1e6", "1_0", "true", "0644", "a b"])
def test_the_default_of_a_variable_is_as_written(launch_folder: Path, default: str) -> None:
    reference = f"${{oc.env:NOSUCH,{default}}}"
    spec = by_recipe(launch_folder, f"image: {{kernel_args: 'x {reference}'}}", f"app.command=[a,'{reference}']")
    assert (spec.config.image.kernel_args, spec.config.app.command) == (f"x {default}", ["a", default])
    assert compose(["vm.cpus=${oc.env:NOSUCH,3}", "logging.console=${oc.env:NOSUCH,false}"], 1).config.vm.cpus == 3


def test_in_a_sweep_commas_are_between_values() -> None:
    words = hydra_words(["-m", "vm.cpu_model=1e6,~x,host", "app.command=[a,1.10],[b]", "vm.cpus=1,2"], OldNames())
    assert words == ["-m", 'vm.cpu_model="1e6","~x",host', 'app.command=[a,"1.10"],[b]', "vm.cpus=1,2"]
    with pytest.raises(ConfigError, match="commas in 4,sockets=2") as caught:
        hydra_words(["-m", "vm.smp=4,sockets=2"], OldNames())
    assert "'vm.smp=\"4,sockets=2\"'" in str(caught.value.hint)
    assert hydra_words(["vm.smp=4,sockets=2"], OldNames()) == ['vm.smp="4,sockets=2"']


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("choice(1.10,~/x)", ["1.10", "~/x"]),
        ("shuffle(1e6,a)", ["1e6", "a"]),
        ("sort(b,1.10,reverse=true)", ["b", "1.10"]),
    ],
)
def test_values_within_hydras_functions_are_as_written(value: str, read: list[str]) -> None:
    word = as_written("vm.cpu_model", value, kind_at("vm.cpu_model"), sweeping=True)
    sweep = OverridesParser.create().parse_override(f"vm.cpu_model={word}").value()
    assert isinstance(sweep, ChoiceSweep)
    assert sorted(str(getattr(one, "text", one)) for one in sweep.list) == sorted(read)


@pytest.mark.parametrize("document", ["a: [", "a: !!int x", "a: !x y", "- a", "x", "a: 1\na: 2", "a: &a [*a]"])
def test_a_file_that_is_no_config_is_refused_by_name(launch_folder: Path, document: str) -> None:
    with pytest.raises(ConfigError, match=r"the config file recipe/mine\.yaml: ") as caught:
        by_recipe(launch_folder, document)
    assert "Traceback" not in str(caught.value)


def test_a_file_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(launch_folder: Path) -> None:
    by_recipe(launch_folder, "")
    file = launch_folder / "mvpnet.d" / "recipe" / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbf# @package _global_\njob: {name: a}\n")
    assert compose(["recipe=mine"], 1).config.job.name == "a"
    file.write_bytes("# @package _global_\njob: {name: Größe}\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"recipe/mine\.yaml: is no text in UTF-8"):
        compose(["recipe=mine"], 1)


def _text_kinds(kind: Kind) -> int:
    """Count the texts of a kind; those below mappings of any name count once."""
    if isinstance(kind, Keys):
        parts = [*kind.known.values(), *([kind.others] if kind.others else [])]
        return sum(_text_kinds(part) for part in parts)
    if isinstance(kind, ListOf):
        return _text_kinds(kind.items)
    return isinstance(kind, Text)


def test_every_key_of_the_schema_that_is_a_text_is_known_as_one() -> None:
    assert isinstance(kind_at("image.path"), Text)
    assert isinstance(kind_at("ranks.a.image.path"), Text)
    assert isinstance(kind_at("app.steps.a.push./x"), Text) or isinstance(kind_at("app.steps.a.push"), Keys)
    assert isinstance(kind_at("cloud_init.user_data.anything.else"), Free)
    assert kind_at("nosuch.key") is None
    assert _text_kinds(kind_at("") or Kind()) > 100


# Signs of every class that Hydra's lexer knows, and some that it does not.
_SIGNS = st.text(alphabet="aZ019_-+.,:;=~#%*@?|/\\'\"()[]{}$ \té€", max_size=12)


@settings(max_examples=400, deadline=None)
@given(_SIGNS)
def test_hydra_reads_the_quotes_as_they_are_meant(text: str) -> None:
    """`quoted` is the inverse of Hydra's reading of a text in quotes, and `without_quotes` reads as Hydra does."""
    assert without_quotes(quoted(text)) == text
    assert OverridesParser.create().parse_override(f"k={quoted(text)}").value() == text


@settings(max_examples=600, deadline=None)
@given(_SIGNS, st.booleans())
def test_a_text_key_gets_what_was_typed_or_refuses_it(text: str, sweeping: bool) -> None:
    """Backslashes and quotes are Hydra's own where it can read them, and so are commas in a sweep."""
    try:
        word = as_written("image.path", text, Text(), sweeping)
    except ConfigError:
        return
    if any(sign in text for sign in ",\\'\"") or "${" in text or text.lower() == "null":
        return
    assert str(OverridesParser.create().parse_override(f"k={word}").value()) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aZ019_-+.:xeEoO~=", min_size=1, max_size=8))
def test_a_text_key_in_yaml_gets_what_was_written(text: str) -> None:
    """Wherever YAML reads a plain scalar at all."""
    try:
        (node,) = yaml.compose(f"[{text}]").value
    except (yaml.YAMLError, ValueError):
        return
    if isinstance(node, yaml.ScalarNode):
        assert parse_yaml(f"[{text}]", ListOf(Text(may_be_null=False)), "f") == [node.value]
