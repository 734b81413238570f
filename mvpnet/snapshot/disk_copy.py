"""Copying of a rank's disks in a process of its own, because the rank's loop must not block on disks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mvpnet.runtime.helper_python import helper_argv
from mvpnet.runtime.loop import Loop, Timer
from mvpnet.runtime.processes import start_apart

LOOK_S: Final = 0.1


class DiskCopy:
    """Copies files into a folder.

    Args:
        loop: The rank's event loop.
        folder: The folder to sync when all files are copied.
        files: Pairs of source and target.
        on_end: Called once, with the reason of a failure, or None on success.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(
        self,
        loop: Loop,
        folder: Path,
        files: Sequence[tuple[Path | None, Path]],
        on_end: Callable[[str | None], None],
    ) -> None:
        """Start the program."""
        self._loop = loop
        self._on_end = on_end
        command = helper_argv("mvpnet.snapshot.copy_disks", str(folder))
        command += [str(path) for pair in files for path in pair]
        self._process = start_apart(command, stderr=subprocess.PIPE, umask=0o077)
        self._timer: Timer = loop.call_later(0.0, self._look)

    def kill(self) -> None:
        """Kill the program; `on_end` is not called any more."""
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        assert self._process.stderr
        self._process.stderr.close()

    def _look(self) -> None:
        if self._process.poll() is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)
            return
        assert self._process.stderr
        with self._process.stderr as errors:
            said = errors.read().decode(errors="replace").strip()
        self._on_end((said or str(self._process.returncode)) if self._process.returncode else None)
