"""What a verb that all ranks run gets from the launch: the world, and the signals that stop it."""

from __future__ import annotations

import dataclasses

from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals


@dataclasses.dataclass(frozen=True)
class Launch:
    """Rank 0's launch, for the verb to run in."""

    world: World
    signals: StopSignals
