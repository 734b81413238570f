"""The recipes that boot on a machine without KVM or a vendor's images: their apps check the guests, and the result."""

from __future__ import annotations

import pytest

from boot.test_cloud_init import ONE_AFTER_ANOTHER
from boot.test_guests import nothing_left
from support import StartMvpnet

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("demo", ["n0000 n0001", "SHA-256 the same three times", "Mbit/s"]),
        pytest.param("mpi-hello", ["Open MPI", "60, as it should be", "20, whole"], marks=ONE_AFTER_ANOTHER),
    ],
)
def test_a_recipe_runs_to_its_end(start_mvpnet: StartMvpnet, recipe: str, says: list[str]) -> None:
    job = start_mvpnet(f"recipe={recipe}", "vm.accel=tcg", "hydra.run.dir=run", ranks=2)
    end = job.finish(800)
    assert end.code == 0, end
    assert all(text in end.stdout for text in says), end
    nothing_left(job)
