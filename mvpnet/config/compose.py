"""From the command line to job specs, through Hydra. Only rank 0 imports this: Hydra is slow to import.

Hydra composes the config groups (shipped, the user's, `--config-dir`), checks them against `schema`, makes the run
folder, and runs a sweep's jobs one after another. Whatever it refuses is told as one ConfigError.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mvpnet.errors import ConfigError, HostError, MvpnetError
from mvpnet.guest.drives import absolute_drive
from mvpnet.logs import put
from mvpnet.paths import RunFolder, conf_folder, user_config_folders
from mvpnet.spec import app_steps, schema
from mvpnet.spec.model import JobSpec, Override, RankSet, changed, check_job, plain
from mvpnet.sweep.sweep import Sweep, SweepUnderWay, remembered, resumed

GROUPS: dict[str, type] = {
    "image": schema.Image,
    "net": schema.Net,
    "vm": schema.Vm,
    "cloud_init": schema.CloudInit,
    "logging": schema.Logging,
    "app": schema.App,
}
# The values of a rank that cloud_init may refer to, as guest.seed puts them in; not where they are escaped already.
_RANK_VALUE = re.compile(r"(?<!\\)\$\{(rank|world_size|host_name|address)\}")
_SHELL_HINT = (
    r"a ${…} that is for a shell in the guest is written \${…}; rank, world_size, host_name and address are known"
)
_PACKAGE_HINT = "the first line of a recipe has to be: # @package _global_"
_ON_HINT = 'YAML reads on as true; write "on" with quotes'
PER_RANK = ("image", "vm", "qemu", "cloud_init", "logging")
_PATHS = {
    "job": ("scratch_dir",),
    "image": (
        *("path", "source", "checksums", "lock_file", "drives", "copy_dir", "kernel", "initrd", "cache_dir"),
        "prepare",
    ),
    "net": ("socket_dir", "tftp_dir"),
    "cloud_init": ("path", "files"),
    "logging": ("dir",),
}


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
        put(sys.stdout, shown.encode())
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
        _keep_rank_values(config)
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


def resolve(config: DictConfig, world_size: int, run_dir: Path, typed: tuple[str, ...]) -> JobSpec:
    """A checked spec from a composed config; relative paths are taken from the folder of the launch.

    Raises ConfigError.
    """
    if unknown := next(_unknown(config), None):
        raise ConfigError(f"there is no key {unknown!r}{near(unknown, all_keys())}")
    _keep_rank_values(config)
    try:
        whole = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise explained(error) from error
    assert isinstance(whole, schema.Config)
    entries = OmegaConf.to_container(config.ranks, resolve=True)
    assert isinstance(entries, dict)
    overrides = tuple(_override(str(name), entry) for name, entry in entries.items())
    whole = _with_steps(_absolute(whole, Path.cwd()), Path.cwd())
    ranks = world_size if whole.job.ranks is None else whole.job.ranks
    if not 1 <= ranks <= world_size:
        raise ConfigError(
            f"job.ranks: {ranks} is not between 1 and {world_size}, the ranks of this launch",
            hint=f"mpirun -n {max(ranks, 1)}, or fewer job.ranks",
        )
    spec = JobSpec(ranks, run_dir.resolve(), whole, overrides, typed)
    check_job(spec)
    app_steps.steps_of(spec.config.app)
    return spec


def _keep_rank_values(config: DictConfig) -> None:
    """Escape references to a rank's own values in cloud_init, so that they are still there when seeds are made."""

    def escape(node: Any) -> None:
        for child in _children(node).values():
            if isinstance(text := child._value(), str):
                child._set_value(_RANK_VALUE.sub(r"\\\g<0>", text))
            escape(child)

    with flag_override(config, "readonly", False):
        for place in (config, *_children(config.ranks).values()):
            escape(_children(place).get("cloud_init"))


def _children(node: Any) -> dict[Any, Any]:
    """The nodes in a mapping or list, none in anything else, and none of them resolved."""
    content = vars(node)["_content"] if isinstance(node, (DictConfig, ListConfig)) else None
    return dict(enumerate(content)) if isinstance(content, list) else content if isinstance(content, dict) else {}


def _override(name: str, entry: Any) -> Override:
    place = f"ranks.{name}"
    if isinstance(entry, Mapping):
        entry = _with_on(entry)
    if not isinstance(entry, Mapping) or "on" not in entry:
        raise ConfigError(f"{place}: has no rank set", hint=f'write {name}: {{on: "0,3,7-9", vm: {{memory: 8G}}}}')
    given = {key: value for key, value in entry.items() if key != "on"}
    for section, keys in given.items():
        if section not in PER_RANK:
            raise ConfigError(
                f"{place}.{section}: cannot be set per rank{near(section, PER_RANK)}",
                hint=f"per rank are {', '.join(PER_RANK)}",
            )
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{place}.{section}: {keys!r} is no group of keys")
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(_writable(schema.RankOverride), resolved_already(entry)))
    except OmegaConfBaseException as error:
        raise explained(error, place) from error
    assert isinstance(typed, schema.RankOverride)
    folder = Path.cwd()
    changes = {
        section: {
            key: _given(_absolute_value(section, key, getattr(getattr(typed, section), key), folder), value)
            for key, value in keys.items()
        }
        for section, keys in given.items()
    }
    return Override(name, RankSet.parse(str(entry["on"]), f"{place}.on"), changes)


def _with_steps(config: schema.Config, folder: Path) -> schema.Config:
    """The config with the app's files, and those of its steps, absolute; the steps as plain values of the right type.

    Raises ConfigError.
    """
    own = {name: getattr(config.app, name) for name in ("push", "script")}
    steps = {str(name): _step(str(name), entry, folder) for name, entry in config.app.steps.items()}
    return changed(config, {"app": {**app_steps.absolute(own, folder), "steps": steps}})


def _step(name: str, entry: Any, folder: Path) -> dict[str, Any]:
    place = f"app.steps.{name}"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{place}: {entry!r} is no group of keys", hint=f"write {name}: {{command: [./run.sh]}}")
    given = _with_on(entry)
    known = [field.name for field in dataclasses.fields(schema.Step)]
    if wrong := next((str(key) for key in given if key not in known), None):
        raise ConfigError(f"there is no key '{place}.{wrong}'{near(wrong, known, place)}")
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(_writable(schema.Step), resolved_already(given)))
    except OmegaConfBaseException as error:
        raise explained(error, place) from error
    step = {key: plain(getattr(typed, key)) for key in given}
    return {**step, **app_steps.absolute(step, folder)}


def _with_on(entry: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same with the key `on`, which YAML 1.1 reads as true."""
    return {"on" if key is True else key: value for key, value in entry.items()}


def _given(typed: Any, written: Any) -> Any:
    """Of a group of keys within a section, those that were written."""
    if dataclasses.is_dataclass(typed) and isinstance(written, Mapping):
        return {key: getattr(typed, key) for key in written}
    return typed


def resolved_already(value: Any) -> Any:
    """The same to be put into a config again, where ${…} would be resolved once more."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, Mapping):
        return {key: resolved_already(item) for key, item in value.items()}
    return [resolved_already(item) for item in value] if isinstance(value, list) else value


def _absolute(config: schema.Config, folder: Path) -> schema.Config:
    paths = {
        section: {key: _absolute_value(section, key, getattr(getattr(config, section), key), folder) for key in keys}
        for section, keys in _PATHS.items()
    }
    return changed(config, paths)


def _absolute_value(section: str, key: str, value: Any, folder: Path) -> Any:
    if (section, key) == ("image", "drives"):
        return [absolute_drive(text, folder, f"image.drives[{i}]") for i, text in enumerate(value)]
    if (section, key) == ("image", "path") and value is not None:
        return absolute_drive(value, folder, "image.path")
    if (section, key) == ("image", "prepare"):
        script = None if value.script is None else str(folder / Path(value.script).expanduser())
        return dataclasses.replace(value, script=script)
    if (section, key) == ("cloud_init", "files"):
        return {path: str(folder / Path(source).expanduser()) for path, source in value.items()}
    if value is None or key not in _PATHS.get(section, ()) or "://" in value:
        return value
    return str(folder / Path(value).expanduser())


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
    store.store(name="schema", node=_writable(schema.Config))
    for group, node in GROUPS.items():
        store.store(group=group, name="schema", node=_writable(node))
    _UserFolders.launch_dir = launch_dir
    Plugins.instance().register(_UserFolders)
    OmegaConf.register_new_resolver("mvpnet.default_job_name", default_job_name, replace=True)
    OmegaConf.register_new_resolver("mvpnet.python", lambda: sys.executable, replace=True)
    OmegaConf.register_new_resolver("mvpnet.recipe_file", _recipe_file, replace=True)


def _writable(node: type) -> DictConfig:
    """A config node of a frozen dataclass that Hydra may still merge into: OmegaConf makes those read-only."""
    config: DictConfig = OmegaConf.structured(node)

    def unlock(part: DictConfig) -> None:
        part._set_flag("readonly", None)
        for key in part:
            child = part._get_node(key)
            if isinstance(child, DictConfig):
                unlock(child)
                if not dataclasses.is_dataclass(OmegaConf.get_type(child)):
                    child._set_flag("struct", False)  # new keys are what it is for; no + in front of them

    unlock(config)
    return config


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


def explained(error: Exception, place: str = "") -> ConfigError:
    """One message that names the key or group, its place, and near misses."""
    chain = list(_chain(error))
    if missing := next((e for e in chain if isinstance(e, MissingConfigException)), None):
        return _missing_option(missing)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"cannot read {error.override!r} on the command line: {str(error).splitlines()[0]}",
            hint="a value with braces, commas or spaces needs quotes of its own: 'image.path=\"disk-{rank}.qcow2\"'",
        )
    outer = str(error).splitlines()[0] if str(error) else type(error).__name__
    inner = next((e for e in chain if isinstance(e, OmegaConfBaseException) and e.full_key), None)
    inner = inner or next((e for e in chain if isinstance(e, OmegaConfBaseException)), None)
    if inner is None:
        if "No match in the defaults list" in str(error):
            name = outer.split("'")[1] if "'" in outer else outer
            return ConfigError(
                f"there is no config group {name!r}{near(name.split('@')[0], [*GROUPS, 'ranks', 'recipe'])}"
            )
        return ConfigError(str(error).strip())
    key = ".".join(part for part in (place, str(inner.full_key or inner.key or "")) if part)
    if outer.startswith("Could not override '"):
        key = outer.split("'")[1]  # the whole of what was typed, not just the part that was not found
    what = str(inner).splitlines()[0]
    if type(inner).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        what = f"there is no key {key!r}{near(key.removeprefix(place + '.'), all_keys(), place)}"
    else:
        what = f"{key}: {what}"
    where = "" if outer == what or outer in what or place else f"\n  in: {_place(outer)}"
    shell = type(inner).__name__ == "InterpolationKeyError" and "cloud_init" in what
    no_package = key.startswith("recipe.") and "the config file recipe/" in where
    hints = ((shell, _SHELL_HINT), (key.endswith(".True"), _ON_HINT), (no_package, _PACKAGE_HINT))
    return ConfigError(what + where, hint=next((hint for applies, hint in hints if applies), None))


def _place(outer: str) -> str:
    if outer.startswith("In '"):
        return f"the config file {outer.split(chr(39))[1]}.yaml"
    for prefix in ("Error merging override ", "Could not override "):
        outer = outer.removeprefix(prefix)
    return f"the command line, {outer.rstrip('.')}"


def _missing_option(error: MissingConfigException) -> ConfigError:
    missing = str(error.missing_cfg_file)
    group, _, option = missing.rpartition("/")
    options = sorted((set(error.options or []) or _options(group)) - {"schema"})
    if not group:
        return ConfigError(f"there is no config {missing!r}")
    return ConfigError(
        f"{group}: there is no option {option!r}{near(option, options)}",
        hint=f"options of {group}: {', '.join(options) or 'none'}",
    )


def _options(group: str) -> set[str]:
    folders = [*user_config_folders(Path.cwd()), conf_folder()]
    return {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that the schema does not have: a `+key=value` on the command line puts in what it likes."""
    declared = {f.name for f in dataclasses.fields(OmegaConf.get_type(node))}  # type: ignore[arg-type]
    for key in node:
        child = node._get_node(key)
        if key not in declared:
            yield prefix + str(key)
        elif isinstance(child, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(child)):
            yield from _unknown(child, prefix + str(key) + ".")


def near(word: str, known: Any, place: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    if not close and "." in word:
        section, leaf = word.rsplit(".", 1)
        close = [k for k in known if k.rsplit(".", 1)[-1] == leaf or k.startswith(section + ".")][:3]
    prefix = f"{place}." if place else ""
    return f" (did you mean {' or '.join(prefix + match for match in close)}?)" if close else ""


def all_keys() -> list[str]:
    """Every dotted key of the schema."""

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            yield prefix + str(key)
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from walk(child, prefix + str(key) + ".")

    return list(walk(OmegaConf.structured(schema.Config), ""))
