"""What objects that Hydra makes itself have to know of the launch.

Hydra makes launchers, search path plugins and config sources from their classes, when it wants to, with arguments of
its own: nothing else can be handed to them. So what they need is laid down here for as long as Hydra composes, and
nowhere else. A variable of this module does for that: Hydra imports modules of `hydra_plugins` alone more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from mvpnet.errors import ConfigError
from mvpnet.logs import say
from mvpnet.spec.aliases import OldNames
from mvpnet.sweep.sweep import Sweep


@dataclass(frozen=True)
class LaunchContext:
    """One launch: a job, a sweep, or a look at their config."""

    launch_dir: Path
    config_dir: Path | None  # --config-dir
    sweep: Sweep
    digest_of: Callable[[DictConfig], str]  # of the spec that a composed config resolves to; raises ConfigError
    old_names: OldNames = field(default_factory=OldNames)
    origins: dict[str, str] = field(default_factory=dict)  # of texts with ${…}: the config file that they stand in

    def warn_of_old_names(self) -> None:
        """Say, in one line on standard error, which old names were met since the last time."""
        if warning := self.old_names.warning():
            say(warning)


_current: ContextVar[LaunchContext] = ContextVar("mvpnet's launch")


@contextmanager
def handed_to_hydra(context: LaunchContext) -> Iterator[LaunchContext]:
    """Let what Hydra makes find this launch while inside.

    Raises:
        ConfigError: there is no folder --config-dir.
    """
    if context.config_dir and not context.config_dir.is_dir():
        raise ConfigError(f"--config-dir: there is no folder {context.config_dir}")
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def launch_context() -> LaunchContext | None:
    """Return the launch; None where Hydra works for another application in this process."""
    return _current.get(None)
