"""`mvpnet seed`, and seeds in a whole job: rank values through Hydra, refusals before any start, no secret told."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvpnet.cli import main
from mvpnet.config import compose
from mvpnet.errors import ConfigError, HostError, ImageError
from support import RunMvpnet, StartMvpnet, poll_until

STANDIN = Path(__file__).parent.parent / "standin.py"
MINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUm0jwiMpCzGIxGGxkWwKZyJ/2L7QdKCk6PZ3rZyPqE me"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launch folder with a disk, a home folder with a key, and cloud-init's checks where they are to be had."""
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    (tmp_path / "home" / ".ssh" / "id.pub").write_text(f"{MINE}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")
    return tmp_path


def seeds(*overrides: str, ranks: int = 2, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The files of each rank's seed, read, as `mvpnet seed` writes them."""
    shutil.rmtree("seeds", ignore_errors=True)
    common = ["image=file", "image.path=disk.img", "image.user=alice", "cloud_init=always"]
    assert main.run(["seed", "-n", str(ranks), *options, "seeds", *common, *overrides]) == 0
    return [
        {path.name: yaml.safe_load(path.read_text()) for path in folder.iterdir() if path.suffix != ".iso"}
        for folder in sorted(Path("seeds").glob("rank-*"))
    ]


def needs_cloud_init() -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("no cloud-init here, and tools/cloud-init.sh could not fetch it from the distribution")


# -- values of a rank, through Hydra -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        'cloud_init.runcmd=["echo ${rank} of ${world_size} ${host_name} ${address} ${job.name} \\${HOME}"]',
        "cloud_init.runcmd=['echo ${rank} of ${world_size} ${host_name} ${address} ${job.name} \\${HOME}']",
        'cloud_init.user_data.runcmd=["echo ${rank} of ${world_size} ${host_name} ${address} ${job.name} \\${HOME}"]',
        '+ranks.a={on: all, cloud_init: {runcmd: ["echo ${rank} of ${world_size} ${host_name} ${address} ${job.name} '
        '\\${HOME}"]}}',
    ],
)
def test_rank_values_on_the_command_line(override: str) -> None:
    made = seeds(override, "job.name=j1")
    assert [seed["user-data"]["runcmd"][-1] for seed in made] == [
        f"echo {rank} of 2 n000{rank} 10.0.0.{rank + 1} j1 ${{HOME}}" for rank in range(2)
    ]


def test_rank_values_in_yaml(tmp_path: Path) -> None:
    option = tmp_path / "mvpnet.d" / "cloud_init" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(
        "defaults: [schema]\n"
        "seed: make\n"
        "packages: ['driver-${rank}']\n"
        "write_files:\n"
        "  - path: /etc/rank\n"
        "    content: |\n"
        "      ${rank} of ${world_size} with ${vm.memory}\n"
        "user_data:\n"
        "  fqdn: ${host_name}.${job.name}.example.org\n"
        "  deep: {deeper: ['${address}', 3, null]}\n"
        "meta_data: {rank: '${rank}'}\n"
    )
    made = seeds("cloud_init=mine", "job.name=j1", "cloud_init.validate=never")[1]
    assert made["user-data"]["packages"] == ["driver-1"]
    assert made["user-data"]["write_files"][-1]["content"] == "1 of 2 with 1G\n"
    assert made["user-data"]["fqdn"] == "n0001.j1.example.org"
    assert made["user-data"]["deep"] == {"deeper": ["10.0.0.2", 3, None]}
    assert made["meta-data"]["rank"] == "1"


def test_rank_values_in_a_rank_override_s_yaml(tmp_path: Path) -> None:
    option = tmp_path / "mvpnet.d" / "ranks" / "last.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("last: {on: last, cloud_init: {user_data: {fqdn: 'x${rank}'}}}\n")
    assert [seed["user-data"].get("fqdn") for seed in seeds("ranks=[last]")] == [None, "x1"]


def test_what_is_no_reference_of_hydra_s_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose(["cloud_init.runcmd=['echo ${HOME}']"], 1)
    assert "cloud_init.runcmd[0]" in str(caught.value) and "\\${…}" in str(caught.value)


def test_rank_values_elsewhere_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"vm\.memory.*rank"):
        compose.compose(["vm.memory=${rank}"], 1)


def test_the_spec_keeps_what_was_written() -> None:
    spec = compose.compose(["cloud_init.runcmd=['echo ${rank}']"], 2)
    assert spec.config.cloud_init.runcmd == ["echo ${rank}"]


def test_user_data_of_several_sources_is_merged_by_hydra() -> None:
    made = seeds("cloud_init.user_data={ntp: {enabled: true}}", "+cloud_init.user_data.ntp.servers=[a.example.org]")
    assert made[0]["user-data"]["ntp"] == {"enabled": True, "servers": ["a.example.org"]}


# -- the verb ----------------------------------------------------------------------------------------------------


def test_a_folder_a_rank_and_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = seeds(ranks=3, options=("--iso",))
    assert [seed["meta-data"]["local-hostname"] for seed in made] == ["n0000", "n0001", "n0002"]
    assert "3 seeds in seeds" in capsys.readouterr().out
    names = {str(path.relative_to("seeds")) for path in Path("seeds").rglob("*") if path.is_file()}
    files = ("meta-data", "user-data", "network-config", "seed.iso")
    assert names == {
        "id_ed25519",
        "id_ed25519.pub",
        *(f"rank-{rank:04d}/{name}" for rank in range(3) for name in files),
    }
    public = Path("seeds/id_ed25519.pub").read_text().strip()
    private = Path("seeds/id_ed25519").read_text()
    assert made[0]["user-data"]["ssh_authorized_keys"] == [public]
    assert made[0]["user-data"]["user"]["ssh_authorized_keys"] == [MINE]
    assert private in [entry.get("content") for entry in made[0]["user-data"]["write_files"]]
    assert stat.S_IMODE(Path("seeds").stat().st_mode) == 0o700


def test_what_it_writes_can_be_given_to_a_guest(capsys: pytest.CaptureFixture[str]) -> None:
    seeds()
    image = ["image=file", "image.path=disk.img"]
    main.run(["plan", "-n", "2", "--json", *image, 'cloud_init.path="seeds/rank-{rank:04d}"'])
    plans = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert len(plans) == 2 and all(f"seeds/rank-000{plan['rank']}" in " ".join(plan["qemu"]) for plan in plans)


def test_it_writes_into_no_folder_with_something_in_it() -> None:
    with pytest.raises(ConfigError, match="not empty"):
        main.run(["seed", "home", "image=debian12"])


def test_it_says_when_no_guest_gets_a_seed() -> None:
    with pytest.raises(ConfigError, match="cloud_init=always"):
        main.run(["seed", "seeds"])
    assert not Path("seeds").exists()


@pytest.mark.parametrize("image", ["centos9", "debian12", "ubuntu2404", "rocky9", "fedora", "debian12-built"])
def test_cloud_images_get_one_unasked(image: str) -> None:
    assert main.run(["seed", "seeds", f"image={image}"]) == 0
    assert Path("seeds/rank-0000/user-data").is_file()


def test_invalid_user_data_is_refused_with_its_rank() -> None:
    needs_cloud_init()
    with pytest.raises(ConfigError, match=r"rank 1: .*packages"):
        seeds('+ranks.a={on: "1", cloud_init: {user_data: {packages: {a: 1}}}}')


def test_without_cloud_init_it_says_that_nothing_was_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh-keygen").symlink_to(shutil.which("ssh-keygen") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    seeds()
    assert "not checked" in capsys.readouterr().err
    with pytest.raises(HostError, match="cloud-init"):
        seeds(options=("--validate",))


# -- the plan ----------------------------------------------------------------------------------------------------


def planned(capsys: pytest.CaptureFixture[str], *overrides: str) -> list[list[str]]:
    main.run(["plan", "-n", "2", "--json", "image=file", "image.path=disk.img", *overrides])
    return [plan["qemu"] for plan in json.loads(capsys.readouterr().out)]


def test_the_plan_shows_the_seed_s_drive_behind_the_boot_drive(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in planned(capsys, "cloud_init=always", "image.drives=[disk.img]"):
        drives = [value for option, value in pairwise(argv) if option == "-drive"]
        assert [Path(drive.split(",")[0]).name[:6] for drive in drives] == ["drive0", "seed.i", "drive1"]
        assert "seed.iso,format=raw,media=disk,if=virtio,read-only=on" in drives[1]


def test_the_plan_refuses_what_the_job_would(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=r"cloud_init\.files\./opt/x"):
        planned(capsys, "cloud_init=always", "cloud_init.files={/opt/x: missing}")


def test_no_seed_is_made_for_an_image_of_one_s_own_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    assert all("seed.iso" not in " ".join(argv) for argv in planned(capsys))


# -- a job -------------------------------------------------------------------------------------------------------

JOB = (f"qemu.binary={STANDIN}", "image=file", "image.path=disk.img", "image.use=readonly", "cloud_init=always")


def test_invalid_user_data_ends_the_job_before_any_guest_starts(run_mvpnet: RunMvpnet) -> None:
    needs_cloud_init()
    done = run_mvpnet(*JOB, '+ranks.a={on: "1", cloud_init: {user_data: {runcmd: 3}}}')
    assert done.code == 2, done
    assert "runcmd" in done.stderr and "n0001" in done.stderr and "Traceback" not in done.stderr


def test_a_seed_is_there_while_the_guest_runs_and_tells_no_secret(
    start_mvpnet: StartMvpnet, tmp_path: Path, short_dir: Path
) -> None:
    secret = "s3cret-of-the-proxy"
    environment = {"http_proxy": f"http://me:{secret}@proxy:1", "HOME": str(tmp_path / "home")}
    job = start_mvpnet(
        *JOB,
        "cloud_init.proxy=env",
        "logging.wrapper=true",
        "logging.level=TRACE",
        "hydra.run.dir=run",
        env=environment,
    )
    job.wait_for("to log in")
    images = list(short_dir.rglob("seed.iso"))
    assert len(images) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in images} == {0o600}
    key = (tmp_path / "run" / "id_ed25519").read_text().splitlines()[2]
    assert all(text.encode() in path.read_bytes() for path in images for text in (key, secret))
    processes = "\n".join(process.command for process in job.processes())
    assert "seed.iso" in processes and key not in processes and secret not in processes
    job.process.terminate()
    done = job.finish()
    assert done.code == 0, done
    for path in (path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "id_ed25519"):
        text = path.read_text(errors="replace")
        assert key not in text and secret not in text, path
    assert key not in done.stdout + done.stderr and secret not in done.stdout + done.stderr
    poll_until(lambda: not list(short_dir.rglob("seed.iso")), 30, "the seeds to go")


def test_rank_values_reach_the_seeds_of_a_job(start_mvpnet: StartMvpnet, tmp_path: Path, short_dir: Path) -> None:
    typed = 'cloud_init.runcmd=["echo ${rank} of ${world_size} in ${job.name} \\${HOME}"]'
    job = start_mvpnet(*JOB, typed, "job.name=j1", "hydra.run.dir=run")
    job.wait_for("to log in")
    images = sorted(short_dir.rglob("seed.iso"))
    assert [f"echo {rank} of 2 in j1 ${{HOME}}".encode() in path.read_bytes() for rank, path in enumerate(images)] == [
        True
    ] * 2
    spec = json.loads((tmp_path / "run" / "job.json").read_text())["spec"]
    assert typed in spec["typed"]
    assert spec["config"]["cloud_init"]["runcmd"] == ["echo ${rank} of ${world_size} in j1 ${HOME}"]
    job.process.terminate()
    assert job.finish().code == 0


def test_the_inventory_is_written_beside_ssh_config(start_mvpnet: StartMvpnet, tmp_path: Path) -> None:
    job = start_mvpnet(*JOB, "image.user=alice", "hydra.run.dir=run")
    job.wait_for("to log in")
    inventory = yaml.safe_load((tmp_path / "run" / "inventory.yaml").read_text())
    assert list(inventory["mvpnet"]["hosts"]) == ["n0000", "n0001"]
    assert inventory["mvpnet"]["hosts"]["n0001"]["ansible_user"] == "alice"
    named = subprocess.run(
        ["ssh", "-G", *inventory["mvpnet"]["vars"]["ansible_ssh_common_args"].split(), "n0001"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "\nhostname 127.0.0.1\n" in named and "\nuser alice\n" in named
    job.process.terminate()
    assert job.finish().code == 0
