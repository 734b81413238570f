"""Constants of the data path that are no configuration keys, for both its Python and its compiled part.

docs/dataplane.md describes how the important ones were found.
"""

from __future__ import annotations

from typing import Final

MESSAGES_A_TURN: Final = 4
ALONE_BELOW_BYTES: Final = 4096  # a smaller message ends the turn, so that its recipient gets the core at once
DATAGRAMS_A_TURN: Final = 256  # read at once, so that the other direction of the rank gets its turn
FRAME_COSTS_BYTES: Final = 512  # cost of a small frame for its guest and the kernel, as a number of bytes

# Traffic counts as bulk for this long after the last turn that moved this much.
BULK_BYTES: Final = 16 * 1024
BULK_LASTS_S: Final = 2e-3
# A rank that gathered fewer bytes than this between two naps doubles its next nap, up to LONGEST_NAP x net.coalesce_us.
WORTH_A_NAP_BYTES: Final = 256 * 1024
LONGEST_NAP: Final = 4

# A peer that is believed to be awake, but has not received a message after this time, is rung after all. One that was
# rung already is rung again, at growing intervals.
RING_AFTER_S: Final = 100e-6
RING_AGAIN_S: Final = 1e-3
RING_AGAIN_MAX_S: Final = 10e-3
