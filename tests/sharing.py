"""Which tests share something that is made once: guests, a world of ranks, a cluster, a wheel.

When tests run side by side, those of one group run in one process, one after another.

pytest-xdist's own groups are marks, of which it loses sight under pytest 9.2; here the group follows from a test's id.
"""

from __future__ import annotations

import re
from typing import Any

from xdist.scheduler import LoadScopeScheduling

# A pattern of ids, and the group of those that it matches; \1 is what a group in the pattern matched.
GROUPS = {
    # Few guests at a time: an emulated one keeps a core busy.
    r"boot/test_cloud_init\.py": "Debian guests",
    r"boot/": "tiny guests",
    r"hosts/": "hosts",
    r"mpi/test_(?:dataplane|fuzz)\.py.*-(\d+)\]$": r"world of \1",
    r"mpi/test_stress\.py.*\[(\w+)\]$": r"stress over \1",
    r"slurm/": "slurm",
    r"test_inventory\.py::test_ansible": "ansible",
    r"test_packaging\.py": "wheel",
}


def group_of(nodeid: str) -> str:
    """A test of no group is one of its own."""
    for pattern, group in GROUPS.items():
        if found := re.search(rf"^(?:tests/)?{pattern}", nodeid):
            return found.expand(group)
    return nodeid


class InGroups(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups and single tests in the order of collection, which begins with those that boot guests."""

    def __init__(self, config: Any, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def remove_node(self, node: Any) -> str | None:
        """What a process that died was at is not given to another, which would die of it too."""
        units = self.assigned_work[node].values()
        deadly = next((nodeid for unit in units for nodeid, is_over in unit.items() if not is_over), None)
        for unit in units:
            if deadly in unit:
                unit[deadly] = True
        super().remove_node(node)
        return deadly
