"""List the parts that `logging.levels` accepts: packages and modules directly below mvpnet, and their old names."""

from __future__ import annotations

from collections.abc import Mapping

#: packages and modules that messages can come from
PARTS = (
    *("api", "app", "bench", "cli", "cloudinit", "config", "control", "dataplane", "doctor", "errors", "guest", "host"),
    *("images", "job", "logs", "mpi", "paths", "qemu", "records", "report", "runtime", "snapshot", "spec", "ssh"),
    *("sweep", "util"),
)

#: old part → current parts of its modules. An old name that still exists has messages of its own too.
OLD_PARTS: Mapping[str, tuple[str, ...]] = {
    "access": ("job", "ssh"),
    "compose": ("config",),
    "conductor": ("job",),
    "experiment": ("app", "records", "sweep", "report"),
    "guest": ("guest", "host", "qemu", "images", "cloudinit"),
    "hands": ("control",),
    "hands_cli": ("cli",),
    "heartbeat": ("job",),
    "image_cli": ("cli",),
    "launcher": ("mpi",),
    "loop": ("runtime", "dataplane"),
    "preparation": ("images",),
    "program": ("runtime",),
    "rank": ("job", "images", "guest"),
    "recipe_cli": ("cli",),
    "record_cli": ("cli",),
    "schema": ("spec",),
    "scratch": ("runtime",),
    "seed_cli": ("cli",),
    "signals": ("runtime",),
    "snapshot_cli": ("cli",),
    "tables": ("util",),
    "world": ("mpi",),
}


def levels_by_part(levels: Mapping[str, str]) -> dict[str, str]:
    """Return the level of each part that `logging.levels` sets.

    A current name takes precedence over an old one, and an old name of few parts over one of many. With `{guest: DEBUG,
    images: INFO}` all parts of the old guest are at DEBUG, but images at INFO.
    """
    found: dict[str, str] = {}
    for name in sorted(levels, key=lambda name: -len(OLD_PARTS.get(name, ()))):
        found |= dict.fromkeys(OLD_PARTS.get(name, ()), levels[name])
    return found | {name: level for name, level in levels.items() if name in PARTS}
