"""The kind of value that each key takes, Hydra's own keys and all, by its dotted name."""

from __future__ import annotations

import functools

from hydra.conf import HydraConf

from mvpnet.spec import schema
from mvpnet.spec.kinds import Keys, Kind, of_section, part_of


@functools.cache
def root() -> Keys:
    """Return the kind of the whole configuration, Hydra's own part and all."""
    config = of_section(schema.Config)
    ranks = Keys(others=of_section(schema.RankOverride))
    return Keys({**config.known, "ranks": ranks, "hydra": of_section(HydraConf)})


def kind_at(key: str) -> Kind | None:
    """Return the kind of a dotted key; None if there is no such key."""
    kind: Kind | None = root()
    for name in key.split(".") if key else ():
        kind = part_of(kind, name)
    return kind
