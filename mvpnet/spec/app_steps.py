"""Resolve and check the steps of the app. The only I/O is a check whether named files exist."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mvpnet.errors import ConfigError, HostError
from mvpnet.spec import schema
from mvpnet.spec.copied_paths import collected, target_in_guest
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import AppKind
from mvpnet.spec.script_text import UNIX_LINES_HINT, host_script_fault, is_executable, script_fault
from mvpnet.spec.user_names import check_user_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")  # used in file names
_GUEST_ONLY = ("script", "on", "user", "push", "collect")
_NOT_OF_ALL_STEPS = ("command", "script", "push", "collect")  # set by each step for itself
SCRIPT_FOLDER = ".mvpnet"  # in the home of the guest's user


@dataclass(frozen=True)
class Step:
    """One program of the app, resolved. A guest step without `argv` only copies files."""

    name: str | None  # None if the app has no named steps
    key: str  # its place in the config, for messages: app, app.steps.NAME
    kind: AppKind
    argv: tuple[str, ...]
    on: RankSet
    user: str | None
    push: Mapping[str, Path]  # path in the guest: file or folder on the host
    executable: str | None  # the pushed file that is the script
    collect: tuple[str, ...]
    timeout_s: float | None
    login_timeout_s: float
    copy_timeout_s: float
    max_parallel_ssh: int
    show_output: bool

    def ranks(self, world_size: int) -> list[int]:
        """Return the ranks of its guests; none for a step on the host."""
        return [rank for rank in range(world_size) if self.kind is AppKind.guest and self.on.holds(rank, world_size)]


def steps_of(app: schema.App) -> list[Step]:
    """Return the app's steps in order; none if the app is empty.

    Raises:
        ConfigError: A step is invalid. Names the key.
    """
    if not app.steps:
        own = {field.name: getattr(app, field.name) for field in fields(schema.Step)}
        asked = own["command"] is not None or any(own[key] for key in _NOT_OF_ALL_STEPS)
        return [_step(None, "app", own)] if asked else []
    for key in _NOT_OF_ALL_STEPS:
        if getattr(app, key):
            raise ConfigError(f"app.{key}: is for an app without steps", hint=f"write app.steps.NAME.{key}")
    shared = {f.name: getattr(app, f.name) for f in fields(schema.Step) if f.name not in _NOT_OF_ALL_STEPS}
    return [_step(name, f"app.steps.{name}", _laid_over(shared, entry)) for name, entry in app.steps.items()]


def check_steps(steps: list[Step], world_size: int) -> None:
    """Refuse steps for no rank of this world, or with a file that is missing or no script that runs.

    Raises:
        ConfigError: Names the key.
        HostError: A program of the host is missing. Names the key.
    """
    for step in steps:
        if step.kind is AppKind.guest and step.on.is_empty_in(world_size):
            raise ConfigError(
                f"{step.key}.on: no rank of this world of {world_size} is in {step.on.text!r}",
                hint="start more ranks (mpirun -n), or name others",
            )
        for target, source in step.push.items():
            _check_pushed(step, target, source)
        if step.kind is AppKind.host:
            _check_program(step)
        if step.kind is AppKind.host and "/" in step.argv[0]:
            _refuse(f"{step.key}.command", Path(step.argv[0]), host_script_fault(Path(step.argv[0])))


def _check_program(step: Step) -> None:
    """Refuse a program that is not on this host. Raises HostError."""
    program = step.argv[0]
    if shutil.which(program):
        return
    if "/" not in program:
        hint = f"write ./{program}" if Path(program).is_file() else None
        raise HostError(f"{step.key}.command: there is no program {program!r} on this host's PATH", hint=hint)
    if not Path(program).is_file():
        raise HostError(f"{step.key}.command: there is no program {program}")
    raise HostError(f"{step.key}.command: {program} cannot be run", hint=f"chmod +x {shlex.quote(program)}")


def _check_pushed(step: Step, target: str, source: Path) -> None:
    is_script = target == step.executable
    key = f"{step.key}.{'script' if is_script else 'push'}"
    if not source.exists():
        hint = "no shell reads it; ~/ is your home" if "$" in str(source) else None
        raise ConfigError(f"{key}: there is no file or folder {source}", hint=hint)
    if is_script and not source.is_file():
        raise ConfigError(f"{key}: {source} is a folder, and no script")
    if is_script or is_executable(source):
        _refuse(key, source, script_fault(source, is_text=is_script))


def _refuse(key: str, path: Path, fault: str | None) -> None:
    if fault:
        raise ConfigError(f"{key}: {path} {fault}", hint=UNIX_LINES_HINT if "CR LF" in fault else None)


def app_argv(command: Any, key: str = "app.command") -> list[str] | None:
    """Return a command as a list of arguments: a string is split as a shell would; None for no command.

    Raises:
        ConfigError: The command is neither a list nor a string. Names `key`.
    """
    if command is None:
        return None
    if isinstance(command, list) and any(isinstance(word, bool) or word is None for word in command):
        raise ConfigError(
            f"{key}: {command!r} holds a word that YAML reads as something else",
            hint=f"put quotes around words such as true, on, no and null: {key}=['\"true\"']",
        )
    try:
        argv = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {command!r} cannot be split into arguments: {error}") from None
    if not argv:
        raise ConfigError(f"{key}: is empty", hint="leave it out for a job without an app")
    return argv


def absolute(
    section: Mapping[str, Any], place: str, located: Callable[[str, str], str], on_host: bool
) -> dict[str, Any]:
    """Return a step's keys that name files on the host, with absolute paths.

    Args:
        section: The step's keys.
        place: The step's own key: app, app.steps.NAME.
        located: Returns the absolute path for a path as written and its key.
        on_host: Whether its command is a program of the host, which may be in a home.

    Raises:
        ConfigError: A script is no valid command line, or there is no such path.
    """
    changes: dict[str, Any] = {}
    if section.get("push"):
        changes["push"] = {
            target: located(source, f"{place}.push.{target}") for target, source in section["push"].items()
        }
    command = app_argv(section.get("command"), f"{place}.command") if on_host else None
    if command and command[0].startswith("~"):
        changes["command"] = [located(command[0], f"{place}.command"), *command[1:]]
    if script := app_argv(section.get("script"), f"{place}.script"):
        changes["script"] = [located(script[0], f"{place}.script"), *script[1:]]
    return changes


def _laid_over(shared: dict[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the step's own keys over the app's; a step on the host inherits none that are for guests only."""
    kind = entry.get("kind", shared["kind"])
    if AppKind(getattr(kind, "value", kind)) is AppKind.host:
        shared = {key: value for key, value in shared.items() if key not in _GUEST_ONLY}
    return {**shared, **entry}


def _step(name: str | None, key: str, given: Mapping[str, Any]) -> Step:
    """Return the step for the given keys, in JSON's types or the schema's."""
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"{key}: {name!r} cannot be used in file names", hint="letters, digits, dash, underscore")
    default = schema.Step()
    value = {field.name: given.get(field.name, getattr(default, field.name)) for field in fields(schema.Step)}
    kind = AppKind(getattr(value["kind"], "value", value["kind"]))
    if kind is AppKind.host and (wrong := next((k for k in _GUEST_ONLY if value[k]), None)):
        raise ConfigError(f"{key}.{wrong}: is for guests; this runs on the host", hint=f"{key}.kind=guest")
    argv = app_argv(value["command"], f"{key}.command")
    script = app_argv(value["script"], f"{key}.script")
    if argv and script:
        raise ConfigError(f"{key}.script: there is {key}.command too; give one of them")
    if not (argv or script or value["push"] or value["collect"]):
        raise ConfigError(f"{key}: has nothing to do", hint=f"set {key}.command")
    for limit in ("timeout_s", "login_timeout_s", "copy_timeout_s"):
        if value[limit] is not None and value[limit] <= 0:
            raise ConfigError(f"{key}.{limit}: {value[limit]:g} is no time to wait")
    if value["max_parallel_ssh"] < 1:
        raise ConfigError(
            f"{key}.max_parallel_ssh: {value['max_parallel_ssh']} guests at once will never come to an end"
        )
    if value["user"] is not None:
        check_user_name(value["user"], f"{key}.user")
    push = _pushed(f"{key}.push", value["push"])
    executable = None
    if script:
        executable = f"{SCRIPT_FOLDER}/{Path(script[0]).name}"
        push[executable] = Path(script[0])
        argv = [f"./{executable}", *script[1:]]
    return Step(
        name=name,
        key=key,
        kind=kind,
        argv=tuple(argv or ()),
        on=RankSet.parse(str(value["on"] if value["on"] is not None else "0"), f"{key}.on"),
        user=value["user"],
        push=push,
        executable=executable,
        collect=collected(f"{key}.collect", value["collect"]),
        timeout_s=value["timeout_s"],
        login_timeout_s=value["login_timeout_s"],
        copy_timeout_s=value["copy_timeout_s"],
        max_parallel_ssh=value["max_parallel_ssh"],
        show_output=value["show_output"],
    )


def _pushed(key: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Return the files to send, by destination. Raises ConfigError."""
    push: dict[str, Path] = {}
    for to, source in files.items():
        target = target_in_guest(key, to, Path(source))
        if target in push:
            raise ConfigError(f"{key}: {push[target]} and {source} would both be sent to {to!r}")
        push[target] = Path(source)
    return push
