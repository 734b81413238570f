"""What a command line asks for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mvpnet.cli.launch import Asked, asked_for

RANK = {"PMI_RANK": "0", "PMI_SIZE": "2"}
OTHER = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize(
    ("argv", "environ", "asked"),
    [
        ([], {}, Asked.job),
        (["recipe=demo"], {}, Asked.job),
        (["-m", "vm.memory=1G,2G"], RANK, Asked.job),
        (["resume=there"], RANK, Asked.job),
        (["bench", "flood"], RANK, Asked.bench),
        (["replay", "runs/1"], RANK, Asked.replay),
        (["doctor"], {}, Asked.doctor),
        (["plan"], {}, Asked.verb),
        (["nonsense"], {}, Asked.verb),
        (["--version"], {}, Asked.verb),
        ([], {"_MVPNET_COMPLETE": "bash_complete"}, Asked.verb),
        (["--help"], {}, Asked.inspection),
        (["--cfg=job", "net=dgram"], {}, Asked.inspection),
        (["bench", "--help"], {}, Asked.verb),
        (["bench", "--help"], RANK, Asked.verb),
        (["bench", "--help"], OTHER, Asked.nothing),
        (["--help"], RANK, Asked.inspection),
        (["vm.cpus=2", "--cfg", "job"], RANK, Asked.inspection),
        (["vm.cpus=2", "--cfg", "job"], OTHER, Asked.nothing),
        (["--version"], OTHER, Asked.nothing),
        (["completion", "bash"], OTHER, Asked.nothing),
        (["help"], OTHER, Asked.nothing),
        ([], OTHER | {"_MVPNET_COMPLETE": "bash_complete"}, Asked.verb),
        (["ssh", "0", "ls", "-h"], OTHER, Asked.verb),
        (["image", "list"], OTHER, Asked.verb),
    ],
)
def test_what_a_command_line_asks_for(argv: list[str], environ: dict[str, str], asked: Asked) -> None:
    assert asked_for(argv, environ) is asked


@pytest.mark.parametrize(
    "words", [["--help"], ["--cfg", "job"], ["--version"], ["bench", "--help"], ["completion", "bash"], ["help"]]
)
def test_inspection_prints_once_and_needs_no_mpi(words: list[str]) -> None:
    ranks = [
        subprocess.run(
            [sys.executable, "-m", "mvpnet", *words],
            env={**os.environ, "MPI4PY_LIBMPI": "/nowhere", "PMI_SIZE": "2", "PMI_RANK": str(rank)},
            capture_output=True,
            timeout=120,
        )
        for rank in (0, 1)
    ]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert ranks[0].stdout and not ranks[1].stdout
