"""A sweep's own part: which jobs are done, what is typed again, and how the results are put down."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError
from mvpnet.sweep.model import SweepJob, swept_keys
from mvpnet.sweep.results import csv_text, document, next_number
from mvpnet.sweep.sweep import Sweep, remembered, resumed
from mvpnet.sweep.table import table


def result(folder: Path, digest: str, repeat: int = 1, code: int = 0, **more: Any) -> dict[str, Any]:
    whole = {
        "format": 1,
        "verdict": f"the app ended with exit code {code}",
        "exit_code": code,
        "digest": digest,
        "repeat": repeat,
        "times": {"started": "2026-11-24T12:00:00+0000", "total_s": 1.5},
        "steps": [],
        "metrics": {},
        **more,
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(whole))
    return whole


def job(*overrides: str, **facts: Any) -> SweepJob:
    return SweepJob(overrides, **facts)


def test_jobs_are_known_by_digest_and_repeat(tmp_path: Path) -> None:
    result(tmp_path / "0", "a", 1)
    result(tmp_path / "1", "b", 1, code=5)
    result(tmp_path / "5", "a", 2, format=2)  # of a later version
    (tmp_path / "6").mkdir()
    (tmp_path / "6/result.json").write_text('{"format": 1, "verd')  # the disk was full
    jobs = [job(digest=digest, repeat=repeat) for repeat in (1, 2) for digest in ("a", "b")]
    planned = Sweep((), resuming=True).plan(tmp_path, [*jobs, job(digest=None)])
    assert [one.done for one in planned] == [True, False, False, False, False]
    assert (planned[0].number, planned[0].folder) == (0, tmp_path / "0")
    assert next_number(tmp_path) == 7


def test_a_folder_of_no_jobs_begins_at_0(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").touch()
    assert next_number(tmp_path) == next_number(tmp_path / "nothing") == 0


def test_swept_keys_are_those_that_differ() -> None:
    jobs = [
        job("recipe=iperf", "net=stream", "+ranks.a.on=0", "sweep.repeat=2"),
        job("recipe=iperf", "net=dgram", "+ranks.a.on=1", "sweep.repeat=3"),
    ]
    assert swept_keys(jobs) == ["net", "ranks.a.on"]
    assert swept_keys(jobs[:1]) == []


def test_results_of_jobs_with_other_metrics_and_of_those_without_any(tmp_path: Path) -> None:
    jobs = [
        job("net=a", number=0, folder=tmp_path / "0", result=result(tmp_path / "0", "a", metrics={"ms": 1, "net": 2})),
        job("net=b", number=1, problem=("net.mtu: 3 is too little\n  hint: more", 2)),
        job("net=c"),
    ]
    lines = list(csv.DictReader(io.StringIO(csv_text(jobs))))
    assert [line["net"] for line in lines] == ["a", "b", "c"]
    assert (lines[0]["ms"], lines[0]["metric.net"], lines[0]["total_s"]) == ("1", "2", "1.5")
    assert (lines[1]["verdict"], lines[1]["exit_code"]) == ("net.mtu: 3 is too little", "2")
    assert lines[2]["exit_code"] == ""
    shown = table(jobs).splitlines()
    assert "ok" in shown[2] and "2: net.mtu: 3 is too little" in shown[3] and "not run" in shown[4]


def test_a_table_of_many_metrics_says_where_the_others_are(tmp_path: Path) -> None:
    metrics = {f"m{number}": number for number in range(9)}
    shown = table([job(number=0, result=result(tmp_path / "0", "a", metrics=metrics))])
    assert "m5" in shown and "m6" not in shown and "3 more metrics are in results.csv" in shown


def test_a_sweep_is_taken_up_with_what_was_typed_then(tmp_path: Path) -> None:
    typed = ["-m", "recipe=iperf", "--config-dir", "more", "net=a,b", "hydra.sweep.dir=x"]
    sweep = Sweep(remembered(typed))
    sweep.plan(tmp_path / "it's", [job()])
    again = [f'sweep.resume="{tmp_path}/it\'s"', f'hydra.sweep.dir="{tmp_path}/it\'s"']
    named = f"sweep.resume={tmp_path}/it's"
    assert resumed([named]) == ["-m", "recipe=iperf", "--config-dir", "more", "net=a,b", *again]
    assert resumed([named, "-m", "net=a,b,c"]) == ["-m", "net=a,b,c", *again]


def test_a_folder_with_another_sweep_is_refused(tmp_path: Path) -> None:
    Sweep(()).plan(tmp_path, [job()])
    with pytest.raises(ConfigError, match=r"holds another sweep[^$]*sweep\.resume"):
        Sweep(()).plan(tmp_path, [job()])


def test_batches_of_one_sweep_share_its_folder(tmp_path: Path) -> None:
    sweep = Sweep(())
    for net in ("a", "b"):
        sweep.plan(tmp_path, [job(f"net={net}")])
    assert [row["keys"] for row in document((), sweep.jobs)["jobs"]] == [{"net": "a"}, {"net": "b"}]


def test_repeats_make_a_sweep_and_nothing_else_does() -> None:
    assert resumed(["net=a", "sweep.repeat=3"]) == ["-m", "net=a", "sweep.repeat=3"]
    assert resumed(["--multirun", "sweep.repeat=3"]) == ["--multirun", "sweep.repeat=3"]
    assert resumed(["net=a"]) == ["net=a"]
    assert resumed(["--cfg", "job", "sweep.repeat=3"]) == ["--cfg", "job", "sweep.repeat=3"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"jobs": []}', '{"argv": 3}'])
def test_what_is_no_sweep_folder_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    says = "holds no sweep" if content else "holds no sweep: there is no results.json"
    with pytest.raises(ConfigError, match=says):
        resumed([f"sweep.resume={tmp_path}"])
