"""Where Hydra finds config: the shipped folder, the user's, and the schema. Old names in the user's files are renamed.

Hydra gets each of these once a process, however many jobs are composed in it: `register`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from mvpnet.cloudinit.yaml_file import read_yaml
from mvpnet.config.kinds import kind_at
from mvpnet.config.launch_context import launch_context
from mvpnet.config.nodes import writable
from mvpnet.config.references import check_syntax, texts_with_references
from mvpnet.errors import ConfigError
from mvpnet.paths import conf_folder, user_config_folders
from mvpnet.spec import schema
from mvpnet.spec.aliases import (
    RENAMED_OPTIONS,
    OldNames,
    keys_of,
    new_key,
    renamed,
    renamed_references,
)

FOLDER_SCHEME = "mvpnet"
_OPTIONS_SCHEME = "mvpnet-renamed"
_GLOBAL = "_global_"


class UserFolder(ConfigSource):
    """A folder with the user's config groups, in whose files keys may have old names."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self._folder = _folder_source(provider, self.path)

    @staticmethod
    def scheme() -> str:
        return FOLDER_SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a file's content, its texts as they are written there, with the names of today.

        Raises:
            ConfigError: the file cannot be read, a reference in it cannot be, or it gives a key by its old name and by
                its new one.
        """
        path = Path(self.path, config_path.removesuffix(".yaml") + ".yaml")
        place = f"the config file {config_path.removesuffix('.yaml')}.yaml"
        header = _header(path, place)
        prefix = _prefix(config_path, header["package"])
        tree = read_yaml(path, kind_at(prefix.removesuffix(".")), place)
        return ConfigResult(self.provider, self.full_path(), _config_of(tree, prefix, place), header)

    def available(self) -> bool:
        return bool(self._folder.available())

    def is_group(self, config_path: str) -> bool:
        return bool(self._folder.is_group(config_path))

    def is_config(self, config_path: str) -> bool:
        return bool(self._folder.is_config(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return [str(name) for name in self._folder.list(config_path, results_filter)]


class RenamedOptions(ConfigSource):
    """The shipped options under their old names. It is asked last, so that a user's option of that name wins.

    It lists nothing: help and near misses name the options of today.
    """

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self._folder = _folder_source(provider, self.path)

    @staticmethod
    def scheme() -> str:
        return _OPTIONS_SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, old = config_path.removesuffix(".yaml").rpartition("/")
        new = RENAMED_OPTIONS[group][old]
        if context := launch_context():
            context.old_names.add(f"{group}={old}", f"{group}={new}")
        found = self._folder.load_config(f"{group}/{new}")
        found.path = self.full_path()
        return found

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        group, _, old = config_path.removesuffix(".yaml").rpartition("/")
        return old in RENAMED_OPTIONS.get(group, {})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


def _folder_source(provider: str, path: str) -> ConfigSource:
    """Hydra's own source of a folder, by its scheme: its class is in a private part of Hydra."""
    found = Plugins.instance().discover(ConfigSource)
    kind = next(one for one in found if issubclass(one, ConfigSource) and one.scheme() == "file")
    return kind(provider, f"file://{path}")


def _prefix(config_path: str, package: str | None) -> str:
    """Where a file's keys are in the config, with a dot at the end: its package, by default its group's name."""
    group = config_path.rpartition("/")[0].replace("/", ".")
    place = group if package is None else package.replace("_group_", group)
    place = place.removeprefix(_GLOBAL).strip(".")
    return f"{place}." if place else ""


def _header(path: Path, place: str) -> dict[str, str | None]:
    """Return what the comments at the head of a file say, as `# @package _global_`. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            head = file.read(512)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from error
    return ConfigSource._get_header_dict(head)


def _config_of(tree: Any, prefix: str, place: str) -> DictConfig:
    """Return the config of a file's content. Raises ConfigError."""
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{place}: is no group of keys", hint="a config file is lines of KEY: VALUE")
    context = launch_context()
    check_syntax(tree, prefix, place)
    if context:
        tree = _with_new_names(tree, prefix, place, context.old_names)
        context.origins.update((text, place) for text in texts_with_references(tree))
    config: DictConfig = OmegaConf.create(tree)
    return config


def _with_new_names(tree: dict[str, Any], prefix: str, place: str, met: OldNames) -> dict[str, Any]:
    new = _with_new_references(renamed(tree, prefix, where=place), met)
    for key in keys_of(tree, prefix):
        if (today := new_key(key)) != key:
            met.add(key, today)
    assert isinstance(new, dict)
    return new


def _with_new_references(value: Any, met: OldNames) -> Any:
    if isinstance(value, dict):
        return {key: _with_new_references(item, met) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_new_references(item, met) for item in value]
    return renamed_references(value, met) if isinstance(value, str) else value


class SearchPath(SearchPathPlugin):
    """Puts the user's own folders before the shipped config, so that they add to it and may replace its options.

    Behind it are the old names of its options, and the folder of --config-dir.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        context = launch_context()
        if context is None:
            return
        for element in search_path.get_path():
            if element.provider == "main":
                element.path = f"{FOLDER_SCHEME}://{conf_folder()}"
        for folder in user_config_folders(context.launch_dir):
            search_path.prepend(provider="mvpnet", path=f"{FOLDER_SCHEME}://{folder.resolve()}", anchor="main")
        search_path.append(provider="mvpnet", path=f"{_OPTIONS_SCHEME}://{conf_folder()}")
        if context.config_dir:
            search_path.append(provider="command-line", path=f"{FOLDER_SCHEME}://{context.config_dir.resolve()}")


@dataclass
class SweeperConf:
    """Keys of our sweeper. Values of `params` are texts as on a command line: `vm.memory: 1G,2G`."""

    _target_: str = "hydra_plugins.mvpnet_sweeper.JobSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] = field(default_factory=dict)


@functools.cache
def register() -> None:
    """Hand Hydra and OmegaConf the schema, our plugins and resolvers. Once: later versions warn of a second time."""
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="mvpnet", node={"_target_": "hydra_plugins.mvpnet_launcher.SweepLauncher"})
    store.store(group="hydra/sweeper", name="mvpnet", node=writable(SweeperConf))
    store.store(name="schema", node=writable(schema.Config))
    for group, node in schema.GROUPS.items():
        store.store(group=group, name="schema", node=writable(node))
    for plugin in (UserFolder, RenamedOptions, SearchPath):
        Plugins.instance().register(plugin)
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver)


def default_job_name() -> str:
    """Return the batch system's job id where there is one, else a name after this process."""
    for variable in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        if value := os.environ.get(variable):
            return "".join(c if c.isalnum() or c in "._-" else "-" for c in value)
    return f"j{os.getpid()}"


def _recipe_file(name: str) -> str:
    """Return the path of a file that belongs to a shipped recipe."""
    return str(Path(conf_folder()) / "recipe" / name)


RESOLVERS: dict[str, Callable[..., str]] = {
    "mvpnet.default_job_name": default_job_name,
    "mvpnet.python": lambda: sys.executable,
    "mvpnet.recipe_file": _recipe_file,
}
