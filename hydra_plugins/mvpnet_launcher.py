"""Hydra's launcher for mvpnet's sweeps: repeats each combination, leaves out what is done, says how far it is.

Hydra's own sweepers say which combinations there are; its basic launcher runs each in this process. Hydra takes
launchers from this namespace package alone. Other applications of Hydra's see it and have no use for it: its config,
hydra/launcher=mvpnet, is only stored by mvpnet's `compose`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, flag_override
from omegaconf.errors import OmegaConfBaseException

from mvpnet.errors import MvpnetError
from mvpnet.sweep.sweep import SweepJob, SweepUnderWay


class SweepLauncher(BasicLauncher):
    """Runs a sweep's jobs, one after another, in this process and the ranks that wait for their specs."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Hydra's numbers, from `initial_job_idx`, are not used: on a resumed sweep they would be taken."""
        assert self.config is not None
        sweep = SweepUnderWay.sweep
        returns: list[JobReturn] = []
        jobs = sweep.plan(Path(str(self.config.hydra.sweep.dir)).resolve(), self._repeated(job_overrides))
        for job in jobs:
            if job.done:
                continue
            sweep.begin(job)
            assert job.number is not None
            try:
                [ended] = super().launch([job.overrides], job.number)
                _ = ended.return_value  # raises what nobody foresaw: the ranks may be out of step, none is to go on
                returns.append(ended)
            finally:
                sweep.end()
        return returns

    def _repeated(self, job_overrides: Sequence[Sequence[str]]) -> Iterator[SweepJob]:
        """All combinations, then all once more, and so on: what is cut short has seen each as often as it could."""
        configs = [(tuple(overrides), self._config(overrides)) for overrides in job_overrides]
        for repeat in range(1, max([1, *(config.sweep.repeat for _, config in configs)]) + 1):
            for overrides, config in configs:
                if repeat <= max(1, config.sweep.repeat):  # less than one is refused when it is its turn
                    yield SweepJob(overrides, repeat, self._digest(config))

    def _config(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None and self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with flag_override(config, ["struct", "readonly"], False):
            del config["hydra"]
        return config

    def _digest(self, config: DictConfig) -> str | None:
        """None for what cannot be resolved, or not before it runs: such a job is never taken for one that is done."""
        try:
            return SweepUnderWay.digest_of(config.copy())
        except (MvpnetError, OmegaConfBaseException):
            return None
