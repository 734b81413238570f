"""From overrides to specs, through Hydra: what composes, and how what does not is told."""

from __future__ import annotations

import json
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from mvpnet.config import compose, nodes
from mvpnet.config.launch_context import launch_context
from mvpnet.errors import ConfigError
from mvpnet.spec import schema
from mvpnet.spec.model import JobSpec
from mvpnet.spec.schema import Accel, ImageKind, ImageUse, NetKind


def composed(*overrides: str, world_size: int = 4) -> JobSpec:
    return compose.compose(list(overrides), world_size)


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    return tmp_path


def option(folder: Path, group: str, name: str, text: str) -> None:
    (folder / group).mkdir(parents=True, exist_ok=True)
    (folder / group / f"{name}.yaml").write_text(text)


def test_the_default_is_tiny_guests_on_a_stream_link() -> None:
    spec = composed()
    assert (spec.config.image.kind, spec.config.net.kind) == (ImageKind.tiny, NetKind.stream)
    assert spec.config == schema.Config(
        job=schema.Job(name=spec.name), image=schema.Image(user="root"), app=spec.config.app
    )


def test_groups_and_keys_compose() -> None:
    spec = composed("net=dgram", "vm=large", "vm.memory=2G", "vm.accel=tcg", "image.use=copy")
    rank = spec.for_rank(3)
    assert (rank.net.kind, rank.vm.memory, rank.vm.cpus, rank.vm.accel) == (NetKind.dgram, "2G", 4, Accel.tcg)
    assert rank.image.use is ImageUse.copy


@pytest.mark.parametrize(
    ("written", "firmware"),
    [("auto", "auto"), ("fw/CODE.fd", "{folder}/fw/CODE.fd"), ("./auto", "{folder}/auto"), ("/a/b", "/a/b")],
)
def test_firmware_is_a_path_or_auto_for_all_ranks_and_for_some(
    launch_folder: Path, written: str, firmware: str
) -> None:
    expected = firmware.format(folder=launch_folder)
    assert composed(f"vm.firmware={written}").for_rank(0).vm.firmware == expected
    some = composed(f"+ranks.some={{on: last, vm: {{firmware: {written}}}}}")
    assert [some.for_rank(rank).vm.firmware for rank in (0, 3)] == [None, expected]


@pytest.mark.parametrize("group", [*schema.GROUPS, "ranks", "recipe"])
def test_every_shipped_option_composes(group: str) -> None:
    options = sorted(path.stem for path in (compose.conf_folder() / group).glob("*.yaml"))
    assert options
    for name in options:
        extra = ["image.path=disk.qcow2"] if (group, name) == ("image", "file") else []
        composed(f"{group}=[{name}]" if group == "ranks" else f"{group}={name}", *extra)


def test_every_key_of_the_schema_can_be_set_by_its_name() -> None:
    defaults = composed("image.path=x")
    for key in nodes.all_keys():
        section, _, leaf = key.partition(".")
        if leaf and section in schema.GROUPS and isinstance(attrgetter(key)(defaults.config), bool):
            changed = composed("image.path=x", f"{key}=true", "image.copy_dir=.")
            assert attrgetter(key)(changed.config) is True


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("vm.acel=kvm", ["vm.acel", "vm.accel", "command line"]),
        ("memory=2G", ["memory"]),
        ("vm={memory: 1G, cpos: 3}", ["no key 'vm.cpos'", "vm.cpus"]),
        ("vm=[", ["cannot read 'vm=['"]),
        ("+vm.cpus=3", ["++vm.cpus=3"]),
        ("vm.memory=${nope.x}", ["vm.memory", "nope.x"]),
        ("vmm.memory=2G", ["vmm.memory", "vm.memory"]),
        ("+vm.foo=1", ["vm.foo"]),
        ("+extra=1", ["extra"]),
        ("vm.accel=kvmm", ["vm.accel", "kvmm", "auto, kvm, tcg"]),
        ("vm.cpus=two", ["vm.cpus", "two", "Integer"]),
        ("vm.memory=2Q", ["vm.memory", "2Q", "512M"]),
        ("image=cent", ["image", "cent", "tiny"]),
        ("net=dgramm", ["net", "dgramm", "did you mean dgram"]),
        ("imag=tiny", ["imag", "image"]),
        ("ranks=[bighead]", ["bighead", "did you mean big_head"]),
        ("vm=[", ["vm=["]),
        ("+ranks.a={on: x}", ["ranks.a.on", "'x'"]),
        ("+ranks.a={vm: {cpus: 2}}", ["ranks.a", "no rank set"]),
        ("+ranks.a={on: all, vm: {cpos: 2}}", ["ranks.a.vm.cpos", "ranks.a.vm.cpus"]),
        ("+ranks.a={on: all, vm: {cpus: x}}", ["ranks.a.vm.cpus", "'x'"]),
        ("+ranks.a={on: all, net: {mtu: 9000}}", ["ranks.a.net", "per rank"]),
        ("+ranks.a={on: all, vm: 3}", ["ranks.a.vm"]),
        ("boot.wait_for=cloud_init", ["boot.wait_for", "tiny", "image=debian12-built"]),
        ("boot.wait_for=cloudinit", ["boot.wait_for", "cloudinit", "ssh, cloud_init"]),
        ("app.command=''", ["app.command", "empty"]),
        ("app.steps={a: {comand: x}}", ["app.steps.a.comand", "did you mean app.steps.a.command?"]),
        ("app.steps={a: {command: x, timeout_s: soon}}", ["app.steps.a.timeout_s", "'soon'"]),
        ("app.steps={a: 3}", ["app.steps.a", "group of keys"]),
        ('app.command="\'unclosed"', ["app.command"]),
    ],
)
def test_what_is_refused_is_named_with_its_place_and_near_misses(override: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(override)
    message = str(caught.value)
    assert all(part in message for part in says), message
    assert "Traceback" not in message and "full_key" not in message
    assert caught.value.exit_code == 2


def test_a_mistake_in_a_config_file_is_told_with_the_file(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "vm", "mine", "defaults: [schema]\nmemry: 3G\n")
    with pytest.raises(ConfigError, match=r"vm\.memry.*vm\.memory[^$]*vm/mine"):
        composed("vm=mine")


def test_a_group_that_is_none_is_told_with_the_file(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "recipe", "mine", "# @package _global_\ndefaults: [override /imagee: file]\n")
    with pytest.raises(
        ConfigError, match=r"no config group 'imagee' \(did you mean image\?\)\s+in: .*recipe/mine\.yaml"
    ):
        composed("recipe=mine")


def test_a_defaults_list_that_is_none_is_told_with_the_file(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "vm", "mine", "defaults: {a: b}\n")
    with pytest.raises(ConfigError, match=r"defaults list in 'vm/mine'"):
        composed("vm=mine")


def test_a_config_file_that_is_no_yaml_is_told_with_the_line(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "vm", "mine", "memory: [3G\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        composed("vm=mine")


def test_users_add_options_and_the_nearer_folder_wins(launch_folder: Path) -> None:
    option(launch_folder / "home-config" / "mvpnet", "vm", "mine", "defaults: [schema]\nmemory: 3G\n")
    assert composed("vm=mine").config.vm.memory == "3G"
    option(launch_folder / "mvpnet.d", "vm", "mine", "defaults: [schema]\nmemory: 5G\n")
    assert composed("vm=mine").config.vm.memory == "5G"


def test_a_site_may_replace_a_shipped_option(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "vm", "default", "defaults: [schema]\nmemory: 7G\n")
    assert composed().config.vm.memory == "7G"


def test_a_config_dir_adds_options(launch_folder: Path) -> None:
    option(launch_folder / "more", "vm", "mine", "defaults: [schema]\nmemory: 6G\n")
    assert compose.compose(["vm=mine"], 1, str(launch_folder / "more")).config.vm.memory == "6G"


def test_rank_overrides_come_from_files_and_from_the_command_line() -> None:
    spec = composed("ranks=[big_head,console_on_zero]", '+ranks.mine={on: "1,last", vm: {cpus: 3}}')
    assert [o.name for o in spec.overrides] == ["big_head", "console_off", "console_on_zero", "mine"]
    assert [spec.for_rank(r).vm.cpus for r in range(4)] == [4, 3, 1, 3]
    assert [spec.for_rank(r).logging.console for r in range(4)] == [True, False, False, False]


def test_yaml_may_write_on_without_quotes(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "ranks", "mine", "mine: {on: 2, vm: {cpus: 2}}\n")
    assert [composed("ranks=[mine]").for_rank(r).vm.cpus for r in range(4)] == [1, 1, 2, 1]


def test_a_rank_may_have_another_image(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "ranks", "server", "defaults: [/image@server.image: file]\nserver: {on: 0}\n")
    spec = composed("ranks=[server]", "ranks.server.image.path=server.qcow2")
    assert spec.for_rank(0).image.path == str(launch_folder / "server.qcow2")
    assert spec.for_rank(1).image.kind is ImageKind.tiny


def test_paths_are_taken_from_the_folder_of_the_launch(launch_folder: Path) -> None:
    spec = composed(
        "image=file",
        'image.path="disk-{rank}.qcow2"',
        'image.drives=["data.img,cache=none","file=as-is.img,if=ide"]',
        "cloud_init.path=seed",
        "+ranks.a={on: 1, image: {path: other.img}}",
    )
    image = spec.for_rank(0).image
    assert image.path == f"{launch_folder}/disk-{{rank}}.qcow2"
    assert image.drives == [f"{launch_folder}/data.img,cache=none", "file=as-is.img,if=ide"]
    assert spec.for_rank(0).cloud_init.path == f"{launch_folder}/seed"
    assert spec.for_rank(1).image.path == f"{launch_folder}/other.img"


def test_the_job_is_named_after_the_batch_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert composed().name == "4711"
    assert composed().run_dir.name.endswith("-4711")


def test_what_was_typed_is_kept() -> None:
    assert composed("vm.cpus=2", "net=dgram").typed == ("vm.cpus=2", "net=dgram")


def test_options_may_stand_among_the_overrides() -> None:
    argv = ["image=tiny", "-m", "vm.memory=1G,2G", "--config-dir", "more", "net=dgram"]
    assert compose.flags_first(argv) == ["-m", "--config-dir", "more", "image=tiny", "vm.memory=1G,2G", "net=dgram"]


def test_a_steps_files_are_taken_from_the_folder_of_the_launch(launch_folder: Path) -> None:
    step = "{kind: guest, on: all, script: 'run.sh -q', push: {x: data}}"
    spec = composed(f"app.steps={{a: {step}}}", "app.user=alice")
    assert spec.config.app.steps == {
        "a": {
            "kind": "guest",
            "on": "all",
            "script": [f"{launch_folder}/run.sh", "-q"],
            "push": {"x": f"{launch_folder}/data"},
        }
    }


def test_on_is_a_key_without_quotes_too(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "recipe", "mine", "# @package _global_\napp: {kind: guest, on: all}\n")
    assert composed("recipe=mine").config.app.on == "all"


def test_a_recipe_that_does_not_say_where_its_keys_go_is_told_how(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "recipe", "mine", "vm: {memory: 1G}\n")
    with pytest.raises(ConfigError) as caught:
        composed("recipe=mine")
    assert "recipe/mine.yaml" in str(caught.value) and "# @package _global_" in str(caught.value)


SWEEP = """
import sys
from mvpnet.config import compose

def run_job(spec):
    print("job", spec.config.vm.cpus, flush=True)
    raise ProcessLookupError("nobody foresaw it")

compose.run(sys.argv[1:], 2, run_job, lambda error: 1)
"""


def test_a_sweep_does_not_go_on_after_what_nobody_foresaw(launch_folder: Path) -> None:
    """The ranks may be out of step: rank 0 is to end them all, not to begin the next job without them."""
    argv = ["-m", "vm.cpus=1,2,3", "hydra.sweep.dir=sweep"]
    ended = subprocess.run([sys.executable, "-c", SWEEP, *argv], capture_output=True, text=True)
    assert [line for line in ended.stdout.splitlines() if line.startswith("job ")] == ["job 1"], ended
    assert ended.returncode == 1 and "ProcessLookupError: nobody foresaw it" in ended.stderr


# -- old names -------------------------------------------------------------------------------------------------------


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: old names")]


def test_old_names_on_the_command_line_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    spec = composed("net.nap_ms=7", "++net.spin_us=3", "+ranks.a={on: 1, logging: {digest_s: 2}}", "job.silence_s=9")
    assert (spec.config.net.max_sleep_ms, spec.config.net.busy_poll_us) == (7, 3)
    assert (spec.config.job.heartbeat_timeout_s, spec.for_rank(1).logging.digest_timeout_s) == (9.0, 2.0)
    [line] = warnings(capsys)
    assert "net.nap_ms is net.max_sleep_ms now" in line and "net.spin_us is net.busy_poll_us now" in line
    assert "ranks.a.logging.digest_s is ranks.a.logging.digest_timeout_s now" in line
    composed("net.max_sleep_ms=7")
    assert warnings(capsys) == []


RECIPE_OF_OLD = """# @package _global_
defaults: [{override /cloud_init: default}, {override /net: mine}]
job: {silence_s: 8}
image: {kind: file, path: "${net.nap_ms}.img"}
app: {kind: guest, steps: {s: {command: [y], ssh_at_once: 4}}}
ranks: {a: {on: 1, logging: {digest_s: 2}}}
"""


def test_old_names_in_recipes_and_config_folders_work(launch_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option(launch_folder / "home-config/mvpnet", "net", "mine", "defaults: [schema]\nspin_us: 3\nnap_ms: 7\n")
    option(launch_folder / "mvpnet.d", "recipe", "mine", RECIPE_OF_OLD)
    spec = composed("recipe=mine")
    assert (spec.config.net.busy_poll_us, spec.config.net.max_sleep_ms) == (3, 7)
    assert spec.config.job.heartbeat_timeout_s == 8 and spec.config.cloud_init.seed is schema.SeedMode.make
    assert spec.config.app.steps["s"]["max_parallel_ssh"] == 4
    assert spec.for_rank(1).logging.digest_timeout_s == 2
    assert spec.config.image.path == f"{launch_folder}/7.img"
    [line] = warnings(capsys)
    for old in ("net.spin_us", "net.nap_ms", "job.silence_s", "app.steps.s.ssh_at_once", "cloud_init=default"):
        assert f"{old} is " in line


def test_old_names_in_a_config_dir_and_in_a_group_of_ranks_work(launch_folder: Path) -> None:
    option(launch_folder / "more", "ranks", "mine", "a: {on: 1, logging: {digest_s: 2}}\n")
    spec = compose.compose(["ranks=[mine]"], 2, str(launch_folder / "more"))
    assert spec.for_rank(1).logging.digest_timeout_s == 2


def test_the_command_line_goes_over_an_old_name_in_a_file(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "net", "mine", "defaults: [schema]\nnap_ms: 7\n")
    assert composed("net=mine", "net.max_sleep_ms=8").config.net.max_sleep_ms == 8
    assert composed("net=mine", "net.nap_ms=9").config.net.max_sleep_ms == 9


def test_both_names_in_a_file_are_refused_with_the_file(launch_folder: Path) -> None:
    option(launch_folder / "mvpnet.d", "net", "mine", "defaults: [schema]\nnap_ms: 7\nmax_sleep_ms: 7\n")
    with pytest.raises(ConfigError, match=r"config file net/mine\.yaml: net\.nap_ms.*net\.max_sleep_ms"):
        composed("net=mine")


def test_the_old_name_of_an_option_means_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert composed("cloud_init=default").config == composed("cloud_init=always").config
    assert warnings(capsys) == ["warning: old names: cloud_init=default is cloud_init=always now"]


def test_but_a_users_option_of_that_name_wins(launch_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option(launch_folder / "mvpnet.d", "cloud_init", "default", "defaults: [schema]\ntimezone: Europe/Berlin\n")
    assert composed("cloud_init=default").config.cloud_init.timezone == "Europe/Berlin"
    assert warnings(capsys) == []


def test_a_config_dir_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--config-dir: there is no folder .*nowhere"):
        compose.compose([], 1, "nowhere")


JOBS = """
import sys
from mvpnet.config import compose
from mvpnet.logs import say

def run_job(spec):
    net = spec.config.net
    say(f"job {net.busy_poll_us} {net.max_sleep_ms} {spec.config.vm.memory} {' '.join(spec.typed)}")
    return 0

def tell(error):
    say(str(error))
    return error.exit_code

sys.exit(max(compose.run(sys.argv[1:], 2, run_job, tell), default=0))
"""


def launched(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", JOBS, *argv], capture_output=True, text=True)


def test_a_sweep_over_an_old_name_is_one_over_the_new(launch_folder: Path) -> None:
    option(launch_folder / "more", "vm", "mine", "defaults: [schema]\nmemory: 3G\n")
    option(launch_folder / "mvpnet.d", "net", "mine", "defaults: [schema]\nnap_ms: 7\n")
    argv = ["-m", "net=mine", "net.spin_us=0,10", "--config-dir", "more", "vm=mine", "hydra.sweep.dir=sweep"]
    ended = launched(*argv)
    jobs = [line for line in ended.stderr.splitlines() if line.startswith("job ")]
    typed = "net=mine net.busy_poll_us={} vm=mine"
    assert jobs == [f"job {number} 7 3G {typed.format(number)}" for number in (0, 10)], ended.stderr
    told = [line for line in ended.stderr.splitlines() if line.startswith("warning")]
    assert told == [
        "warning: old names: net.spin_us is net.busy_poll_us now, net.nap_ms is net.max_sleep_ms now",
    ], ended.stderr
    results = json.loads((launch_folder / "sweep/results.json").read_text())
    assert results["keys"] == ["net.busy_poll_us"] and "net.busy_poll_us=0,10" in results["argv"]


def test_the_config_is_shown_by_its_new_names(launch_folder: Path) -> None:
    for argv in (["--cfg", "job"], ["--cfg", "job", "--resolve"]):
        ended = launched(*argv, "net.nap_ms=77", "cloud_init=default")
        assert ended.returncode == 0 and "max_sleep_ms: 77" in ended.stdout and "seed: make" in ended.stdout, ended
        assert "nap_ms" not in ended.stdout
        assert ended.stderr.splitlines() == [
            "warning: old names: net.nap_ms is net.max_sleep_ms now, cloud_init=default is cloud_init=always now"
        ]


def test_both_names_on_the_command_line_are_refused(launch_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"net\.nap_ms.*net\.max_sleep_ms, which is given too"):
        composed("net.nap_ms=7", "net.max_sleep_ms=7")


# -- what is handed to Hydra -----------------------------------------------------------------------------------------


def stored(tree: dict[str, Any], prefix: str = "") -> dict[str, int]:
    """The config nodes in Hydra's store, by path, with the identity of what is stored."""
    found: dict[str, int] = {}
    for name, node in tree.items():
        found |= stored(node, f"{prefix}{name}/") if isinstance(node, dict) else {f"{prefix}{name}": id(node)}
    return found


def test_nothing_is_stored_a_second_time() -> None:
    composed()
    store = ConfigStore.instance().repo
    before, plugins = stored(store), Plugins.instance().discover()
    assert {"schema.yaml", "hydra/launcher/mvpnet.yaml", *(f"{group}/schema.yaml" for group in schema.GROUPS)} <= {
        *before
    }
    composed("net=dgram")
    assert stored(store) == before and Plugins.instance().discover() == plugins


def test_the_launch_is_there_for_hydra_while_it_composes_and_not_after() -> None:
    composed()
    assert launch_context() is None
    with pytest.raises(ConfigError):
        composed("vm.cpus=none-such")
    assert launch_context() is None


def test_a_program_in_the_home_is_found(launch_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    command = "app.command=[~/run.sh,~/x]"
    assert composed(command).config.app.command == ["/home/me/run.sh", "~/x"], "only the program is a path"
    assert composed(command, "app.kind=guest").config.app.command == ["~/run.sh", "~/x"], "a guest has homes of its own"
    step = composed("+app.steps.one.command='~/run.sh 1'").config.app.steps["one"]
    assert step["command"] == ["/home/me/run.sh", "1"]
