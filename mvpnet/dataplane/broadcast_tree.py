"""Forward broadcasts along a binary tree over all ranks, rooted at the sender.

Positions are counted from the root, wrapping at the end of the world. Position p has the children 2p + 1 and 2p + 2, as
in a binary heap. So no rank sends a broadcast more than twice, it arrives everywhere after log2(size) steps, and each
rank computes its own position from the root alone, without a table.
"""

from __future__ import annotations


def children(rank: int, root: int, size: int) -> list[int]:
    """Return the ranks, at most two, to which `rank` forwards a broadcast of `root`."""
    first = 2 * ((rank - root) % size) + 1
    return [(root + position) % size for position in range(first, min(first + 2, size))]


def parent(rank: int, root: int, size: int) -> int | None:
    """Return the only rank from which `rank` accepts a broadcast of `root`; None for the root itself."""
    position = (rank - root) % size
    return (root + (position - 1) // 2) % size if position else None
