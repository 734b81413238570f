"""Figures of the data path that are no keys. They stand here for both of its parts: Python's and the compiled one.

docs/dataplane.md says how those that matter were found.
"""

from __future__ import annotations

from typing import Final

MESSAGES_A_TURN: Final = 4
ALONE_BELOW_BYTES: Final = 4096  # a smaller message is the last of its turn: who it is for has the core at once
DATAGRAMS_A_TURN: Final = 256  # read in one go, so that the other side of the rank gets its turn
FRAME_COSTS_BYTES: Final = 512  # a small frame costs its guest, and the kernel, what so many bytes do

# Traffic is called bulk for a while after the last turn that moved so much.
BULK_BYTES: Final = 16 * 1024
BULK_LASTS_S: Final = 2e-3
# A rank that gathered less than this between two naps naps twice as long the next time, up to so many net.coalesce_us.
WORTH_A_NAP_BYTES: Final = 256 * 1024
LONGEST_NAP: Final = 4

# A peer that is thought to be awake, but has not taken a message after so long, is rung after all; and one that was
# rung again, at growing intervals.
RING_AFTER_S: Final = 100e-6
RING_AGAIN_S: Final = 1e-3
RING_AGAIN_MAX_S: Final = 10e-3
