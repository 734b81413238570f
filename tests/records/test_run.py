"""Reading what a run left, whole or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvpnet.errors import ConfigError
from mvpnet.paths import RankLogs, jobs_of_sweep
from mvpnet.records.run import open_run
from mvpnet.records.typed import Verdict
from records.runs import add_traffic, make_run


def test_a_run_with_all_that_it_left(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", metrics={"mbits": 5})
    add_traffic(folder)
    run = open_run(folder.root)
    assert run.is_complete and run.verdict == Verdict("the app ended", 0) and run.world_size == 2
    assert run.metrics() == {"mbits": 5.0}
    assert run.stats()["traffic_bytes"] == {"0": {"1": 36000}, "1": {"0": 36001}}
    assert [len(lines) for lines in run.traffic().values()] == [5, 5]


def test_a_run_that_left_little(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", ended=False).root)
    assert not run.is_complete and run.verdict.code is None and "killed" in run.verdict.how
    assert (run.metrics(), run.stats(), run.traffic()) == ({}, {}, {})


def test_samples_end_where_a_killed_job_cut_them_short(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ended=False)
    add_traffic(folder)
    path = RankLogs(folder.rank_folder(1, None, "records")).traffic
    path.write_text(path.read_text()[:-30])
    assert [len(lines) for lines in open_run(folder.root).traffic().values()] == [5, 4]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps({"metrics": {"mbits": "fast"}}), "'mbits' is 'fast', and no number"),
        (json.dumps({"metrics": {"mbits": True}}), "no number"),
        ('{"metrics": {"mbits": NaN}}', "no number"),
        ('{"metrics": ', "result.json: cannot be read"),
        ("[]", "no JSON object"),
        (json.dumps({"metrics": [1]}), "metrics are"),
    ],
)
def test_a_broken_result_is_refused(tmp_path: Path, text: str, says: str) -> None:
    folder = make_run(tmp_path / "run")
    folder.result_json.write_text(text)
    with pytest.raises(ConfigError, match=says):
        open_run(folder.root).metrics()


def test_a_sweeps_jobs_are_in_their_order(tmp_path: Path) -> None:
    for name in ("10", "2", "0", "other"):
        make_run(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert [path.name for path in jobs_of_sweep(tmp_path)] == ["0", "2", "10", "other"]
