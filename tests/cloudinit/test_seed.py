"""A rank's seed as texts: what is written, what follows from the rank, how a user's own YAML goes over it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.cloudinit.seed import filled, make_seed, merged
from mvpnet.cloudinit.user_data import HostFile, SeedFacts, hosts_text
from mvpnet.errors import ConfigError
from mvpnet.spec.checks import check_job
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.schema import CloudInit, Config, Image, ImageKind, Job, Net, SeedMode
from mvpnet.util.yaml_text import Quoted, yaml_text

FACTS = SeedFacts("ssh-ed25519 JOB mvpnet job job7\n", "-----BEGIN-----\nSECRET\n-----END-----\n", ("ssh-rsa MINE me",))
LIKE_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def rank_spec(rank: int = 1, world_size: int = 4, mtu: int = 1500, **cloud_init: Any) -> RankSpec:
    config = Config(
        job=Job(name="job7"),
        image=Image(kind=ImageKind.cloud),
        net=Net(mtu=mtu),
        cloud_init=CloudInit(**cloud_init),
    )
    return JobSpec(world_size, Path("/run"), config).for_rank(rank)


def user_data(
    spec: RankSpec, user: str = "alice", facts: SeedFacts = FACTS, files: dict[str, HostFile] | None = None
) -> Any:
    text = make_seed(spec, user, facts, files).user_data
    assert text.startswith("#cloud-config\n")
    return yaml.safe_load(text)


def written(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The write_files entries by path, their content unpacked."""

    def unpacked(entry: dict[str, Any]) -> dict[str, Any]:
        if entry.get("encoding") != "gz+b64":
            return entry
        return {**entry, "content": gzip.decompress(base64.b64decode(entry["content"])).decode()}

    return {entry["path"]: unpacked(entry) for entry in data["write_files"]}


# -- the whole ---------------------------------------------------------------------------------------------------


def test_a_seed_as_it_is_written() -> None:
    seed = make_seed(rank_spec(rank=1, world_size=2), "alice", FACTS)
    assert seed.network_config == (
        "# Made by mvpnet for rank 1 of 2, job job7.\n"
        "version: 2\n"
        "ethernets:\n"
        "  user:\n"
        "    match:\n"
        '      macaddress: "52:56:00:00:00:02"\n'
        "    dhcp4: true\n"
        "  mvpnet:\n"
        "    match:\n"
        '      macaddress: "52:55:00:00:00:01"\n'
        "    addresses:\n"
        "      - 10.0.0.2/8\n"
        "    mtu: 1500\n"
        "    optional: true\n"
    )
    assert re.fullmatch(r"instance-id: mvpnet-job7-1-[0-9a-f]{16}\nlocal-hostname: n0001\n", seed.meta_data)
    assert seed.user_data == (
        "#cloud-config\n"
        "# Made by mvpnet for rank 1 of 2, job job7.\n"
        "manage_etc_hosts: false\n"
        "user:\n"
        "  name: alice\n"
        "  sudo: ALL=(ALL) NOPASSWD:ALL\n"
        "  ssh_authorized_keys:\n"
        "    - ssh-rsa MINE me\n"
        "disable_root: false\n"
        "ssh_authorized_keys:\n"
        "  - ssh-ed25519 JOB mvpnet job job7\n"
        "growpart:\n"
        "  mode: auto\n"
        "resize_rootfs: true\n"
        "locale: C.UTF-8\n"
        "write_files:\n"
        "  - path: /etc/hosts\n"
        "    permissions: '0644'\n"
        "    content: |\n"
        "      127.0.0.1 localhost localhost.localdomain\n"
        "      ::1 localhost ip6-localhost ip6-loopback\n"
        "      10.0.0.1 n0000\n"
        "      10.0.0.2 n0001\n"
        "  - path: /etc/hosts.mpi\n"
        "    permissions: '0644'\n"
        "    content: |\n"
        "      n0000\n"
        "      n0001\n"
        "  - path: /etc/ssh/ssh_config.d/10-mvpnet.conf\n"
        "    permissions: '0644'\n"
        "    content: |\n"
        "      # The guests' host keys are new in every job, and the network between them is the job's own.\n"
        "      Host n0* n1* n2* n3* n4* n5* n6* n7* n8* n9* 10.*\n"
        "          StrictHostKeyChecking no\n"
        "          UserKnownHostsFile /dev/null\n"
        "          LogLevel ERROR\n"
        "  - path: /root/.ssh/id_ed25519\n"
        "    permissions: '0600'\n"
        "    content: |\n"
        "      -----BEGIN-----\n"
        "      SECRET\n"
        "      -----END-----\n"
        "  - path: /home/alice/.ssh/id_ed25519\n"
        "    permissions: '0600'\n"
        "    content: |\n"
        "      -----BEGIN-----\n"
        "      SECRET\n"
        "      -----END-----\n"
        "    owner: alice\n"
        "    defer: true\n"
    )


@pytest.mark.parametrize(
    ("rank", "world_size", "mac_address", "address"),
    [
        (0, 1, "52:55:00:00:00:00", "10.0.0.1/8"),
        (254, 1000, "52:55:00:00:00:fe", "10.0.0.255/8"),
        (65535, 70000, "52:55:00:00:ff:ff", "10.1.0.0/8"),
        (555555, 2**24 - 3, "52:55:00:08:7a:23", "10.8.122.36/8"),  # all digits: a number to YAML 1.1 without quotes
    ],
)
def test_the_numbers_follow_from_the_rank(rank: int, world_size: int, mac_address: str, address: str) -> None:
    spec = rank_spec(rank, world_size, mtu=9000, hosts=False)
    nics = yaml.safe_load(make_seed(spec, "alice", FACTS).network_config)["ethernets"]
    assert nics["mvpnet"]["match"] == {"macaddress": mac_address}
    assert (nics["mvpnet"]["addresses"], nics["mvpnet"]["mtu"]) == ([address], 9000)
    assert nics["user"]["match"] == {"macaddress": f"52:56:{world_size.to_bytes(4, 'big').hex(':')}"}


def test_a_changed_seed_has_another_instance_id() -> None:
    def instance(spec: RankSpec, facts: SeedFacts = FACTS) -> str:
        return str(yaml.safe_load(make_seed(spec, "alice", facts).meta_data)["instance-id"])

    seeds = [rank_spec(), rank_spec(0), rank_spec(mtu=1400), rank_spec(packages=["gcc"]), rank_spec(world_size=5)]
    other_key = SeedFacts("ssh-ed25519 OTHER", "OTHER\n")
    assert len({*map(instance, seeds), instance(rank_spec(), other_key)}) == len(seeds) + 1
    assert instance(rank_spec()) == instance(rank_spec())


# -- who gets in -------------------------------------------------------------------------------------------------


def test_root_alone_gets_in_where_root_is_the_user() -> None:
    data = user_data(rank_spec(), user="root")
    assert "user" not in data
    assert data["ssh_authorized_keys"] == ["ssh-ed25519 JOB mvpnet job job7", "ssh-rsa MINE me"]
    assert [path for path in written(data) if path.endswith("id_ed25519")] == ["/root/.ssh/id_ed25519"]


def test_keys_of_the_user_can_be_left_out_and_others_put_in() -> None:
    data = user_data(rank_spec(user_keys=False, ssh_authorized_keys=["ssh-rsa THEIRS", "ssh-rsa THEIRS"], sudo=None))
    assert data["user"] == {"name": "alice", "sudo": None, "ssh_authorized_keys": ["ssh-rsa THEIRS"]}


@pytest.mark.parametrize("name", ["staff", "admin", "sudo"])
def test_a_user_named_as_a_group_is_put_into_it(name: str) -> None:
    """useradd would refuse to make a group of its own, and there would be no such user."""
    assert user_data(rank_spec(), user=name)["user"]["primary_group"] == name
    assert "primary_group" not in user_data(rank_spec())["user"]


@pytest.mark.parametrize("name", ["daemon", "nobody", "some body"])
def test_a_user_that_cannot_be_made_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^image\.user: "):
        make_seed(rank_spec(), name, FACTS)


def test_a_network_in_a_key_of_that_name_goes_over_ours() -> None:
    asked = {"network": {"version": 2, "ethernets": {"mvpnet": {"mtu": 1400}}}}
    network = yaml.safe_load(make_seed(rank_spec(network_config=asked), "alice", FACTS).network_config)
    assert (network["version"], network["ethernets"]["mvpnet"]["mtu"]) == (2, 1400)
    assert network["ethernets"]["user"]["dhcp4"] is True and "network" not in network


def test_no_sudo_is_said_also_where_other_keys_of_the_user_are_given() -> None:
    """Without the key, cloud-init gives the user the rule of the image's default user."""
    data = user_data(rank_spec(sudo=None, user_data={"user": {"shell": "/bin/sh"}}))
    assert data["user"]["sudo"] is None


def test_the_job_s_key_is_put_where_the_home_folder_is() -> None:
    files = written(user_data(rank_spec(user_data={"user": {"homedir": "/u/alice"}})))
    assert "/u/alice/.ssh/id_ed25519" in files and "/root/.ssh/id_ed25519" in files


def test_what_may_be_printed_has_no_secrets() -> None:
    facts = SeedFacts(FACTS.public_key, FACTS.private_key, (), {"http_proxy": "http://me:secret@proxy:1"})
    shown = make_seed(rank_spec(proxy="env"), "alice", facts.without_secrets())
    texts = [*shown.files().values(), repr(facts), repr(make_seed(rank_spec(proxy="env"), "alice", facts))]
    assert not [text for text in texts if "SECRET" in text or "secret" in text]


# -- guests that know each other ---------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 200, 5000])
def test_hosts_are_all_there_and_long_lists_are_packed(world_size: int) -> None:
    spec = rank_spec(0, world_size)
    files = written(user_data(spec))
    assert files["/etc/hosts"]["content"] == hosts_text(world_size)
    assert files["/etc/hosts"]["content"].count("\n") == world_size + 2
    assert files["/etc/hosts.mpi"]["content"].split() == [f"n{rank:04d}" for rank in range(world_size)]
    assert len(make_seed(spec, "alice", FACTS).user_data) < 60_000


def test_hosts_can_be_left_alone() -> None:
    data = user_data(rank_spec(hosts=False))
    assert "manage_etc_hosts" not in data
    assert not [path for path in written(data) if path.startswith("/etc/hosts")]


def test_ssh_asks_nothing_of_guests_and_stays_strict_with_others(tmp_path: Path, run_ssh_g: Any) -> None:
    config = written(user_data(rank_spec()))["/etc/ssh/ssh_config.d/10-mvpnet.conf"]["content"]
    for name in ("n0000", "n12345", "10.0.0.3", "10.200.3.4"):
        assert run_ssh_g(config, name)["stricthostkeychecking"] == "false", name
    for name in ("nfs.example.org", "nas1", "ns0", "www.n0.org"):
        assert run_ssh_g(config, name)["stricthostkeychecking"] == "ask", name


@pytest.fixture
def run_ssh_g(tmp_path: Path) -> Any:
    """What OpenSSH makes of a client configuration for a host: `ssh -G`."""
    import subprocess

    def run(config: str, name: str) -> dict[str, str]:
        (tmp_path / "config").write_text(config)
        command = ["ssh", "-G", "-F", str(tmp_path / "config"), name]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return {key: value for key, _, value in (line.partition(" ") for line in lines)}

    return run


# -- what is done at the first boot ------------------------------------------------------------------------------


def test_packages_commands_and_files_are_passed_on() -> None:
    entry = {"path": "/etc/motd", "content": "rank ${rank}\n", "append": True}
    data = user_data(rank_spec(packages=["gcc", ["mpich", "4.0"]], runcmd=["date", ["ls", "/"]], write_files=[entry]))
    assert (data["package_update"], data["packages"]) == (True, ["gcc", ["mpich", "4.0"]])
    assert data["runcmd"] == ["date", ["ls", "/"]]
    assert data["write_files"][-1] == {**entry, "content": "rank 1\n"}


def test_nothing_is_done_that_is_not_asked_for() -> None:
    data = user_data(rank_spec(locale=None))
    assert not {"packages", "package_update", "runcmd", "locale", "timezone", "apt", "bootcmd"} & data.keys()


def test_the_disk_may_keep_its_size() -> None:
    data = user_data(rank_spec(growpart=False))
    assert (data["growpart"], data["resize_rootfs"]) == ({"mode": "off"}, False)


def test_files_of_the_host_keep_their_bytes_and_mode() -> None:
    content = bytes(range(256)) * 3
    files = {"/opt/${host_name}/run": HostFile(content, 0o755), "/home/alice/data": HostFile(b"", 0o600)}
    data = user_data(rank_spec(), files=files)
    run = next(entry for entry in data["write_files"] if entry["path"] == "/opt/n0001/run")
    assert gzip.decompress(base64.b64decode(run["content"])) == content
    assert run["permissions"] == "0755" and "owner" not in run and "defer" not in run


def test_a_file_in_the_home_folder_waits_for_the_user_and_is_hers() -> None:
    files = written(user_data(rank_spec(), files={"/home/alice/data": HostFile(b"x", 0o600)}))
    assert (files["/home/alice/data"]["owner"], files["/home/alice/data"]["defer"]) == ("alice", True)


# -- proxies -----------------------------------------------------------------------------------------------------


def run_bootcmd(tmp_path: Path, data: dict[str, Any], environment: str, dnf: str) -> tuple[str, str]:
    """Run the proxy commands on files of our own, by a real shell: what is in /etc/environment and dnf.conf then."""
    import subprocess

    for name, text in (("environment", environment), ("dnf.conf", dnf)):
        (tmp_path / name).write_text(text)
    (script,) = data["bootcmd"]
    moved = script.replace("/etc/environment", str(tmp_path / "environment"))
    moved = moved.replace("/etc/dnf/dnf.conf", str(tmp_path / "dnf.conf"))
    subprocess.run(["sh", "-euc", moved], check=True)
    return (tmp_path / "environment").read_text(), (tmp_path / "dnf.conf").read_text()


def test_a_proxy_is_set_for_apt_dnf_and_logins(tmp_path: Path) -> None:
    data = user_data(rank_spec(proxy="http://proxy:3128/?a=1&b=(2)"))
    url = "http://proxy:3128/?a=1&b=(2)"
    assert data["apt"] == {"http_proxy": url, "https_proxy": url}
    environment, dnf = run_bootcmd(tmp_path, data, "PATH=/bin\nhttp_proxy=old\n", "[main]\nproxy=old\nbest=True\n")
    assert environment.splitlines()[:2] == ["PATH=/bin", f"http_proxy={url}"]
    assert set(environment.splitlines()[1:]) == {
        *(f"{name}={url}" for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY")),
        *(f"{name}=localhost,127.0.0.1,::1" for name in ("no_proxy", "NO_PROXY")),
    }
    assert dnf == f"[main]\nbest=True\nproxy={url}\n"
    assert run_bootcmd(tmp_path, data, environment, dnf) == (environment, dnf)


def test_proxies_come_from_the_starting_user_s_environment() -> None:
    environment = {"http_proxy": "", "https_proxy": "http://me:pw@p:1", "no_proxy": ".example.org"}
    data = user_data(rank_spec(proxy="env"), facts=SeedFacts("k", "p\n", (), environment))
    assert data["apt"] == {"https_proxy": "http://me:pw@p:1"}
    assert "no_proxy=.example.org" in data["bootcmd"][0] and "http_proxy=" not in data["bootcmd"][0].split()
    assert "bootcmd" not in user_data(rank_spec(proxy="env"), facts=SeedFacts("k", "p\n"))


@pytest.mark.parametrize("no_proxy", ["a.org,.b.org,10.0.0.0/8,c:80", "a.org, .b.org 10.0.0.0/8,\tc:80,"])
def test_blanks_in_no_proxy_are_left_out(no_proxy: str) -> None:
    written = "no_proxy=a.org,.b.org,10.0.0.0/8,c:80"
    facts = SeedFacts("k", "p\n", (), {"http_proxy": "http://p:1", "no_proxy": no_proxy})
    assert written in user_data(rank_spec(proxy="env"), facts=facts)["bootcmd"][0]
    assert written in user_data(rank_spec(proxy="http://p:1", no_proxy=no_proxy))["bootcmd"][0]


@pytest.mark.parametrize(
    "url", ["proxy:3128", "ftp://proxy", "http://a b", "http://a'b", "http://a\nb", "http://a$(b)"]
)
def test_a_proxy_that_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"cloud_init\.proxy") as caught:
        make_seed(rank_spec(proxy="env"), "alice", SeedFacts("k", "p\n", (), {"http_proxy": url}))
    assert url not in str(caught.value)


def test_a_password_in_the_configuration_is_refused_and_not_repeated() -> None:
    job = JobSpec(1, Path("/run"), Config(job=Job(name="j"), cloud_init=CloudInit(proxy="http://me:s3cret@proxy:1")))
    with pytest.raises(ConfigError, match=r"cloud_init\.proxy=env") as caught:
        check_job(job)
    assert "s3cret" not in str(caught.value)


# -- a user's own YAML over ours ---------------------------------------------------------------------------------


def test_user_data_goes_over_ours() -> None:
    data = user_data(
        rank_spec(
            runcmd=["first"],
            user_data={
                "user": {"shell": "/bin/zsh", "sudo": None},
                "runcmd": ["echo ${rank}/${world_size} ${host_name} ${address}"],
                "ssh_authorized_keys": ["ssh-rsa MORE"],
                "locale": "de_DE.UTF-8",
                "growpart": None,
                "fqdn": "${host_name}.example.org",
                "ntp": {"enabled": True},
            },
        )
    )
    assert data["user"] == {"name": "alice", "ssh_authorized_keys": ["ssh-rsa MINE me"], "shell": "/bin/zsh"}
    assert data["runcmd"] == ["first", "echo 1/4 n0001 10.0.0.2"]
    assert data["ssh_authorized_keys"][1:] == ["ssh-rsa MORE"]
    assert (data["locale"], data["fqdn"], data["ntp"]) == ("de_DE.UTF-8", "n0001.example.org", {"enabled": True})
    assert "growpart" not in data


def test_meta_data_and_network_config_go_over_ours() -> None:
    seed = make_seed(
        rank_spec(
            meta_data={"dsmode": "local", "instance-id": "mine"},
            network_config={"ethernets": {"mvpnet": {"mtu": 1400, "addresses": ["fd00::${rank}/64"]}}},
        ),
        "alice",
        FACTS,
    )
    meta_data = {"instance-id": "mine", "local-hostname": "n0001", "dsmode": "local"}
    assert yaml.safe_load(seed.meta_data) == meta_data
    nic = yaml.safe_load(seed.network_config)["ethernets"]["mvpnet"]
    assert (nic["mtu"], nic["addresses"], nic["optional"]) == (1400, ["10.0.0.2/8", "fd00::1/64"], True)


@given(LIKE_JSON)
def test_nothing_merged_over_ours_leaves_ours(ours: Any) -> None:
    if isinstance(ours, dict):
        assert merged(ours, {}) == ours


@given(st.dictionaries(st.text(), LIKE_JSON, max_size=4), st.dictionaries(st.text(), LIKE_JSON, max_size=4))
def test_every_key_is_kept_and_theirs_wins(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    both = merged(ours, theirs)
    assert both.keys() == {key for key in [*ours, *theirs] if key not in theirs or theirs[key] is not None}
    for key, value in theirs.items():
        if not isinstance(value, (dict, list, type(None))):
            assert both[key] == value
        if isinstance(value, list) and isinstance(ours.get(key), list):
            assert both[key] == ours[key] + value


@given(st.text())
def test_only_the_known_rank_values_are_put_in(text: str) -> None:
    spec = rank_spec()
    assert filled({text: [text, 3]}, spec) == {text: [text, 3]} or "${" in text
    assert filled(f"{text}${{rank}}{text}", spec).endswith(f"1{filled(text, spec)}")
    assert filled("${HOME} $rank ${job.name}", spec) == "${HOME} $rank ${job.name}"


@given(LIKE_JSON)
def test_yaml_reads_back_the_same(document: Any) -> None:
    assert yaml.safe_load(yaml_text(document)) == json.loads(json.dumps(document))


@given(st.integers(min_value=0, max_value=2**48 - 1))
def test_a_mac_address_is_always_a_text(number: int) -> None:
    text = number.to_bytes(6, "big").hex(":")
    assert yaml_text([Quoted(text)]) == f'- "{text}"\n'


# -- for whom a seed is made -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "asked", "path", "made"),
    [
        (ImageKind.cloud, SeedMode.auto, None, True),
        (ImageKind.debian, SeedMode.auto, None, True),
        (ImageKind.file, SeedMode.auto, None, False),
        (ImageKind.tiny, SeedMode.auto, None, False),
        (ImageKind.file, SeedMode.make, None, True),
        (ImageKind.cloud, SeedMode.none, None, False),
        (ImageKind.cloud, SeedMode.auto, "/seed", False),
        (ImageKind.file, SeedMode.make, "/seed", False),
    ],
)
def test_for_whom_a_seed_is_made(kind: ImageKind, asked: SeedMode, path: str | None, made: bool) -> None:
    config = Config(image=Image(kind=kind), cloud_init=CloudInit(seed=asked, path=path))
    assert JobSpec(1, Path("/run"), config).for_rank(0).makes_seed is made


def test_settings_that_no_seed_holds_are_warned_of() -> None:
    asked = CloudInit(packages=["gcc"], timezone="UTC")
    idle = JobSpec(2, Path("/run"), Config(cloud_init=asked))
    (warning,) = idle.warnings()
    assert "packages, timezone" in warning and "cloud_init.seed" in warning
    assert JobSpec(2, Path("/run"), Config(image=Image(kind=ImageKind.cloud), cloud_init=asked)).warnings() == []


@pytest.mark.parametrize(
    ("path", "becomes"),
    [
        ("~/run.sh", "/home/alice/run.sh"),
        ("~/a/b/run.sh", "/home/alice/a/b/run.sh"),
        ("/opt/a,b=c d#1", "/opt/a,b=c d#1"),
        ("/srv/Größe/(1)", "/srv/Größe/(1)"),
    ],
)
@pytest.mark.parametrize("key", ["files", "write_files", "user_data"])
def test_home_is_that_of_who_logs_in(key: str, path: str, becomes: str) -> None:
    data = user_data(*asked_file(key, path))
    [entry] = [one for one in data["write_files"] if one["path"] == becomes]
    in_home = path.startswith("~")
    assert (entry.get("owner"), entry.get("defer")) == (("alice", True) if in_home else (None, None))
    owned = [["chown", "alice", "/home/alice/a", "/home/alice/a/b"]] if "/a/b/" in path else []
    assert data.get("runcmd", []) == owned, "cloud-init would leave the folders to root"


@pytest.mark.parametrize("path", ["rel.sh", "", "../up.sh", "/opt/../up.sh", "~", "~bob/run.sh", "/opt/", "/", "/a\nb"])
@pytest.mark.parametrize("key", ["files", "write_files", "user_data"])
def test_a_path_that_no_file_can_have_there_is_refused(key: str, path: str) -> None:
    with pytest.raises(ConfigError, match=r"cloud_init\.(user_data\.)?(write_)?files") as caught:
        user_data(*asked_file(key, path))
    assert repr(path) in str(caught.value)


def asked_file(key: str, path: str) -> tuple[Any, ...]:
    """What `user_data` needs for one file at this path, asked for by one of the keys that may."""
    if key == "files":
        return rank_spec(), "alice", FACTS, {path: HostFile(b"", 0o644)}
    entries = [{"path": path, "content": ""}]
    return (rank_spec(**{key: {"write_files": entries} if key == "user_data" else entries}),)
