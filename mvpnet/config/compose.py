"""From the command line to job specs, through Hydra. Only rank 0 imports this: Hydra is slow to import.

Hydra composes the config groups (shipped, the user's, `--config-dir`), checks them against `schema`, makes the run
folder, and runs a sweep's jobs one after another. Whatever it refuses is told as one ConfigError.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mvpnet.config.messages import explained, near
from mvpnet.config.nodes import all_keys, keep_rank_values, writable
from mvpnet.config.resolve import resolve
from mvpnet.errors import ConfigError, HostError, MvpnetError
from mvpnet.logs import write_quietly
from mvpnet.paths import RunFolder, conf_folder, user_config_folders
from mvpnet.spec import schema
from mvpnet.spec.model import JobSpec
from mvpnet.sweep.sweep import Sweep, SweepUnderWay, remembered, resumed


class SweepStopped(BaseException):
    """Raised by a job that was told to stop: the sweep's other jobs are not run. No Exception: Hydra catches those."""


def run(
    argv: list[str], world_size: int, run_job: Callable[[JobSpec], int], tell: Callable[[MvpnetError], int]
) -> list[int]:
    """Run the job, or the sweep's jobs in turn, that `argv` asks for: their exit codes.

    `run_job` gets each job's spec. A job that cannot be resolved or that fails is given to `tell`, which answers
    with its exit code, and a sweep goes on. Raises ConfigError for what Hydra refuses before any job.
    """
    argv = flags_first(resumed(argv))
    if shown := _resolved_job(argv, world_size):
        write_quietly(sys.stdout, shown.encode())
        return [0]
    sweep = Sweep(remembered(argv), resuming=any(word.startswith("sweep.resume=") for word in argv))
    _register(Path.cwd(), sweep, world_size)
    codes: list[int] = []
    begun = False

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    def task(config: DictConfig) -> None:
        nonlocal begun
        begun = True
        facts = HydraConfig.get()
        try:
            typed = OmegaConf.to_container(facts.overrides.task, resolve=False)  # a typed ${…} is to stay as it is
            assert isinstance(typed, list)
            composed = OmegaConf.to_yaml(config)
            spec = resolve(config, world_size, Path(facts.runtime.output_dir), tuple(map(str, typed)))
            spec = dataclasses.replace(spec, recipe=_chosen_recipe(facts.runtime))
            if sweep.current:
                spec = dataclasses.replace(spec, repeat=sweep.current.repeat)
            elif spec.config.sweep != schema.Sweep():
                raise ConfigError("sweep: is set, and this is no sweep", hint="add -m")
            _keep_composition(composed, facts, spec.run_dir)
            if sweep.current:
                sweep.current.folder = spec.run_dir
            codes.append(run_job(spec))
        except MvpnetError as error:
            codes.append(tell(error))
            if sweep.current:
                sweep.failed(str(error), codes[-1])

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the error itself and exits
    sys.argv = ["mvpnet", *argv]
    try:
        task()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise explained(error) from error
    except ValueError as error:  # of Hydra's command line: --cfg and -m
        if begun:
            raise
        raise ConfigError(str(error)) from error
    except OSError as error:
        if begun:
            raise
        raise HostError(
            f"hydra.run.dir: cannot make {error.filename}: {error.strerror}", hint="name another folder"
        ) from error
    except SweepStopped:
        pass
    except SystemExit as end:  # --help and the like, and Hydra's own command line errors
        return [end.code if isinstance(end.code, int) else 1 if end.code else 0]
    finally:
        sweep.tell()
    return codes


def _chosen_recipe(runtime: Any) -> Path | None:
    """The file of the recipe that was asked for: the first of Hydra's folders that has it wins, as for Hydra."""
    name = runtime.choices.get("recipe")
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    files = (folder / "recipe" / f"{name}.yaml" for folder in folders)
    return next((file for file in files if file.is_file()), None) if name else None


def _resolved_job(argv: list[str], world_size: int) -> str | None:
    """What `--cfg job --resolve` prints, None when something else is asked for.

    Hydra itself would resolve there and then what is each rank's own, and find no such key. Raises ConfigError.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--cfg", "-c")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("overrides", nargs="*")
    try:
        asked, others = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        return None
    if others or not asked.resolve or asked.cfg != "job":
        return None
    with _composed(asked.overrides, asked.config_dir, world_size) as composed:
        config = _without_hydra(composed)
        keep_rank_values(config)
        part = config if asked.package in (None, "_global_") else OmegaConf.select(config, asked.package)
        if part is None:
            raise ConfigError(f"--package: there is no {asked.package!r}{near(asked.package, all_keys())}")
        heading = "" if part is config else f"# @package {asked.package}\n"
        return heading + (OmegaConf.to_yaml(part, resolve=True) if OmegaConf.is_config(part) else f"{part}\n")


def _keep_composition(composed: str, facts: Any, run_dir: Path) -> None:
    """`.hydra/` in the run folder, as Hydra itself would write it; but not over another run's.

    Raises ConfigError when there is another run, HostError when the folder cannot be written.
    """
    RunFolder(run_dir).refuse_another_run("hydra.run.dir", hint="leave it out, or name a new folder")
    folder = run_dir / ".hydra"
    try:
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(composed)
        OmegaConf.save(OmegaConf.create({"hydra": facts}), folder / "hydra.yaml")
        OmegaConf.save(facts.overrides.task, folder / "overrides.yaml")
    except OSError as error:
        raise HostError(f"hydra.run.dir: cannot write {folder}: {error.strerror}") from error


def flags_first(argv: list[str]) -> list[str]:
    """Options before overrides: Hydra's parser does not take `a=1 -m b=2`."""

    def is_override(word: str) -> bool:
        return not word.startswith("-") and ("=" in word or word.startswith("~"))

    return sorted(argv, key=is_override)


def compose(overrides: list[str], world_size: int, config_dir: str | None = None) -> JobSpec:
    """The spec that these overrides resolve to, without running anything. Raises ConfigError."""
    with _composed(overrides, config_dir, world_size) as config:
        run_dir = Path.cwd() / config.hydra.run.dir
        return resolve(_without_hydra(config), world_size, run_dir, tuple(overrides))


@contextmanager
def _composed(overrides: list[str], config_dir: str | None, world_size: int) -> Iterator[DictConfig]:
    """What Hydra composes, its own part with it, while that can be resolved. Raises ConfigError, also for the body."""
    _register(Path.cwd(), Sweep(()), world_size)
    searchpath = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3", job_name="mvpnet"):
            yield hydra.compose("config", overrides=[*searchpath, *overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise explained(error) from error


def _without_hydra(config: DictConfig) -> DictConfig:
    with flag_override(config, ["struct", "readonly"], False):
        del config["hydra"]
    return config


class _UserFolders(SearchPathPlugin):
    """Puts the user's own folders before the shipped config, so that they add to it and may replace its options."""

    launch_dir = Path()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in user_config_folders(self.launch_dir):
            search_path.prepend(provider="mvpnet", path=f"file://{folder.resolve()}", anchor="main")


def _register(launch_dir: Path, sweep: Sweep, world_size: int) -> None:
    SweepUnderWay.sweep = sweep
    SweepUnderWay.digest_of = lambda config: resolve(config, world_size, Path(), ()).digest()
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="mvpnet", node={"_target_": "hydra_plugins.mvpnet_launcher.SweepLauncher"})
    store.store(name="schema", node=writable(schema.Config))
    for group, node in schema.GROUPS.items():
        store.store(group=group, name="schema", node=writable(node))
    _UserFolders.launch_dir = launch_dir
    Plugins.instance().register(_UserFolders)
    OmegaConf.register_new_resolver("mvpnet.default_job_name", default_job_name, replace=True)
    OmegaConf.register_new_resolver("mvpnet.python", lambda: sys.executable, replace=True)
    OmegaConf.register_new_resolver("mvpnet.recipe_file", _recipe_file, replace=True)


def _recipe_file(name: str) -> str:
    """The path of a file that belongs to a shipped recipe."""
    return str(conf_folder() / "recipe" / name)


def default_job_name() -> str:
    """The batch system's job id where there is one, else a name after this process."""
    for variable in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        if value := os.environ.get(variable):
            return "".join(c if c.isalnum() or c in "._-" else "-" for c in value)
    return f"j{os.getpid()}"


# -- what Hydra refuses, told once and plainly -------------------------------------------------------------------
