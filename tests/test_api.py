"""The public API, as a program uses it: composing, and reading what runs and sweeps left."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

import mvpnet
from mvpnet.dataplane.counters import Counters as DataPathCounters
from mvpnet.records.inputs import Input
from mvpnet.records.typed import (
    Counters,
    InputFile,
    Manifest,
    QemuVersion,
    RankCounters,
    Result,
    Times,
    Verdict,
    read_as,
)
from mvpnet.sweep.sweep import Sweep, SweepJob
from records.runs import add_traffic, job, make_run

# -- what is in it -----------------------------------------------------------------------------------------------------


def python(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_importing_mvpnet_imports_nothing_else_of_it(tmp_path: Path) -> None:
    program = (
        "import sys; before = set(sys.modules); import mvpnet; print(mvpnet.__version__)\n"
        "print([m for m in set(sys.modules) - before if m.partition('.')[0] not in sys.stdlib_module_names])"
    )
    assert python(program, tmp_path) == f"{mvpnet.__version__}\n['mvpnet']\n"


def test_reading_a_run_imports_no_hydra(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    program = (
        "import sys, mvpnet; mvpnet.open_run('run').table()\n"
        "print([m for m in ('hydra', 'omegaconf', 'rich', 'requests', 'yaml', 'mpi4py.MPI') if m in sys.modules])"
    )
    assert python(program, tmp_path) == "[]\n"


@pytest.mark.parametrize("name", mvpnet.__all__)
def test_each_public_name_is_there_and_described(name: str) -> None:
    found = getattr(mvpnet, name)
    assert name in dir(mvpnet) and inspect.getdoc(found)


def test_a_name_that_is_not_public_is_none() -> None:
    with pytest.raises(AttributeError, match="module 'mvpnet' has no attribute 'composed'"):
        _ = mvpnet.composed


# -- composing ---------------------------------------------------------------------------------------------------------


def test_compose_returns_what_the_command_line_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = mvpnet.compose(["net=dgram", "ranks=[big_head]", "job.name=j1"], ranks=3)
    assert isinstance(spec, mvpnet.JobSpec)
    assert (spec.world_size, spec.name, spec.config.net.kind.name) == (3, "j1", "dgram")
    assert [spec.for_rank(rank).vm.memory for rank in range(3)] == ["8G", "1G", "1G"]
    assert list(tmp_path.iterdir()) == [], "composing makes nothing"


def test_compose_works_again_and_again_and_each_call_for_itself(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "mine.yaml").write_text("memory: 3G\n")
    assert mvpnet.compose(["vm=mine"], config_dir=tmp_path).config.vm.memory == "3G"
    assert mvpnet.compose().world_size == 4
    with pytest.raises(mvpnet.ConfigError, match="mine"):
        mvpnet.compose(["vm=mine"])
    assert mvpnet.compose(["vm.memory=5G"]).config.vm.memory == "5G"


def test_a_refused_compose_says_what_the_command_line_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mvpnet", "plan", "vm.cpos=2"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    with pytest.raises(mvpnet.ConfigError) as refused:
        mvpnet.compose(["vm.cpos=2"])
    assert said.stderr == f"mvpnet: {refused.value}\n" and said.returncode == refused.value.exit_code
    assert isinstance(refused.value, mvpnet.MvpnetError)


@pytest.mark.parametrize("overrides", [["vm.memory=2G"], ["vm.cpos=2"]])
def test_compose_leaves_hydra_as_it_was(overrides: list[str]) -> None:
    before = VersionBase.instance().version_base
    try:
        mvpnet.compose(overrides)
    except mvpnet.ConfigError:
        assert overrides == ["vm.cpos=2"]
    assert not GlobalHydra.instance().is_initialized()
    assert VersionBase.instance().version_base == before


def test_compose_works_inside_a_program_that_is_hydras(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("size: 2G\n")
    (tmp_path / "program.py").write_text(
        "import hydra, mvpnet\n"
        "from hydra.core.global_hydra import GlobalHydra\n"
        "from hydra.core.hydra_config import HydraConfig\n"
        "@hydra.main(version_base='1.2', config_path='.', config_name='config')\n"
        "def main(config):\n"
        "    spec = mvpnet.compose([f'vm.memory={config.size}'], 2)\n"
        "    print(spec.config.vm.memory, HydraConfig.get().job.name, GlobalHydra.instance().is_initialized())\n"
        "    print(hydra.version.getbase())\n"
        "main()\n"
    )
    assert python("import runpy; runpy.run_path('program.py', run_name='__main__')", tmp_path) == (
        "2G program True\n1.2\n"
    )


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_and_all_that_is_known_of_it(tmp_path: Path) -> None:
    disk = Input("image.path", "/disk", 512, 1, "ab" * 32, "store")
    add_traffic(make_run(tmp_path / "run", inputs=[disk], metrics={"mbits": 5}))
    run = mvpnet.open_run(tmp_path / "run")
    assert (run.spec.name, run.spec.world_size, run.spec.config) == ("records", 2, job(tmp_path).config)
    assert run.manifest.verdict == Verdict("the app ended", 0)
    assert run.manifest.hosts["here"].memory_bytes == 2**30 and run.manifest.hosts["here"].ranks == "0-1"
    assert run.manifest.software.qemu == QemuVersion("/qemu", "7.2.0")
    assert [run.manifest.ranks[rank].states[2] for rank in (0, 1)] == [("up", 1002.0)] * 2
    assert InputFile("image.path", "0-1", "/disk", 512, 1, "ab" * 32, "store") in run.manifest.inputs
    assert run.manifest.times.begun and run.manifest.times.up == 1002.0
    assert run.metrics == {"mbits": 5.0}
    assert run.result == Result(0, metrics={"mbits": 5.0})
    assert run.counters.traffic_bytes == {0: {1: 36000}, 1: {0: 36001}}
    assert [counts.drops for counts in run.counters.ranks] == [{"guest_full": 0}, {"guest_full": 3}]
    assert run.paths.ssh_config == tmp_path / "run" / "ssh_config"
    assert not run.is_sweep and run.jobs == ()


def test_the_manifest_has_a_name_for_all_that_is_recorded(tmp_path: Path) -> None:
    recorded = json.loads(make_run(tmp_path / "run").manifest.read_text())
    assert recorded.keys() - {field.name for field in fields(Manifest)} == {"spec"}, "the spec is Run.spec"
    assert recorded["times"].keys() <= {field.name for field in fields(Times)}
    counted = {name for name in DataPathCounters.__slots__ if name != "bytes_by_destination"}
    assert counted <= {field.name for field in fields(RankCounters)}


def test_a_run_without_an_end(tmp_path: Path) -> None:
    make_run(tmp_path / "run", ended=False)
    run = mvpnet.open_run(str(tmp_path / "run"))
    assert (run.manifest.status, run.manifest.verdict, run.result) == ("running", None, None)
    assert (run.metrics, run.counters) == ({}, Counters())
    [row] = run.table()
    assert (row.folder, row.verdict, row.metrics) == (tmp_path / "run", None, {})


def test_keys_of_other_versions_are_ignored_and_missing_ones_have_defaults() -> None:
    assert (
        read_as(Result, {"exit_code": 3, "mood": "good", "times": {"boot_s": 1, "tea_s": 2}}, "x").times.boot_s == 1.0
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"exit_code": "no"}, "result.json: exit_code: 'no' is no int"),
        ({"exit_code": True}, "True is no int"),
        ({"exit_code": 0, "metrics": {"a": "b"}}, "result.json: metrics.a: 'b' is no float"),
        ({"exit_code": 0, "steps": [{"name": "one"}]}, r"steps\[0\]: is not whole: it has no kind"),
        ({"exit_code": 0, "times": 3}, "result.json: times: 3 is no ResultTimes"),
        ({"verdict": "ended"}, "result.json: is not whole: it has no exit_code"),
    ],
)
def test_a_broken_file_is_named_with_its_key(tmp_path: Path, content: dict[str, object], says: str) -> None:
    run = make_run(tmp_path / "run")
    run.result_json.write_text(json.dumps(content))
    with pytest.raises(mvpnet.ConfigError, match=says):
        _ = mvpnet.open_run(run.root).result


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_no_run_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(mvpnet.ConfigError, match=r"no such run folder|is no run folder"):
        mvpnet.open_run(tmp_path / folder)


# -- sweeps ------------------------------------------------------------------------------------------------------------


def make_sweep(folder: Path) -> Path:
    """A sweep of three jobs: one that ended well, one that ended badly, one that was refused."""
    sweep = Sweep(("-m", "vm.memory=1G,2G,many"))
    jobs = sweep.plan(folder, [SweepJob((f"vm.memory={memory}", "job.name=s")) for memory in ("1G", "2G", "many")])
    for number, one in enumerate(jobs[:2]):
        sweep.begin(one)
        run = make_run(folder / str(number), code=7 * number)
        ended = {"format": 1, "verdict": "the app ended\nso", "exit_code": 7 * number, "digest": "d", "repeat": 1}
        run.result_json.write_text(json.dumps({**ended, "times": {"boot_s": 2.5}, "metrics": {"mbits": 5 + number}}))
        one.folder = run.root
        sweep.end()
    sweep.begin(jobs[2])
    sweep.failed("vm.memory: no size", 2)
    sweep.end()
    return folder


def test_the_table_of_a_sweep(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep")
    run = mvpnet.open_run(folder)
    assert run.is_sweep and [one.paths.root.name for one in run.jobs] == ["0", "1"]
    rows = run.table()
    assert [dict(row.overrides) for row in rows] == [{"vm.memory": memory} for memory in ("1G", "2G", "many")]
    assert [row.folder for row in rows] == [folder / "0", folder / "1", None]
    assert [row.metrics for row in rows] == [{"mbits": 5.0}, {"mbits": 6.0}, {}]
    assert [row.verdict for row in rows] == [
        Verdict("the app ended", 0),
        Verdict("the app ended", 7),
        Verdict("vm.memory: no size", 2),
    ]
    assert rows[0].times.boot_s == 2.5


def test_the_table_of_a_sweep_whose_results_were_not_copied(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep")
    (folder / "results.json").unlink()
    rows = mvpnet.open_run(folder).table()
    assert [(row.folder, row.verdict and row.verdict.code) for row in rows] == [(folder / "0", 0), (folder / "1", 7)]
    assert [row.metrics["mbits"] for row in rows] == [5.0, 6.0]


def test_a_sweep_has_no_spec_of_its_own(tmp_path: Path) -> None:
    run = mvpnet.open_run(make_sweep(tmp_path / "sweep"))
    with pytest.raises(mvpnet.ConfigError, match="is the folder of a sweep"):
        _ = run.spec
