"""Compiles the optional part of the data path, mvpnet/dataplane/fastpath.c, when mvpnet is installed or a wheel built.

It needs nothing but a C compiler: `cc`, or what CC says. Without one mvpnet is installed as plain Python, and says so.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "mvpnet/dataplane/fastpath.c"
LIBRARY = "mvpnet/dataplane/libfastpath.so"
FLAGS = ["-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]


class CompiledPart(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the library beside its source, and so into an editable install, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if shutil.which(compiler[0]) is None:
            self.app.display_warning(f"no C compiler ({compiler[0]}): the data path will be plain Python, and slower")
            return
        root = Path(self.root)
        fresh = root / f"{LIBRARY}.{os.getpid()}"  # a library that is in use must not be written into
        done = subprocess.run([*compiler, *FLAGS, "-o", str(fresh), str(root / SOURCE)], check=False)
        if done.returncode:
            self.app.display_warning(f"{SOURCE} did not compile: the data path will be plain Python, and slower")
            return
        fresh.replace(root / LIBRARY)
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        # Any Python 3 takes it, as it knows nothing of Python.
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
