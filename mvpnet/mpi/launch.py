"""Provide a verb that all ranks run with the world, and with the signals that stop it."""

from __future__ import annotations

import dataclasses

from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals


@dataclasses.dataclass(frozen=True)
class Launch:
    """Launch of rank 0, in which the verb runs."""

    world: World
    signals: StopSignals
