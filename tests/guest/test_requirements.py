"""What a rank refuses before anything is made for its guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.errors import ConfigError
from mvpnet.guest.requirements import check_login_paths
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.schema import Boot, Config, Job, WaitFor

AWKWARD = ['quo"te', "${x}", "back\\slash", "line\nbreak"]


def rank_spec(run: str, scratch: str, rank: int = 0, wait_for: WaitFor = WaitFor.ssh) -> RankSpec:
    config = Config(job=Job(name="job", scratch_dir=scratch), boot=Boot(wait_for=wait_for))
    return JobSpec(2, Path(run), config).for_rank(rank)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_run_folder_that_ssh_cannot_name_needs_a_scratch_folder_that_it_can(name: str) -> None:
    check_login_paths(rank_spec(f"/runs/{name}", "/tmp"))
    check_login_paths(rank_spec("/runs/1", f"/tmp/{name}"))
    check_login_paths(rank_spec(f"/runs/{name}", f"/tmp/{name}", rank=1))
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir.*scratch(.|\n)*job\.scratch_dir"):
        check_login_paths(rank_spec(f"/runs/{name}", f"/tmp/{name}"))


@pytest.mark.parametrize("name", AWKWARD)
def test_cloud_init_is_asked_with_the_key_in_the_scratch_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"job\.scratch_dir"):
        check_login_paths(rank_spec("/runs/1", f"/tmp/{name}", rank=1, wait_for=WaitFor.cloud_init))
    check_login_paths(rank_spec("/runs/1", "/tmp/100% of it", wait_for=WaitFor.cloud_init))
