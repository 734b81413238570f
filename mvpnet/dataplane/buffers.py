"""Big buffers, used again and again: a system call or an MPI message fills one, and its parts travel on uncopied.

A chunk goes back to its pool when the last that holds a part of it lets go. Allocating one each time instead would
cost more than filling it: the kernel has to find and clear its pages.
"""

from __future__ import annotations

import ctypes
from typing import Final

# A part shorter than this is copied rather than let it hold back a whole chunk; copying it costs less than a
# microsecond, and what waits in a queue then takes at most chunk_bytes / COPY_BELOW_BYTES times its own length.
COPY_BELOW_BYTES: Final = 32 * 1024


class Chunk:
    """`buffer` and a view of it. Made with one holder; `hold` adds one, `release` takes one away."""

    __slots__ = ("_address", "_holders", "_pool", "buffer", "view")

    def __init__(self, pool: Pool, size_bytes: int) -> None:
        self.buffer = bytearray(size_bytes)
        self.view = memoryview(self.buffer)
        self._pool = pool
        self._holders = 1
        self._address = 0

    @property
    def address(self) -> int:
        """Where `buffer` lies, for what is compiled. It cannot move while `view` exists."""
        if not self._address:
            self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        return self._address

    @property
    def shared(self) -> bool:
        return self._holders > 1

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._holders = 1
            self._pool.put(self)


class Pool:
    """Chunks of one size; it keeps at most `spare` of them, so that a burst's memory is given back."""

    def __init__(self, chunk_bytes: int, spare: int = 16) -> None:
        self.chunk_bytes = chunk_bytes
        self._spare = spare
        self._free: list[Chunk] = []

    def get(self) -> Chunk:
        return self._free.pop() if self._free else Chunk(self, self.chunk_bytes)

    def get_for(self, size_bytes: int) -> Chunk:
        """A chunk that holds `size_bytes`: one of its own where that is more than a chunk of the pool."""
        return self.get() if size_bytes <= self.chunk_bytes else Chunk(self, size_bytes)

    def put(self, chunk: Chunk) -> None:
        if len(self._free) < self._spare and len(chunk.buffer) == self.chunk_bytes:
            self._free.append(chunk)


class BufferSlice:
    """Bytes of whole frames on their way, and the chunk they lie in where they were not copied out of it."""

    __slots__ = ("_chunk", "data", "frames")

    def __init__(self, data: memoryview | bytes, frames: int, chunk: Chunk | None = None) -> None:
        self.data = data
        self.frames = frames
        self._chunk = chunk
        if chunk is not None:
            chunk.hold()

    @classmethod
    def of(cls, view: memoryview, frames: int, chunk: Chunk) -> BufferSlice:
        """A part of `chunk` that outlives the owner's use of it."""
        return cls(bytes(view), frames) if len(view) < COPY_BELOW_BYTES else cls(view, frames, chunk)

    @classmethod
    def joined(cls, parts: list[BufferSlice]) -> BufferSlice:
        """One part with the bytes of all, which are released."""
        whole = cls(b"".join([part.data for part in parts]), sum(part.frames for part in parts))
        for part in parts:
            part.release()
        return whole

    def release(self) -> None:
        if self._chunk is not None:
            self._chunk.release()
            self._chunk = None
