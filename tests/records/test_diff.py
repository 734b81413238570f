"""What two runs differ in, as text, JSON and exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from mvpnet.cli.records import diff
from mvpnet.records.diff import Difference, differences
from mvpnet.records.inputs import Input
from mvpnet.records.run import open_run
from mvpnet.spec.schema import Vm
from records.runs import job, make_run

DISK = Input("image.path", "/disk", 5, 1, "a" * 64, "store")


def test_two_runs_of_the_same_differ_in_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / name, inputs=[DISK], metrics={"mbits": 5.0})
    assert differences(open_run(tmp_path / "one"), open_run(tmp_path / "two")) == []
    done = CliRunner().invoke(diff, [str(tmp_path / "one"), str(tmp_path / "two")], standalone_mode=False)
    assert (done.return_value, done.stdout) == (0, "")


def test_a_renamed_key_is_no_difference(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / name)
    path = tmp_path / "one" / "manifest.json"
    manifest = json.loads(path.read_text())
    net = manifest["spec"]["config"]["net"]
    net["nap_ms"] = net.pop("max_sleep_ms")
    path.write_text(json.dumps(manifest))
    assert differences(open_run(tmp_path / "one"), open_run(tmp_path / "two")) == []


def test_every_kind_of_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "one", job(tmp_path), inputs=[DISK], metrics={"mbits": 5.0, "loss": 1.0})
    other = job(tmp_path, vm=Vm(cpus=4))
    make_run(
        tmp_path / "two", other, inputs=[replace(DISK, sha256="b" * 64)], metrics={"mbits": 6.0, "delay": 2.0}, code=1
    )
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    manifest["software"]["mvpnet"]["version"] = "9.9"
    manifest["hosts"]["here"]["kernel"] = "another"
    (tmp_path / "two" / "manifest.json").write_text(json.dumps(manifest))
    found = differences(open_run(tmp_path / "one"), open_run(tmp_path / "two"))
    assert {(one.section, one.key) for one in found} == {
        ("spec", "config.vm.cpus"),
        ("inputs", "image.path (ranks 0-1)"),
        ("hosts", "here.kernel"),
        ("versions", "mvpnet.version"),
        ("verdict", "code"),
        ("metrics", "mbits"),
        ("metrics", "loss"),
        ("metrics", "delay"),
    }
    assert Difference("metrics", "mbits", 5.0, 6.0) in found
    assert [one.change for one in found if one.section == "metrics"] == ["+20.0 %", "", ""]
    arguments = [str(tmp_path / "one"), str(tmp_path / "two")]
    done = CliRunner().invoke(diff, arguments, standalone_mode=False)
    assert done.return_value == 1 and all(text in done.stdout for text in ("config.vm.cpus", "+20.0 %", "another"))
    done = CliRunner().invoke(diff, ["--json", "--only", "metrics", *arguments], standalone_mode=False)
    assert [one["key"] for one in json.loads(done.stdout)] == ["mbits", "loss", "delay"]
    done = CliRunner().invoke(diff, ["--only", "hosts", arguments[0], arguments[0]], standalone_mode=False)
    assert done.return_value == 0
