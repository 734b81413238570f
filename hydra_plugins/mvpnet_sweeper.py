"""Hydra's own sweeper, for mvpnet: the values in `hydra.sweeper.params` are read like those on a command line."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mvpnet.errors import ConfigError
from mvpnet.spec.aliases import OldNames


class JobSweeper(Sweeper):
    """Combines the values of parameters, each with each, as Hydra's basic sweeper does, which it hands them to."""

    def __init__(self, max_batch_size: int | None, params: dict[str, str]) -> None:
        """Take the keys of `config.sources.SweeperConf`.

        Raises:
            ConfigError: the batch size is below 1, or a value cannot be read.
        """
        from mvpnet.config.words import hydra_words  # slow, and other applications of Hydra's import this module

        if max_batch_size is not None and max_batch_size < 1:
            raise ConfigError(f"hydra.sweeper.max_batch_size: {max_batch_size} is below 1", hint="leave it out")
        words = hydra_words(["-m", *(f"{key}={value}" for key, value in params.items())], OldNames())[1:]
        # Hydra's class is in a private part of it; as a plugin it can be asked for.
        plugins = Plugins.instance().discover(Sweeper)
        basic: Any = next(one for one in plugins if one.__name__ == "BasicSweeper")
        self._basic: Sweeper = basic(max_batch_size, dict(word.split("=", 1) for word in words))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to each sweeper that it makes."""
        self._basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs of all combinations. Returns what their tasks did."""
        return self._basic.sweep(arguments)
