"""Define the errors of the tiny guest's build."""

from __future__ import annotations

from mvpnet.errors import ImageError

INSTEAD = "use a disk image instead: image=file image.path=PATH takes any bootable one"


class TinyBuildError(ImageError):
    """The tiny guest cannot be built here; the message says what is missing and what to use instead."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"image=tiny cannot be built on this machine: {reason}", hint=INSTEAD)


class AptError(TinyBuildError):
    """apt failed or does not know a package. A second attempt with fresh package lists may succeed."""
