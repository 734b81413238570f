"""Tells what Hydra and OmegaConf refuse in one message that names the key or group, its place, and near misses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
)

from mvpnet.config.nodes import all_keys
from mvpnet.errors import ConfigError
from mvpnet.paths import conf_folder, user_config_folders
from mvpnet.spec.near import near
from mvpnet.spec.schema import GROUPS
from mvpnet.util.hydra_quotes import quoted

_SHELL_HINT = r"what is for a shell is written \${…}; ${oc.env:NAME} is of the launch's own environment"
_HYDRA = ("hydra", "omegaconf", "antlr4", "yaml")
_PACKAGE_HINT = "the first line of a recipe has to be: # @package _global_"


def is_of_hydra(error: BaseException) -> bool:
    """Tell whether Hydra, or a library that it reads config by, raised an error; not code of ours that it called."""
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return True
    packages = []
    trace = error.__traceback__
    while trace:
        packages.append(str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0])
        trace = trace.tb_next
    known = [package for package in packages if package in (*_HYDRA, "mvpnet", "hydra_plugins")]
    return bool(known) and known[-1] in _HYDRA


def explained(error: Exception, place: str = "") -> ConfigError:
    """Return the one error for people that says what Hydra or OmegaConf refuse.

    Args:
        error: what they raised; what they raised it from is looked at too.
        place: where in the config the value stands that was refused, where they were not told.
    """
    chain = list(_chain(error))
    if ours := next((one for one in chain if isinstance(one, ConfigError)), None):  # of a plugin of ours
        return ours
    for kind, explain in _BY_KIND:
        if found := [one for one in chain if isinstance(one, kind)]:
            return explain(found, error, place)
    return _unknown_group(error)


def _missing_option(found: list[Any], error: Exception, place: str) -> ConfigError:
    """A group has no such option."""
    missing = str(found[0].missing_cfg_file)
    group, _, option = missing.rpartition("/")
    options = sorted((set(found[0].options or []) or _options(group)) - {"schema"})
    if not group:
        return ConfigError(f"there is no config {missing!r}")
    return ConfigError(
        f"{group}: there is no option {option!r}{near(option, options)}",
        hint=f"options of {group}: {', '.join(options) or 'none'}",
    )


def _unreadable_override(found: list[Any], error: Exception, place: str) -> ConfigError:
    """A word of the command line is not in Hydra's grammar."""
    key, _, value = str(found[0].override).partition("=")
    if value[:1] in ("[", "{"):
        hint = f"a word in it with signs or blanks needs quotes of its own: '{key}=[a,\"b c\"]'"
    else:
        hint = f"put the value in quotes: {shlex.quote(f'{key}={quoted(value)}')}"
    told = next((line for line in str(found[0]).splitlines() if "Error parsing override" not in line), "")
    if told.startswith("LexerNoViableAltException"):
        told = "it has signs that need quotes around the value"
    elif sign := re.match(r"token recognition error at: '(.)", told):
        told = f"the sign {sign[1]} needs quotes around the value"
    elif told.startswith(("mismatched input", "extraneous input", "no viable alternative")):
        told = "its brackets, commas or quotes do not fit together"
    return ConfigError(f"cannot read {found[0].override!r} on the command line: {told}", hint=hint)


def _refused_key(found: list[Any], error: Exception, place: str) -> ConfigError:
    """There is no such key, or the key does not take the value. The innermost error that knows its key says so best."""
    inner = next((one for one in found if one.full_key), found[0])
    outer = _first_line(error)
    # the whole of what was typed, where Hydra says it, not just the part that was not found
    typed = outer.split("'")[1] if outer.startswith("Could not override '") else ""
    if typed in all_keys():  # it is there; what was not found is in the mapping that was to be its value
        typed = ""
    key = typed or ".".join(part for part in (place, str(inner.full_key or inner.key or "")) if part)
    if isinstance(inner, (ConfigKeyError, ConfigAttributeError)):
        what = f"there is no key {key!r}{near(key.removeprefix(place + '.'), all_keys(), place)}"
    else:
        what = f"{key}: {_first_line(inner)}"
    # a private key that was given by mistake is not repeated
    where = "" if outer in what or place or key.endswith("ssh_authorized_keys") else f"\n  in: {_place(outer)}"
    return ConfigError(what + where, hint=_hint(inner, key, where))


def _hint(inner: OmegaConfBaseException, key: str, where: str) -> str | None:
    """What to do about mistakes that are made often."""
    if isinstance(inner, InterpolationKeyError):
        return _SHELL_HINT
    if shape := _shape_hint(_first_line(inner), key):
        return shape
    return _PACKAGE_HINT if key.startswith("recipe.") and "the config file recipe/" in where else None


def _shape_hint(refusal: str, key: str) -> str | None:
    """How to write a mapping or a list, where a single value was given."""
    if re.search(r"Cannot assign \w+ to Dict\[|Cannot merge DictConfig with", refusal):
        if key.endswith("cloud_init.user_data"):
            return f"a file of cloud-config is given by {key}_file=FILE; {key} takes a mapping, {{NAME: VALUE}}"
        return f"{key} takes a mapping: {key}={{NAME: VALUE}}, or {key}.NAME=VALUE"
    return f"{key} takes a list: {key}=[VALUE]" if "is not a ListConfig" in refusal else None


def _unknown_group(error: Exception) -> ConfigError:
    """Something else; Hydra tells of an unknown group by words alone."""
    if isinstance(error, (AssertionError, AttributeError, KeyError, TypeError, IndexError, RecursionError)):
        return ConfigError(f"Hydra cannot take this configuration: {type(error).__name__}: {_first_line(error)}")
    if ambiguous := re.match("Ambiguous value for argument '(.+)'", str(error)):
        key, _, value = ambiguous[1].partition("=")
        quotes = shlex.quote(f"{key}={quoted(value)}")
        return ConfigError(
            f"{key}: {value} is several values", hint=f"a sweep over them asks for -m; one text: {quotes}"
        )
    if "No match in the defaults list" not in str(error):
        return ConfigError(str(error).strip())
    outer = _first_line(error)
    named = re.search(r"override '([^']+)'", outer)
    name = named[1] if named else outer
    where = f"\n  in: {_place(outer)}" if outer.startswith("In '") else ""
    groups = near(name.split("@")[0], [*GROUPS, "ranks", "recipe"])
    return ConfigError(f"there is no config group {name!r}{groups}{where}")


# The first that is in the chain of errors is told.
_BY_KIND: tuple[tuple[type[Exception], Callable[[list[Any], Exception, str], ConfigError]], ...] = (
    (MissingConfigException, _missing_option),
    (OverrideParseException, _unreadable_override),
    (OmegaConfBaseException, _refused_key),
)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _place(outer: str) -> str:
    if outer.startswith("In '"):
        return f"the config file {outer.split(chr(39))[1]}.yaml"
    for prefix in ("Error merging override ", "Could not override "):
        outer = outer.removeprefix(prefix)
    return f"the command line, {outer.rstrip('.')}"


def _options(group: str) -> set[str]:
    folders = [*user_config_folders(Path.cwd()), conf_folder()]
    return {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
