"""Composing a job inside a program that is not mvpnet, and that may use Hydra itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath

from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

from mvpnet.config import compose as composing
from mvpnet.spec.model import JobSpec


def compose(overrides: Sequence[str] = (), ranks: int = 4, config_dir: str | PathLike[str] | None = None) -> JobSpec:
    """Return the spec of the job that a command line asks for, without running anything.

    Relative paths are taken from the working directory, and `./mvpnet.d` and `~/.config/mvpnet` are read, as for
    `mpirun -n RANKS mvpnet`. It may be called any number of times, also from a program that uses Hydra.

    Args:
        overrides: Words as on the command line: `GROUP=OPTION`, `KEY=VALUE`.
        ranks: How many ranks the job has.
        config_dir: A folder with more config groups, as with `--config-dir`.

    Returns:
        The resolved spec. `spec.for_rank(rank)` is what one rank runs.

    Raises:
        ConfigError: No job takes these overrides. The message is the one that the command line prints.
    """
    with _other_hydra_set_aside():
        return composing.compose(list(overrides), ranks, fspath(config_dir) if config_dir is not None else None)


@contextmanager
def _other_hydra_set_aside() -> Iterator[None]:
    """Give Hydra back the caller's application and version base, which a process has one of."""
    application, base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = application
        VersionBase.instance().version_base = base
