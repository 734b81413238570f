"""Errors for users, in one tree, each with its exit code.

    MvpnetError                 1   something went wrong while a job ran
    ├── ConfigError             2   what was asked for cannot be: a key, value, file or option
    │   ├── RankSetError        2   a rank set that does not parse
    │   └── ManifestError       2   a manifest that is not there, not whole, or of another format
    ├── HostError               3   this host lacks what the job needs: a program, a folder, memory, a port
    │   └── MpiError            3   no usable MPI library, or one that is not the launcher's
    │       └── SplitWorldError 3   the latter: every rank is alone, and finds the same
    ├── ImageError              4   an image or seed that cannot be had, made, or used
    │   ├── TinyBuildError      4   the tiny guest cannot be built here
    │   │   └── AptError        4   apt failed; fresh package lists may cure it
    │   └── QemuImgError        4   qemu-img refused
    ├── BootError               5   a guest did not come up in time, or died on the way
    ├── RanksLostError          5   ranks that have not been heard of for too long
    ├── AppError                7   what an app needs or leaves could not be carried or read
    ├── JobError                8   a verb found no such running job or rank, or the job does not answer
    ├── GuestError              9   a running guest, or its qemu, would not do what a verb asked of it
    │   └── NoSaveError         9   the job could not be saved
    └── InterruptedJobError     130 stopped by a signal before the guests ran; 128 and the signal's number

A message says what was wrong, where (file, key or rank), and what to do. An optional `hint` is the "what to do",
printed on a line of its own. A class that only one module raises is defined there.
"""

from __future__ import annotations

import copy
from typing import Self


class MvpnetError(Exception):
    """The root: an error for people. Printed without a traceback; the process ends with `exit_code`.

    Args:
        message: What was wrong and where.
        hint: What to do.
        exit_code: Where it is another than the class's own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def of_rank(self, rank: int) -> Self:
        """Return the error with the name of its rank."""
        return self.with_message(f"rank {rank}: {self.message}")

    def with_message(self, message: str) -> Self:
        """Return an error of the same class, hint and exit code with another message."""
        other = copy.copy(self)
        other.args, other.message = (message,), message
        return other


class ConfigError(MvpnetError):
    exit_code = 2


class RankSetError(ConfigError):
    pass


class HostError(MvpnetError):
    exit_code = 3


class MpiError(HostError):
    pass


class SplitWorldError(MpiError):
    pass


class ImageError(MvpnetError):
    exit_code = 4


class BootError(MvpnetError):
    exit_code = 5


class RanksLostError(MvpnetError):
    exit_code = 5


class AppError(MvpnetError):
    exit_code = 7


class JobError(MvpnetError):
    exit_code = 8


class GuestError(MvpnetError):
    exit_code = 9


class InterruptedJobError(MvpnetError):
    exit_code = 130
