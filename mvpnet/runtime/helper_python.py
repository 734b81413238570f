"""Command lines that run a module of ours in a Python process of its own."""

from __future__ import annotations

import sys


def helper_argv(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of ours as a program, by the Python that runs this process.

    By -P, Python looks for no module in the working directory: the folder of a launch is the user's, and may hold a
    copy.py or json.py of another purpose. PYTHONPATH counts as ever.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
