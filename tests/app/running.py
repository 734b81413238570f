"""An app under way on a real loop, for tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mvpnet.app.runner import AppRun
from mvpnet.paths import RunFolder
from mvpnet.runtime.loop import Loop
from mvpnet.spec import schema
from mvpnet.spec.app_steps import steps_of
from waiting import run_until


class Running:
    """An app, the loop it hangs on, what it said and how it ended."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.run_folder = RunFolder(folder)
        self.log = self.run_folder.app_log(None, None)
        self.ends: list[tuple[int, str]] = []
        self.said: list[str] = []
        self.app: AppRun | None = None

    def start_app(self, ranks: int = 1, **asked: Any) -> None:
        self.app = AppRun(
            self.loop,
            steps_of(schema.App(**asked)),
            self.run_folder,
            ranks,
            environment=lambda rank: {**os.environ, "RUN": str(self.run_folder.root)},
            say=self.said.append,
            on_end=lambda code, how: self.ends.append((code, how)),
        )
        self.app.start()

    def start(self, *argv: str) -> None:
        self.start_app(command=list(argv))

    def end(self) -> int:
        assert self.app
        run_until(self.loop, lambda: self.ends, what="the app to end")
        assert len(self.ends) == 1 and not self.app.running
        return self.ends[0][0]

    def run_app(self, ranks: int = 1, **asked: Any) -> int:
        self.start_app(ranks, **asked)
        return self.end()

    def run(self, script: str) -> int:
        return self.run_app(command=[sys.executable, "-c", script])

    def stop(self) -> None:
        assert self.app
        self.app.stop()

    def close(self) -> None:
        if self.app:
            self.app.close()
