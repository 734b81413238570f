"""What Hydra and OmegaConf refuse, as one message that names the key or group, its place, and near misses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from mvpnet.config.nodes import all_keys
from mvpnet.errors import ConfigError
from mvpnet.paths import conf_folder, user_config_folders
from mvpnet.spec.near import near
from mvpnet.spec.schema import GROUPS

_SHELL_HINT = (
    r"a ${…} that is for a shell in the guest is written \${…}; rank, world_size, host_name and address are known"
)
_PACKAGE_HINT = "the first line of a recipe has to be: # @package _global_"
_ON_HINT = 'YAML reads on as true; write "on" with quotes'


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
