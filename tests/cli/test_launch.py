"""What a command line asks for."""

from __future__ import annotations

import pytest

from mvpnet.cli.launch import Asked, asked_for

RANK = {"PMI_RANK": "0", "PMI_SIZE": "2"}


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
        (["bench", "--help"], RANK, Asked.bench),
        (["--help"], RANK, Asked.job),
    ],
)
def test_what_a_command_line_asks_for(argv: list[str], environ: dict[str, str], asked: Asked) -> None:
    assert asked_for(argv, environ) is asked
