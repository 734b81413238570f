"""Connect qemu to its rank by a socket: qemu's stream and dgram netdevs, by inherited descriptor or by unix path.

    kind     framing on the socket                    by descriptor           by path
    stream   4-byte big-endian length, then a frame   socket pair             we listen, qemu connects
    dgram    one frame per datagram                   datagram socket pair    we bind ours and send to qemu's

Both kinds give their owner the same format, that of the stream: see `frame`. No call blocks, and all memory is bounded.
Frames that the guest does not take are queued. From `queue_bytes` on the link is `full`, and its owner should send no
more. Messages are in flight by then, so the link accepts as much again before it refuses frames.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mvpnet.dataplane.buffers import BufferSlice, Chunk, Pool
from mvpnet.dataplane.frame import BROKEN, LENGTH_BYTES, MAX_FRAME_BYTES, TOO_LONG, Run, Splitter
from mvpnet.dataplane.tuning import DATAGRAMS_A_TURN

if TYPE_CHECKING:  # planning a job needs a link's names, and no MPI
    from mvpnet.dataplane.fastpath import FastPath

# The kernel limits it to net.core.wmem_max, and doubles it. A larger buffer allows more frames per system call.
_SOCKET_BUFFER_BYTES: Final = 1024 * 1024
_IN_AND_OUT: Final = select.POLLIN | select.POLLOUT
_RETRY_S: Final = 0.02  # between attempts to connect to qemu's datagram socket
_LENGTHS: Final = [n.to_bytes(LENGTH_BYTES, "big") for n in range(2048)]


class LinkLostError(Exception):
    """The link has failed; the message gives the reason. The rank goes on without a guest."""


class Link:
    """Base of both kinds of link. `qemu_fd` is the descriptor for qemu to inherit, or None where paths are used."""

    kind: str

    def __init__(self, splitter: Splitter, pool: Pool, queue_bytes: int) -> None:
        self.qemu_fd: int | None = None
        self.connected = False
        self.backlog_bytes = 0
        self.moved_at_s = 0.0  # time.monotonic() when the guest last read something
        self._queue_bytes = queue_bytes
        self._splitter = splitter
        self._pool = pool
        self._chunk = pool.get()
        self._backlog: deque[BufferSlice] = deque()
        self._qemu_end: socket.socket | None = None
        self._epoll = select.epoll()  # half the cost of poll(2) on one descriptor
        self._watched: tuple[int, int] = (-1, 0)
        self._fastpath: FastPath | None = None

    @property
    def behind(self) -> bool:
        """Return whether data is queued for the guest."""
        return bool(self._backlog)

    @property
    def compiled(self) -> bool:
        """Return whether the compiled part reads and writes this link."""
        return self._fastpath is not None

    @property
    def full(self) -> bool:
        """Return whether so much is queued for the guest that no more should be sent. Twice as much is accepted."""
        return self.backlog_bytes >= self._queue_bytes

    @property
    def interest(self) -> int:
        """Return the poll events to wait for on `fileno()`."""
        return _IN_AND_OUT if self._backlog else select.POLLIN

    def fileno(self) -> int:
        raise NotImplementedError

    def ready(self) -> int:
        """Return the events of `interest` that are ready now, and complete a pending connection."""
        raise NotImplementedError

    def receive(self) -> tuple[Chunk, list[Run]]:
        """Read available data and cut it into runs. Call it only after `ready` returned POLLIN or an error.

        The runs lie in the chunk, and are valid until the next call; hold the chunk to keep them longer.

        Raises:
            LinkLostError: qemu closed the link or broke its framing.
        """
        raise NotImplementedError

    def transmit(self, view: memoryview, frames: int, chunk: Chunk, sent: int = 0) -> bool:
        """Write frames of `chunk` to the guest, or queue them.

        Args:
            view: The frames.
            frames: Number of frames in `view`.
            chunk: Chunk that contains `view`.
            sent: Number of bytes of `view` that were written already.

        Returns:
            False if the queue is full and the frames were dropped.
        """
        if not self._backlog:
            sent += self._send(view[sent:] if sent else view)
            if sent == len(view):
                return True
            view = view[sent:]
        elif self.backlog_bytes >= 2 * self._queue_bytes:
            return False
        self._enqueue(view, frames, chunk)
        return True

    def flush(self) -> bool:
        """Write queued data; True if the guest took any of it."""
        moved = False
        while self._backlog:
            part = self._backlog[0]
            sent = self._send(part.data)
            self.backlog_bytes -= sent
            moved = moved or sent > 0
            if sent < len(part.data):
                part.data = part.data[sent:]
                break
            part.release()
            self._backlog.popleft()
        if moved:
            self.moved_at_s = time.monotonic()
            self._watch(self.fileno())
        return moved

    def _send(self, data: memoryview | bytes) -> int:
        """Write as much of `data` as the socket takes without blocking; return the number of bytes."""
        raise NotImplementedError

    def engage(self, fastpath: FastPath) -> None:
        """Let the compiled part read and write this link. Call it only once the link is connected."""
        raise NotImplementedError

    def _fresh_chunk(self) -> Chunk:
        """Return the chunk to read into: the last one if it has no other holder."""
        if self._chunk.shared:
            self._chunk.release()
            self._chunk = self._pool.get()
        return self._chunk

    @property
    def to_receive(self) -> bool:
        """Return whether `receive` has data to read: while the compiled part is at work, what it leaves to Python."""
        fastpath = self._fastpath
        return fastpath is None or bool(fastpath.shared.stuck or fastpath.shared.link_gone)

    def _compiled_events(self) -> int:
        return select.POLLIN if self.compiled and self.to_receive else 0

    def _take(self, fastpath: FastPath) -> tuple[Chunk, int]:
        """Return the data that the compiled part has read, or reads now."""
        chunk = self._fresh_chunk()
        count = fastpath.take(chunk)
        gone = fastpath.shared.link_gone
        if gone and not count:
            reason = "qemu closed its link" if gone < 0 else f"the link to qemu failed: {os.strerror(gone)}"
            raise LinkLostError(reason)
        return chunk, count

    def detach_qemu_end(self) -> None:
        """Close our copy of qemu's end, once qemu runs and has its own; otherwise the end of qemu goes unseen."""
        if self._qemu_end is not None:
            self._qemu_end.close()
            self._qemu_end = None
            self.qemu_fd = None

    def close(self) -> None:
        """Close the sockets and unlink their paths. Queued data is lost: read `queued_frames` first."""
        self.connected = False
        if self._fastpath is not None:
            self._fastpath.leave_link()
            self._fastpath = None
        self.detach_qemu_end()
        for part in self._backlog:
            part.release()
        self._backlog.clear()
        self.backlog_bytes = 0
        self._epoll.close()

    @property
    def queued_frames(self) -> int:
        return sum(part.frames for part in self._backlog)

    def _pair(self, kind: socket.SocketKind) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        ours.setblocking(False)
        self._qemu_end, self.qemu_fd = theirs, theirs.fileno()
        self.connected = True
        return ours

    def _enqueue(self, view: memoryview, frames: int, chunk: Chunk) -> None:
        part = BufferSlice.of(view, frames, chunk)
        if not self._backlog:
            self.moved_at_s = time.monotonic()
        self._backlog.append(part)
        self.backlog_bytes += len(part.data)
        self._watch(self.fileno())

    def _watch(self, fd: int) -> None:
        """Make `ready` wait for the events of `interest`."""
        watched = fd, self.interest
        if watched != self._watched:
            if self._watched[0] == fd:
                self._epoll.modify(*watched)
            else:
                self._epoll.register(*watched)
            self._watched = watched


class StreamLink(Link):
    """Link to qemu's `-netdev stream`: by descriptor, or (with `path`) as the server that qemu connects to."""

    kind = "stream"

    def __init__(self, resolve: Callable[[bytes], int], pool: Pool, queue_bytes: int, path: Path | None = None) -> None:
        super().__init__(Splitter(resolve), pool, queue_bytes)
        self.path = path
        self._start = self._stop = 0  # of the unfinished frame in the chunk
        self._listener: socket.socket | None = None
        if path is None:
            self._socket = self._pair(socket.SOCK_STREAM)
        else:
            self._socket = self._listener = _bound(socket.SOCK_STREAM, path)
            self._listener.listen(1)
        self._watch(self._socket.fileno())

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> int:
        events = self._epoll.poll(0, 1)
        if not events:
            return self._compiled_events()
        if not self.connected:
            self._accept()
            return 0
        return events[0][1] | self._compiled_events()

    def _accept(self) -> None:
        assert self._listener is not None
        self._epoll.unregister(self._listener.fileno())
        self._socket, _ = self._listener.accept()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._listener.close()
        self._unlink()
        self._watched = (-1, 0)
        self._watch(self._socket.fileno())
        self.connected = True

    def engage(self, fastpath: FastPath) -> None:
        fastpath.engage_link(self._socket, self._chunk, self._start, self._stop - self._start)
        self._start = self._stop = 0
        self._fastpath = fastpath

    def _receive_compiled(self, fastpath: FastPath) -> tuple[Chunk, list[Run]]:
        chunk, count = self._take(fastpath)
        runs, stop = self._splitter.split(chunk.buffer, count)
        self._refuse_broken(chunk, runs)
        fastpath.give_back(chunk, stop, count - stop)
        return chunk, runs

    def receive(self) -> tuple[Chunk, list[Run]]:
        if self._fastpath is not None:
            return self._receive_compiled(self._fastpath)
        left = self._stop - self._start
        chunk = self._chunk
        if chunk.shared:
            self._chunk = fresh = self._pool.get()
            fresh.buffer[:left] = chunk.view[self._start : self._stop]
            chunk.release()
            chunk = fresh
        elif left and self._start:
            chunk.buffer[:left] = chunk.buffer[self._start : self._stop]
        try:
            count = self._socket.recv_into(chunk.view[left:] if left else chunk.view)
        except BlockingIOError:
            self._start, self._stop = 0, left
            return chunk, []
        except OSError as error:
            raise LinkLostError(f"the link to qemu failed: {error.strerror}") from error
        if not count:
            raise LinkLostError("qemu closed its link")
        runs, self._start = self._splitter.split(chunk.buffer, left + count)
        self._stop = left + count
        self._refuse_broken(chunk, runs)
        return chunk, runs

    def _refuse_broken(self, chunk: Chunk, runs: list[Run]) -> None:
        if runs and runs[-1][0] == BROKEN:
            at = runs[-1][1]
            length = int.from_bytes(chunk.buffer[at : at + LENGTH_BYTES], "big")
            raise LinkLostError(
                f"broken framing on the link to qemu: a frame of {length} bytes, where {MAX_FRAME_BYTES} is the most"
            )

    def _send(self, data: memoryview | bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLostError(f"the link to qemu failed: {error.strerror}") from error

    def close(self) -> None:
        super().close()
        self._socket.close()
        if self._listener is not None:
            self._listener.close()
            self._unlink()

    def _unlink(self) -> None:
        if self.path is not None and self._listener is not None:
            self.path.unlink(missing_ok=True)
            self._listener = None


class DgramLink(Link):
    """Link to qemu's `-netdev dgram`: by descriptor, or bound to `path` and connected to qemu's `qemu_path`.

    It connects once qemu has bound `qemu_path`. A datagram pair does not report its end: when qemu exits, the owner
    must close the link.
    """

    kind = "dgram"

    def __init__(
        self,
        resolve: Callable[[bytes], int],
        pool: Pool,
        queue_bytes: int,
        path: Path | None = None,
        qemu_path: Path | None = None,
    ) -> None:
        super().__init__(Splitter(resolve), pool, queue_bytes)
        self.path = path
        self.qemu_path = qemu_path
        self._try_at_s = 0.0
        self._socket = self._pair(socket.SOCK_DGRAM) if path is None else _bound(socket.SOCK_DGRAM, path)
        self._watch(self._socket.fileno())

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> int:
        if not self.connected:
            self._connect()
        events = self._epoll.poll(0, 1)
        return (events[0][1] if events else 0) | self._compiled_events()

    def _connect(self) -> None:
        """Connect to qemu's socket.

        Then only qemu can send to this socket, poll() reports when qemu takes more, and qemu may queue more than
        net.unix.max_dgram_qlen.
        """
        now = time.monotonic()
        if now < self._try_at_s:
            return
        self._try_at_s = now + _RETRY_S
        try:
            self._socket.connect(str(self.qemu_path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self.connected = True

    def engage(self, fastpath: FastPath) -> None:
        fastpath.engage_link(self._socket, self._chunk, 0, 0)
        self._fastpath = fastpath

    def _receive_compiled(self, fastpath: FastPath) -> tuple[Chunk, list[Run]]:
        chunk, count = self._take(fastpath)
        runs, _ = self._splitter.split(chunk.buffer, count)
        too_long, fastpath.shared.too_long = fastpath.shared.too_long, 0
        if too_long:
            runs.append((TOO_LONG, 0, 0, too_long))
        return chunk, runs

    def receive(self) -> tuple[Chunk, list[Run]]:
        if self._fastpath is not None:
            return self._receive_compiled(self._fastpath)
        chunk = self._fresh_chunk()
        view, buffer, recv_into = chunk.view, chunk.buffer, self._socket.recv_into
        at, last, too_long = 0, len(buffer) - MAX_FRAME_BYTES - 2 * LENGTH_BYTES, 0
        try:
            for _ in range(DATAGRAMS_A_TURN):
                count = recv_into(view[at + LENGTH_BYTES :], MAX_FRAME_BYTES + 1)
                if count > MAX_FRAME_BYTES:
                    too_long += 1
                    continue
                buffer[at : at + LENGTH_BYTES] = _LENGTHS[count] if count < 2048 else count.to_bytes(4, "big")
                # A poll costs less than an exception, so poll where there may well be no second datagram.
                if not at and not self._epoll.poll(0, 1):
                    at = LENGTH_BYTES + count
                    break
                at += LENGTH_BYTES + count
                if at > last:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            raise LinkLostError(f"the link to qemu failed: {error.strerror}") from error
        runs, _ = self._splitter.split(buffer, at)
        if too_long:
            runs.append((TOO_LONG, 0, 0, too_long))
        return chunk, runs

    def _send(self, data: memoryview | bytes) -> int:
        """Write frame by frame; return the number of bytes of `data` written."""
        send, end, at = self._socket.send, len(data), 0
        data = memoryview(data)
        try:
            while at < end:
                start = at + LENGTH_BYTES
                after = start + int.from_bytes(data[at:start], "big")
                send(data[start:after])
                at = after
        except BlockingIOError:
            pass
        except OSError as error:
            raise LinkLostError(f"the link to qemu failed: {error.strerror}") from error
        return at

    def close(self) -> None:
        super().close()
        self._socket.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _bound(kind: socket.SocketKind, path: Path) -> socket.socket:
    """Create a non-blocking unix socket at `path`, for this user alone, replacing a stale one. Raises OSError."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, kind)
    try:
        bound.setblocking(False)
        bound.bind(os.fspath(path))
        path.chmod(0o600)
    except BaseException:
        bound.close()
        raise
    return bound
