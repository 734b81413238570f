"""The copying of a rank's disks, as a program of its own: the rank's loop cannot wait for disks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mvpnet.runtime.loop import Loop, Timer
from mvpnet.runtime.processes import start_apart

LOOK_S: Final = 0.1


class DiskCopy:
    """Copies files, as (from, to), into `folder`; `on_end` is called once with what went wrong, None if nothing did."""

    def __init__(
        self,
        loop: Loop,
        folder: Path,
        files: Sequence[tuple[Path | None, Path]],
        on_end: Callable[[str | None], None],
    ) -> None:
        """Start. Raises OSError when the program cannot be."""
        self._loop = loop
        self._on_end = on_end
        command = [sys.executable, "-P", "-m", "mvpnet.snapshot.copy_disks", str(folder)]
        command += [str(path) for pair in files for path in pair]
        self._process = start_apart(command, stderr=subprocess.PIPE, umask=0o077)
        self._timer: Timer = loop.call_later(0.0, self._look)

    def kill(self) -> None:
        """End it at once; nothing is reported any more."""
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
