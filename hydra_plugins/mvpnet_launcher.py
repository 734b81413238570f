"""Hydra's launcher for mvpnet's sweeps: repeats each combination, leaves out what is done, says how far it is.

Hydra's own sweepers say which combinations there are; this runs each in this process. Hydra takes launchers from this
namespace package alone. Other applications of Hydra's see it and have no use for it: its config, hydra/launcher=mvpnet,
is only stored by mvpnet's `config.sources`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, flag_override
from omegaconf.errors import OmegaConfBaseException

from mvpnet.config.launch_context import LaunchContext, launch_context
from mvpnet.config.run_folder import claim, claim_job_folder
from mvpnet.errors import MvpnetError
from mvpnet.sweep.model import SweepJob


class SweepLauncher(Launcher):
    """Runs a sweep's jobs, one after another, in this process and the ranks that wait for their specs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to each launcher that it makes."""
        self._loader = hydra_context.config_loader
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config
        launch = launch_context()
        assert launch
        launch.claimed = claim(config, "hydra.sweep.dir")  # before a sweeper writes anything there

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run what is not done yet of these combinations and their repeats.

        Hydra's numbers, from `initial_job_idx`, are not used: on a resumed sweep they would be taken.
        """
        launch = launch_context()
        assert launch
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        sweep, returns = launch.sweep, []
        assert launch.claimed
        folder = launch.claimed.path
        for job in sweep.plan(folder, self._repeated(job_overrides, launch)):
            if job.done:
                continue
            sweep.begin(job)
            assert job.number is not None
            try:
                ended = self._run(job.overrides, job.number, folder)
                _ = ended.return_value  # raises what nobody foresaw: the ranks may be out of step, none is to go on
                returns.append(ended)
            finally:
                sweep.end()
        return returns

    def _run(self, overrides: Sequence[str], number: int, folder: Path) -> JobReturn:
        """Run one job, as Hydra's basic launcher does, under our number and in a folder of its own."""
        config = self._loader.load_sweep_config(self._config, list(overrides))
        with flag_override(config, "struct", False):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        if launch := launch_context():
            launch.run_dir = claim_job_folder(config, folder)
        ended = run_job(
            hydra_context=self._hydra_context,
            task_function=self._task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        return ended

    def _repeated(self, job_overrides: Sequence[Sequence[str]], launch: LaunchContext) -> Iterator[SweepJob]:
        """All combinations, then all once more, and so on: what is cut short has seen each as often as it could."""
        configs = [(tuple(overrides), self._without_hydra(overrides)) for overrides in job_overrides]
        for repeat in range(1, max([1, *(config.sweep.repeat for _, config in configs)]) + 1):
            for overrides, config in configs:
                if repeat <= max(1, config.sweep.repeat):  # less than one is refused when it is its turn
                    yield SweepJob(overrides, repeat, _digest(config, launch))

    def _without_hydra(self, overrides: Sequence[str]) -> DictConfig:
        config = self._loader.load_sweep_config(self._config, list(overrides))
        with flag_override(config, ["struct", "readonly"], False):
            del config["hydra"]
        return config


def _digest(config: DictConfig, launch: LaunchContext) -> str | None:
    """None for what cannot be resolved, or not before it runs: such a job is never taken for one that is done."""
    try:
        return launch.digest_of(config.copy())
    except (MvpnetError, OmegaConfBaseException):
        return None
