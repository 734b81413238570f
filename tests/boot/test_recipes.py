"""The shipped recipes, run as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import RunMvpnet

pytestmark = pytest.mark.timeout(400)


def test_iperf_measures_between_two_guests(run_mvpnet: RunMvpnet, tmp_path: Path) -> None:
    end = run_mvpnet("recipe=iperf", "vm.accel=tcg", "boot.timeout_s=240", "hydra.run.dir=run", timeout_s=300)
    assert end.code == 0, end
    metrics = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert set(metrics) == {"rtt_ms", "mbit_s", "retransmits"}
    assert metrics["rtt_ms"] > 0 and metrics["mbit_s"] > 0
    said = json.loads((tmp_path / "run/rank-0000/collected/measure/iperf3.json").read_text())
    assert round(said["end"]["sum_received"]["bits_per_second"] / 1e6, 1) == metrics["mbit_s"]


def test_iperf_of_one_guest_says_that_it_takes_two(run_mvpnet: RunMvpnet) -> None:
    end = run_mvpnet("recipe=iperf", "vm.accel=tcg", "boot.timeout_s=240", "hydra.run.dir=run", ranks=1, timeout_s=300)
    assert end.code == 2, end
    assert "iperf: it takes two guests: mpirun -n 2" in end.stdout
