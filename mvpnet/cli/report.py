"""The verb `report`: the page about a run or a sweep."""

from __future__ import annotations

from pathlib import Path

import click

from mvpnet.cli.records import RUN_PATH, opened
from mvpnet.errors import ConfigError
from mvpnet.paths import RunFolder, jobs_of_sweep
from mvpnet.records.archive import is_archive
from mvpnet.report import of_run, of_sweep
from mvpnet.report import page as pages


@click.command()
@click.option(
    "-o", "--output", type=RUN_PATH, metavar="DIR", help="folder for the page and its pictures; default RUN/report"
)
@click.argument("run", metavar="RUN|SWEEP", type=RUN_PATH)
def report(output: Path | None, run: Path) -> None:
    """Make one HTML page, and PNG pictures, of what a run or a sweep did. It needs matplotlib: mvpnet[report]

    The page refers to nothing outside of itself, and can be sent on as it is.
    """
    folder = RunFolder(run)
    if is_archive(run) and output is None:
        raise ConfigError(f"{run}: a report of an archive needs a place", hint="-o DIR")
    if not folder.job_json.exists() and not is_archive(run) and jobs_of_sweep(run):
        page = of_sweep.of_sweep(run)
    else:
        with opened(run) as one:
            page = of_run.of_run(one)
    click.echo(pages.write(page, output or folder.report))
