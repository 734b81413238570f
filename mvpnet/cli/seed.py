"""`mvpnet seed`: the cloud-init seeds that a job would give its guests, written to a folder to look at."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click

from mvpnet.cloudinit.schema_check import check_user_data
from mvpnet.cloudinit.seed_files import rank_seed, seed_facts, write_folder, write_image
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.config import compose
from mvpnet.errors import ConfigError, HostError, MvpnetError
from mvpnet.host.names import default_user
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Validate
from mvpnet.ssh import make_key_pair

_KEY = "id_ed25519"


@click.command()
@click.option("-n", "--ranks", default=1, show_default=True, metavar="N", help="seeds for a world of N ranks")
@click.option("--iso", is_flag=True, help="also write seed.iso, as the guest's drive has it, beside each rank's files")
@click.option("--validate", is_flag=True, help="fail where cloud-init, which checks the user-data, is not installed")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
def seed(
    ranks: int, iso: bool, validate: bool, config_dir: str | None, folder: Path, overrides: tuple[str, ...]
) -> None:
    """Write each rank's cloud-init seed into FOLDER/rank-NNNN, with a key pair for the job in FOLDER.

    What is written holds that key and is for you alone to read. Each of the folders can be given to a guest:
    'cloud_init.path="FOLDER/rank-{rank:04d}"'.
    """
    job = compose.compose(list(overrides), ranks, config_dir)
    specs = [spec for rank in range(ranks) if (spec := job.for_rank(rank)).makes_seed]
    if not specs:
        raise ConfigError(
            "mvpnet makes none of these guests a seed",
            hint="cloud_init=always makes one for any image; a seed of cloud_init.path is passed as it is",
        )
    facts = _facts(folder, job.name, specs)
    write = partial(_write, folder=folder, facts=facts, iso=iso, validate=Validate.always if validate else None)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        unchecked = list(pool.map(write, specs))
    click.echo(f"{len(specs)} seed{'s' * (len(specs) > 1)} in {folder}")
    if unchecked[0]:
        click.echo(f"user-data was not checked against cloud-init's schema: {unchecked[0]}", err=True)


def _facts(folder: Path, job_name: str, specs: list[RankSpec]) -> SeedFacts:
    """Make the folder and its key pair. Raises ConfigError where something is in it, HostError where it cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty", hint="name a new folder, or remove what is in it")
        make_key_pair(folder / _KEY, f"mvpnet job {job_name}")
        public, private = (folder / f"{_KEY}.pub").read_text(), (folder / _KEY).read_text()
    except OSError as error:
        raise HostError(f"cannot write {folder}: {error.strerror}") from error
    return seed_facts(public, private, specs, Path.home(), os.environ)


def _write(spec: RankSpec, folder: Path, facts: SeedFacts, iso: bool, validate: Validate | None) -> str | None:
    """Write one rank's seed, then check it; why it was not checked. Raises what is wrong with it, naming the rank."""
    user = spec.image.user or default_user()
    rank_folder = folder / f"rank-{spec.rank:04d}"
    try:
        made = rank_seed(spec, user, facts)
        write_folder(made, rank_folder)
        if iso:
            write_image(made, rank_folder / "seed.iso")
        shown = rank_seed(spec, user, facts.without_secrets())
        return check_user_data(shown.user_data, validate or spec.cloud_init.validate)
    except MvpnetError as error:
        raise error.of_rank(spec.rank) from error
    except OSError as error:
        raise HostError(f"rank {spec.rank}: cannot write {rank_folder}: {error.strerror}") from error
