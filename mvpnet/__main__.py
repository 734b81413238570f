"""The program: a verb, or a job. The only place that exits.

mvpnet VERB …                       see `cli.main`
mpirun -n 4 mvpnet bench …          this verb all ranks run, and `replay` and `doctor`
mpirun -n 4 mvpnet GROUP=OPTION …   a job: rank 0 composes it, all ranks run it
"""

from __future__ import annotations

import os
import sys

from mvpnet import logs
from mvpnet.cli import launch
from mvpnet.cli.launch import Asked
from mvpnet.cli.outcome import is_repeated, report_error
from mvpnet.errors import MvpnetError
from mvpnet.paths import launch_folder
from mvpnet.util.encoding import ensure_utf8, set_up_streams


def main() -> None:
    ensure_utf8()
    set_up_streams()
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run what the command line asks for; return the exit code."""
    logs.silence()
    try:
        return _run(argv)
    except MvpnetError as error:
        return 0 if is_repeated(error) else report_error(error)


def _run(argv: list[str]) -> int:
    """Run what the command line asks for. Raises MvpnetError."""
    try:
        match launch.asked_for(argv, os.environ):
            case Asked.verb:
                return launch.run_verb(argv)
            case Asked.inspection:
                return launch.inspect(argv)
            case Asked.bench:
                return launch.launch(launch.BENCH, argv)
            case Asked.replay:
                return launch.launch(launch.REPLAY, argv)
            case Asked.doctor:
                return launch.examine(argv)
            case Asked.job:
                return launch.launch(launch.JOB, argv)
            case Asked.nothing:
                return 0
    except FileNotFoundError:
        launch_folder()  # where that is gone, no relative path can be looked up
        raise


if __name__ == "__main__":
    main()
