"""The recipes that boot on a machine without KVM or a vendor's images: their apps check the guests, and the result."""

from __future__ import annotations

import re

import pytest

from boot.test_guests import nothing_left
from support import StartMvpnet

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("demo", ["n0000 n0001", "SHA-256 the same three times", "Mbit/s"]),
        ("mpi-hello", ["Open MPI", "60, as it should be", "20, whole"]),
    ],
)
def test_a_recipe_runs_to_its_end(start_mvpnet: StartMvpnet, recipe: str, says: list[str]) -> None:
    job = start_mvpnet(f"recipe={recipe}", "vm.accel=tcg", "hydra.run.dir=run", ranks=2)
    end = job.finish(800)
    assert end.code == 0, end
    assert all(text in end.stdout for text in says), end
    nothing_left(job)


def test_the_check_tells_what_is_not_as_it_should_be_and_fails_the_job(start_mvpnet: StartMvpnet) -> None:
    words = ["recipe=debian12-built", "cloud_init.sudo=null", "vm.accel=tcg", "hydra.run.dir=run"]
    job = start_mvpnet(*words, ranks=2)
    end = job.finish(800)
    assert end.code == 1, end
    assert len(re.findall(r"n000[01] +Debian GNU/Linux 12 .* 5 of 7", end.stdout)) == 2, end
    for rank in range(2):
        assert f"n{rank:04d}: sudo without a password: " in end.stdout, end
        assert f"n{rank:04d}: ssh to n{1 - rank:04d} as root: " in end.stdout, end
    nothing_left(job)
