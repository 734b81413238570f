"""Parse and write sets of ranks, such as "0,3,7-9"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mvpnet.errors import RankSetError

# 24 bits of host number. 10.0.0.0, 10.255.255.254 (shutdown) and 10.255.255.255 (broadcast) belong to no guest.
MAX_WORLD_SIZE: Final = 2**24 - 3


@dataclass(frozen=True)
class RankSet:
    """Set of ranks as written: comma-separated numbers, ranges a-b and a-, and all, even, odd, last."""

    text: str
    ranges: tuple[tuple[int, int], ...]
    words: frozenset[str]

    WORDS = ("all", "even", "odd", "last")

    @classmethod
    def parse(cls, text: str, key: str = "rank set") -> RankSet:
        """Parse a rank set. Raises RankSetError, naming `key`, when a part is no number, range or word."""
        ranges: list[tuple[int, int]] = []
        words: set[str] = set()
        for part in (piece.strip() for piece in text.split(",")):
            if part in cls.WORDS:
                words.add(part)
            elif match := re.fullmatch(r"([0-9]+)(-([0-9]+)?)?", part):
                first = int(match[1])
                last = int(match[3]) if match[3] else MAX_WORLD_SIZE - 1 if match[2] else first
                if last < first:
                    raise RankSetError(f"{key}: {part!r} runs backwards in rank set {text!r}")
                ranges.append((first, last))
            else:
                raise RankSetError(
                    f"{key}: {part!r} is no rank in rank set {text!r}",
                    hint="a rank set is numbers, ranges and words, commas between: 0,3,7-9,20- or even, odd, last, all",
                )
        return cls(text, tuple(ranges), frozenset(words))

    def holds(self, rank: int, world_size: int) -> bool:
        return (
            "all" in self.words
            or ("even" in self.words and rank % 2 == 0)
            or ("odd" in self.words and rank % 2 == 1)
            or ("last" in self.words and rank == world_size - 1)
            or any(first <= rank <= last for first, last in self.ranges)
        )

    def is_empty_in(self, world_size: int) -> bool:
        """Return whether it has no rank of a world of this size."""
        named = "all" in self.words or "even" in self.words or "last" in self.words
        return not (
            named or ("odd" in self.words and world_size > 1) or any(first < world_size for first, _ in self.ranges)
        )


def ranks_text(ranks: Iterable[int]) -> str:
    """Return ascending ranks as the text of a rank set: 0, 1, 2, 5 → "0-2,5"."""
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs_of(ranks))


def runs_of(ranks: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending ranks as runs of first and last: 0, 1, 2, 5 → (0, 2), (5, 5)."""
    runs: list[tuple[int, int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], rank
        else:
            runs.append((rank, rank))
    return runs
