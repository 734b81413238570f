"""Makes job specs of a command line, by Hydra. Only rank 0 imports this: Hydra is slow to import.

Hydra composes the config groups (shipped, the user's, `--config-dir`), checks them against `schema`, makes the run
folder, and runs a sweep's jobs one after another. Whatever it refuses is told as one ConfigError.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mvpnet.config.launch_context import LaunchContext, handed_to_hydra
from mvpnet.config.messages import explained, is_of_hydra
from mvpnet.config.nodes import all_keys, keep_rank_values
from mvpnet.config.references import check_references, check_references_at
from mvpnet.config.resolve import resolve
from mvpnet.config.sources import FOLDER_SCHEME, register
from mvpnet.config.words import hydra_words
from mvpnet.errors import ConfigError, HostError, MvpnetError
from mvpnet.logs import write_quietly
from mvpnet.paths import RunFolder, conf_folder, host_path, launch_folder
from mvpnet.spec import schema
from mvpnet.spec.aliases import OldNames
from mvpnet.spec.model import JobSpec
from mvpnet.spec.near import near
from mvpnet.spec.plain import plain
from mvpnet.spec.urls import image_urls, masked_words
from mvpnet.sweep.sweep import Sweep, remembered, resumed
from mvpnet.util.encoding import encoded


class SweepStopped(BaseException):
    """Raised by a job that was told to stop: the sweep's other jobs are not run. No Exception: Hydra catches those."""


def run(
    argv: list[str], world_size: int, run_job: Callable[[JobSpec], int], tell: Callable[[MvpnetError], int]
) -> list[int]:
    """Run the job that `argv` asks for, or the jobs of the sweep in turn.

    Args:
        argv: the words of the command line.
        world_size: how many ranks this launch has.
        run_job: gets each job's spec, and answers with its exit code.
        tell: gets the error of a job that cannot be resolved or that fails, and answers with its exit code. A sweep
            goes on after it.

    Returns:
        The exit codes of the jobs; one for a command line that only looks at the config.

    Raises:
        ConfigError: Hydra refuses the command line before any job.
        HostError: the run folder cannot be made.
    """
    old_names = OldNames()
    argv = hydra_words(resumed(argv), old_names)
    sweep = Sweep(remembered(flags_first(argv)), resuming=any(word.startswith("sweep.resume=") for word in argv))
    words, config_dir = without_config_dir(argv)
    launch = _launch(config_dir, world_size, old_names, sweep)
    try:
        if shown := _resolved_job(words, launch):
            write_quietly(sys.stdout, encoded(shown))
            return [0]
        return _run_by_hydra(flags_first(words), launch, _Jobs(world_size, run_job, tell, launch))
    finally:
        launch.warn_of_old_names()
        sweep.tell()


def _launch(config_dir: str | None, world_size: int, old_names: OldNames, sweep: Sweep) -> LaunchContext:
    return LaunchContext(
        launch_dir=launch_folder(),
        config_dir=host_path(config_dir, "--config-dir") if config_dir else None,
        sweep=sweep,
        digest_of=lambda config: resolve(config, world_size, Path(), ()).digest(),
        old_names=old_names,
    )


def _run_by_hydra(argv: list[str], launch: LaunchContext, jobs: _Jobs) -> list[int]:
    """Let Hydra read the command line and call `jobs` for each job. Returns the exit codes."""

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    def task(config: DictConfig) -> None:
        jobs.run(config)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the error itself and exits
    sys.argv = ["mvpnet", *argv]
    register()
    try:
        with handed_to_hydra(launch):
            task()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise explained(error) from error
    except (ValueError, OSError) as error:
        if jobs.begun:
            raise
        raise _before_any_job(error) from error
    except SweepStopped:
        pass
    except Exception as error:
        if jobs.begun or not is_of_hydra(error):
            raise
        raise explained(error) from error
    except SystemExit as end:  # --help and the like, and Hydra's own command line errors
        return [end.code if isinstance(end.code, int) else 1 if end.code else 0]
    return jobs.codes


def _before_any_job(error: ValueError | OSError) -> MvpnetError:
    """Return the error for people. Hydra raises these for --cfg with -m, and for a run folder that it cannot make."""
    if isinstance(error, ValueError):
        return ConfigError(str(error))
    return HostError(f"hydra.run.dir: cannot make {error.filename}: {error.strerror}", hint="name another folder")


class _Jobs:
    """The jobs of one launch: from each composed config to the exit code of its job."""

    def __init__(
        self,
        world_size: int,
        run_job: Callable[[JobSpec], int],
        tell: Callable[[MvpnetError], int],
        launch: LaunchContext,
    ) -> None:
        self._world_size = world_size
        self._run_job = run_job
        self._tell = tell
        self._launch = launch
        self.codes: list[int] = []
        self.begun = False

    def run(self, config: DictConfig) -> None:
        """Run one job. What it raises for people is told, and all else passes through."""
        self.begun = True
        self._launch.warn_of_old_names()
        sweep = self._launch.sweep
        try:
            if self._launch.refused:
                raise self._launch.refused
            spec = self._spec(config)
            if sweep.current:
                sweep.current.folder = spec.run_dir
            self.codes.append(self._run_job(spec))
        except MvpnetError as error:
            self.codes.append(self._tell(error))
            if sweep.current:
                sweep.failed(str(error), self.codes[-1])

    def _spec(self, config: DictConfig) -> JobSpec:
        """Resolve a config, and keep what was composed in the run folder. Raises ConfigError, HostError."""
        facts, sweep = HydraConfig.get(), self._launch.sweep
        typed = OmegaConf.to_container(facts.overrides.task, resolve=False)  # a typed ${…} is to stay as it is
        assert isinstance(typed, list)
        composed = OmegaConf.to_yaml(config)
        run_dir = self._launch.run_dir or Path(facts.runtime.output_dir)
        spec = resolve(config, self._world_size, run_dir, tuple(map(str, typed)))
        spec = dataclasses.replace(spec, recipe=_chosen_recipe(facts.runtime))
        if sweep.current:
            spec = dataclasses.replace(spec, repeat=sweep.current.repeat)
        elif spec.config.sweep != schema.Sweep():
            raise ConfigError("sweep: is set, and this is no sweep", hint="add -m")
        elif facts.sweeper.get("params"):
            raise ConfigError("hydra.sweeper.params: is set, and this is no sweep", hint="add -m")
        _keep_composition(composed, facts, spec.run_dir, list(image_urls(plain(spec))))
        return spec


def _chosen_recipe(runtime: Any) -> Path | None:
    """Return the file of the recipe that was asked for. The first of Hydra's folders that has it wins, as for Hydra."""
    name = runtime.choices.get("recipe")
    folders = [Path(source.path) for source in runtime.config_sources if source.schema in ("file", FOLDER_SCHEME)]
    files = (folder / "recipe" / f"{name}.yaml" for folder in folders)
    return next((file for file in files if file.is_file()), None) if name else None


def _resolved_job(argv: list[str], launch: LaunchContext) -> str | None:
    """Return what `--cfg job --resolve` prints; None when something else is asked for.

    Hydra itself would try to resolve what is each rank's own, and find no such key. Raises ConfigError.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--cfg", "-c")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("overrides", nargs="*")
    try:
        asked, others = parser.parse_known_args(flags_first(argv))
    except argparse.ArgumentError:
        return None
    if others or not asked.resolve or asked.cfg != "job":
        return None
    with _composed(asked.overrides, launch) as composed:
        config = _without_hydra(composed)
        check_references(config, launch.origins)
        keep_rank_values(config)
        part = config if asked.package in (None, "_global_") else OmegaConf.select(config, asked.package)
        if part is None:
            raise ConfigError(f"--package: there is no {asked.package!r}{near(asked.package, all_keys())}")
        heading = "" if part is config else f"# @package {asked.package}\n"
        return heading + (OmegaConf.to_yaml(part, resolve=True) if OmegaConf.is_config(part) else f"{part}\n")


def _keep_composition(composed: str, facts: Any, run_dir: Path, urls: Sequence[str]) -> None:
    """Write `.hydra/` into the run folder, as Hydra itself would, but not over another run's, and without secrets.

    `urls` are those of images. Raises ConfigError when there is another run, HostError when the folder cannot be
    written.
    """
    RunFolder(run_dir).refuse_another_run("hydra.run.dir", hint="leave it out, or name a new folder")
    folder = run_dir / ".hydra"
    try:
        folder.mkdir(exist_ok=True)
        hydras, overrides = (
            OmegaConf.to_yaml(OmegaConf.create({"hydra": facts})),
            OmegaConf.to_yaml(facts.overrides.task),
        )
        for name, text in (("config", composed), ("hydra", hydras), ("overrides", overrides)):
            (folder / f"{name}.yaml").write_text(masked_words(text, urls))
    except OSError as error:
        raise HostError(f"hydra.run.dir: cannot write {folder}: {error.strerror}") from error


def flags_first(argv: list[str]) -> list[str]:
    """Put options before overrides: Hydra's parser does not take `a=1 -m b=2`."""

    def is_override(word: str) -> bool:
        return not word.startswith("-") and ("=" in word or word.startswith("~"))

    return sorted(argv, key=is_override)


def without_config_dir(argv: list[str]) -> tuple[list[str], str | None]:
    """Take `--config-dir DIR` out of a command line: Hydra by itself would refuse old names in that folder."""
    rest: list[str] = []
    folder: str | None = None
    for word in (words := iter(argv)):
        if word in ("--config-dir", "-cd"):
            folder = next(words, None)
            rest += [word] if folder is None else []  # for Hydra to refuse
        elif word.startswith("--config-dir="):
            folder = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, folder


def compose(overrides: list[str], world_size: int, config_dir: str | None = None) -> JobSpec:
    """Return the spec that these overrides resolve to, without running anything. Raises ConfigError."""
    old_names = OldNames()
    words = hydra_words(overrides, old_names)
    launch = _launch(config_dir, world_size, old_names, Sweep(()))
    with _composed(words, launch) as config:
        job = _without_hydra(config.copy())
        check_references(job, launch.origins)  # before the run folder is named after the job
        check_references_at(config, "hydra.run.dir")
        run_dir = host_path(config.hydra.run.dir, "hydra.run.dir")
        return resolve(job, world_size, run_dir, tuple(words))


@contextmanager
def _composed(overrides: list[str], launch: LaunchContext) -> Iterator[DictConfig]:
    """Yield what Hydra composes, with its own part, while it can be resolved. Raises ConfigError, also for the body."""
    register()
    try:
        with (
            handed_to_hydra(launch),
            hydra.initialize_config_dir(str(conf_folder()), version_base="1.3", job_name="mvpnet"),
        ):
            config = _compose(overrides)
            launch.warn_of_old_names()
            yield config
    except Exception as error:
        if isinstance(error, MvpnetError) or not is_of_hydra(error):
            raise
        raise explained(error) from error


def _compose(overrides: list[str]) -> DictConfig:
    """Let Hydra compose. Raises ConfigError where a config file is not of the form that Hydra takes."""
    try:
        return hydra.compose("config", overrides=overrides, return_hydra_config=True)
    except OmegaConfBaseException:  # some of them are ValueErrors
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _without_hydra(config: DictConfig) -> DictConfig:
    with flag_override(config, ["struct", "readonly"], False):
        del config["hydra"]
    return config
