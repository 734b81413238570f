"""Resolves a composed config to a JobSpec: steps, rank overrides, absolute paths, and how many ranks take part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvpnet.config.launch_context import launch_context
from mvpnet.config.messages import explained
from mvpnet.config.nodes import all_keys, keep_rank_values, unknown_keys, writable
from mvpnet.config.references import check_references
from mvpnet.errors import ConfigError
from mvpnet.paths import host_path, launch_folder
from mvpnet.spec import app_steps, schema
from mvpnet.spec.checks import check_job
from mvpnet.spec.copied_paths import with_pushed_files
from mvpnet.spec.drive_text import absolute_drive
from mvpnet.spec.escape import resolved_already
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.near import near
from mvpnet.spec.plain import changed, plain
from mvpnet.spec.rank_set import RankSet

PER_RANK = ("image", "vm", "qemu", "cloud_init", "logging")
_PATHS = {
    "job": ("scratch_dir",),
    "image": (
        *("path", "source", "checksums", "lock_file", "drives", "copy_dir", "kernel", "initrd", "cache_dir"),
        "prepare",
    ),
    "vm": ("firmware",),
    "net": ("socket_dir", "tftp_dir"),
    "cloud_init": ("path", "files", "user_data_file"),
    "logging": ("dir",),
    "qemu": ("binary", "monwrap"),
}
_TEMPLATES = {
    "image": ("path", "drives", "copy_dir", "kernel", "initrd"),
    "vm": ("firmware",),
    "cloud_init": ("path", "files", "user_data_file"),
}


def resolve(config: DictConfig, world_size: int, run_dir: Path, typed: tuple[str, ...]) -> JobSpec:
    """Return the checked spec that a composed config asks for. Relative paths count from the folder of the launch.

    Args:
        config: as Hydra composed it, without Hydra's own part.
        world_size: how many ranks the launch has.
        run_dir: where the run is kept.
        typed: the overrides of the command line.

    Raises:
        ConfigError: a key is unknown, or a value cannot be.
    """
    if unknown := next(unknown_keys(config), None):
        raise ConfigError(f"there is no key {unknown!r}{near(unknown, all_keys())}")
    launch = launch_context()
    check_references(config, launch.origins if launch else {})
    keep_rank_values(config)
    try:
        whole = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise explained(error) from error
    assert isinstance(whole, schema.Config)
    entries = OmegaConf.to_container(config.ranks, resolve=True)
    assert isinstance(entries, dict)
    folder = launch_folder()
    overrides = tuple(_override(str(name), entry, folder) for name, entry in entries.items())
    whole = _with_steps(_absolute(whole, folder), folder)
    whole = dataclasses.replace(whole, app=with_pushed_files(whole.app, folder))
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


def _override(name: str, entry: Any, folder: Path) -> Override:
    place = f"ranks.{name}"
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
        typed = OmegaConf.to_object(OmegaConf.merge(writable(schema.RankOverride), resolved_already(entry)))
    except OmegaConfBaseException as error:
        raise explained(error, place) from error
    assert isinstance(typed, schema.RankOverride)
    changes = {
        section: {
            key: _given(_absolute_value(_PathKey(folder, section, key, place), getattr(typed, section)), value)
            for key, value in keys.items()
        }
        for section, keys in given.items()
    }
    return Override(name, RankSet.parse(str(entry["on"]), f"{place}.on"), changes)


def _with_steps(config: schema.Config, folder: Path) -> schema.Config:
    """Make the paths of the app and of its steps absolute, and the values of steps plain ones of the right type.

    Raises:
        ConfigError: a step has an unknown key, or a value of another type.
    """
    own = {name: getattr(config.app, name) for name in ("command", "push", "script")}
    kind = config.app.kind
    steps = {str(name): _step(str(name), entry, folder, kind) for name, entry in config.app.steps.items()}
    located = _PathKey(folder, "app", "push").located
    absolute = app_steps.absolute(own, "app", located, kind is schema.AppKind.host)
    return changed(config, {"app": {**absolute, "steps": steps}})


def _step(name: str, entry: Any, folder: Path, kind: schema.AppKind) -> dict[str, Any]:
    """Return the keys of a step, where `kind` is the app's own."""
    place = f"app.steps.{name}"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{place}: {entry!r} is no group of keys", hint=f"write {name}: {{command: [./run.sh]}}")
    given = dict(entry)
    known = [field.name for field in dataclasses.fields(schema.Step)]
    if wrong := next((str(key) for key in given if key not in known), None):
        raise ConfigError(f"there is no key '{place}.{wrong}'{near(wrong, known, place)}")
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(writable(schema.Step), resolved_already(given)))
    except OmegaConfBaseException as error:
        raise explained(error, place) from error
    step = {key: plain(getattr(typed, key)) for key in given}
    assert isinstance(typed, schema.Step)
    on_host = (typed.kind if "kind" in given else kind) is schema.AppKind.host
    return {**step, **app_steps.absolute(step, place, _PathKey(folder, "app", "push").located, on_host)}


def _given(typed: Any, written: Any) -> Any:
    """Return those keys of a group within a section that were written, with their typed values."""
    if dataclasses.is_dataclass(typed) and isinstance(written, Mapping):
        return {key: getattr(typed, key) for key in written}
    return typed


@dataclasses.dataclass(frozen=True)
class _PathKey:
    """A key that may be a path of the host."""

    folder: Path  # where relative paths count from
    section: str
    key: str
    place: str = ""  # ranks.NAME, for the keys of a rank override

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.place, self.section, self.key)))

    def located(self, text: str, key: str) -> str:
        """Return the absolute path for a path as written. Raises ConfigError, which names `key`."""
        is_template = self.key in _TEMPLATES.get(self.section, ())
        return str(host_path(text, key, self.folder, template=is_template))


def _absolute(config: schema.Config, folder: Path) -> schema.Config:
    paths = {
        section: {key: _absolute_value(_PathKey(folder, section, key), getattr(config, section)) for key in keys}
        for section, keys in _PATHS.items()
    }
    return changed(config, paths)


def _absolute_value(one: _PathKey, section: Any) -> Any:
    """Return the key's value in a section, with absolute paths where it is a path of the host, or holds some."""
    value = getattr(section, one.key)
    match one.section, one.key:
        case "image", "drives":
            return [absolute_drive(text, f"{one.name}[{i}]", one.located) for i, text in enumerate(value)]
        case "image", "path" if value is not None:
            return absolute_drive(value, one.name, one.located)
        case "image", "prepare":
            script = None if value.script is None else one.located(value.script, f"{one.name}.script")
            return dataclasses.replace(value, script=script)
        case "cloud_init", "files":
            return {path: one.located(source, f"{one.name}.{path}") for path, source in value.items()}
        case "qemu", _ if "/" not in str(value):
            return value  # the name of a program, looked for on the PATH
        case "vm", "firmware" if value == "auto":
            return value
    if value is None or one.key not in _PATHS.get(one.section, ()) or "://" in value:
        return value
    return one.located(value, one.name)
