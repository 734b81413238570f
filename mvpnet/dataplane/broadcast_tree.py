"""Who passes a broadcast on to whom: a binary tree over all ranks, rooted at the sender.

Ranks are counted from the root, round the end of the world: position p has the children 2p + 1 and 2p + 2, as in a
binary heap. So no rank sends a broadcast more than twice, it is everywhere after log2(size) steps, and each rank
can tell from the root alone where it stands, without a table.
"""

from __future__ import annotations


def children(rank: int, root: int, size: int) -> list[int]:
    """The ranks, at most two, to which `rank` passes on what `root` broadcast."""
    first = 2 * ((rank - root) % size) + 1
    return [(root + position) % size for position in range(first, min(first + 2, size))]


def parent(rank: int, root: int, size: int) -> int | None:
    """The only rank from which `rank` may take a broadcast of `root`; None for the root, who takes it from nobody."""
    position = (rank - root) % size
    return (root + (position - 1) // 2) % size if position else None
