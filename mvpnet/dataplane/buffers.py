"""Reuse large buffers: a system call or an MPI message fills one, and its slices are forwarded without a copy.

A chunk returns to its pool when the last holder of one of its slices releases it. Allocating a new one each time would
cost more than filling it, as the kernel has to find and clear its pages.
"""

from __future__ import annotations

import ctypes
from typing import Final

# A shorter slice is copied, so that it does not keep a whole chunk in use. Copying it takes less than a microsecond.
# Queued data then takes at most chunk_bytes / COPY_BELOW_BYTES times its own length.
COPY_BELOW_BYTES: Final = 32 * 1024


class Chunk:
    """A buffer with a reference count: created with one holder, `hold` adds one, `release` removes one."""

    __slots__ = ("_address", "_holders", "_pool", "buffer", "view")

    def __init__(self, pool: Pool, size_bytes: int) -> None:
        self.buffer = bytearray(size_bytes)
        self.view = memoryview(self.buffer)
        self._pool = pool
        self._holders = 1
        self._address = 0

    @property
    def address(self) -> int:
        """Return the address of `buffer` for compiled code. It cannot move while `view` exists."""
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
    """Pool of chunks of one size. It keeps at most `spare` free chunks, so that the memory of a burst is given back."""

    def __init__(self, chunk_bytes: int, spare: int = 16) -> None:
        self.chunk_bytes = chunk_bytes
        self._spare = spare
        self._free: list[Chunk] = []

    def get(self) -> Chunk:
        return self._free.pop() if self._free else Chunk(self, self.chunk_bytes)

    def get_for(self, size_bytes: int) -> Chunk:
        """Return a chunk for `size_bytes`, allocated separately where that is more than the pool's chunk size."""
        return self.get() if size_bytes <= self.chunk_bytes else Chunk(self, size_bytes)

    def put(self, chunk: Chunk) -> None:
        if len(self._free) < self._spare and len(chunk.buffer) == self.chunk_bytes:
            self._free.append(chunk)


class BufferSlice:
    """Whole frames to be forwarded, and the chunk that contains them unless they were copied out of it."""

    __slots__ = ("_chunk", "data", "frames")

    def __init__(self, data: memoryview | bytes, frames: int, chunk: Chunk | None = None) -> None:
        self.data = data
        self.frames = frames
        self._chunk = chunk
        if chunk is not None:
            chunk.hold()

    @classmethod
    def of(cls, view: memoryview, frames: int, chunk: Chunk) -> BufferSlice:
        """Create a slice of `chunk` that outlives the owner's use of the chunk."""
        return cls(bytes(view), frames) if len(view) < COPY_BELOW_BYTES else cls(view, frames, chunk)

    @classmethod
    def joined(cls, parts: list[BufferSlice]) -> BufferSlice:
        """Return one slice with the bytes of all `parts`, and release them."""
        whole = cls(b"".join([part.data for part in parts]), sum(part.frames for part in parts))
        for part in parts:
            part.release()
        return whole

    def release(self) -> None:
        if self._chunk is not None:
            self._chunk.release()
            self._chunk = None
