"""The verbs of `mvpnet image`: what the image store does, by hand.

`fetch`, `lock` and `info` take the overrides that a job takes (`image=centos9 image.cache_dir=/shared`); the others
look at the store alone. What a person reads goes to standard error, results to standard output, as JSON on request.
"""

from __future__ import annotations

import click

from mvpnet.cli.lazy import LazyCommand, LazyGroup

_VERBS = {
    "fetch": LazyCommand(
        "mvpnet.cli.image.of_job",
        "fetch",
        "Have the images of a job in the store, as in: mvpnet image fetch image=centos9",
    ),
    "import": LazyCommand(
        "mvpnet.cli.image.of_store",
        "import_",
        "Put a disk image of yours into the store, unpacked and checked; it is then had by its digest or its path.",
    ),
    "info": LazyCommand(
        "mvpnet.cli.image.of_job",
        "info",
        "Tell of a file, of an image in the store, or of what a job would take from the store (image=centos9).",
    ),
    "list": LazyCommand(
        "mvpnet.cli.image.of_store", "list_", "List the images in the store, and what broken and refused fetches left."
    ),
    "lock": LazyCommand(
        "mvpnet.cli.image.of_job",
        "lock",
        "Pin the images of a job: write URL and digest to the lock file, fetching what is not here.",
    ),
    "prepare": LazyCommand(
        "mvpnet.cli.image.of_job",
        "prepare",
        "Make the images that a job wants prepared, as in: mvpnet image prepare recipe=ubuntu2404-prepared",
    ),
    "prune": LazyCommand(
        "mvpnet.cli.image.of_store",
        "prune",
        "Remove images, by their digests' beginnings; without any, what nothing needs.",
    ),
    "resize": LazyCommand(
        "mvpnet.cli.image.resize", "resize", "Grow a disk image of yours, in place: to 20G, or by +3G."
    ),
    "verify": LazyCommand(
        "mvpnet.cli.image.of_store",
        "verify",
        "Read images again, all or those whose digests begin so, and compare them with what was put in.",
    ),
}


@click.group(cls=LazyGroup, lazy=_VERBS)
def image() -> None:
    """The image store: fetch, pin, look at and remove disk images."""
