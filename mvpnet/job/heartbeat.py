"""Heartbeats that detect lost ranks: every rank sends them to rank 0, and rank 0 to every rank.

MPI does not report when a link between hosts is cut or a host loses power: its messages just do not arrive. Then both
sides end on their own. Time is counted in the rank's own beats, so that the suspension of a whole job, by Slurm or with
the machine, does not count as silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mvpnet.runtime.loop import Loop

_BEATS = 10  # per timeout


class Heartbeat:
    """Calls `beat` every tenth of the timeout, and `lost` once with the peers not `heard` during a whole timeout."""

    def __init__(
        self,
        loop: Loop,
        heartbeat_timeout_s: float,
        peers: Iterable[int],
        *,
        beat: Callable[[], object],
        lost: Callable[[list[int]], object],
    ) -> None:
        self._loop = loop
        self._every_s = heartbeat_timeout_s / _BEATS
        self._missed = dict.fromkeys(peers, 0)
        self._beat = beat
        self._lost = lost
        if self._missed and heartbeat_timeout_s:
            loop.call_later(self._every_s, self._turn)

    def heard(self, peer: int) -> None:
        if peer in self._missed:
            self._missed[peer] = 0

    def _turn(self) -> None:
        silent = [peer for peer, missed in self._missed.items() if missed >= _BEATS]
        if silent:
            self._lost(silent)
            return
        for peer in self._missed:
            self._missed[peer] += 1
        self._beat()
        self._loop.call_later(self._every_s, self._turn)
