"""Public keys: what ssh-keygen makes is one, and anything else is refused without being repeated."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.errors import ConfigError
from mvpnet.spec.checks import check_job
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.public_keys import fault_of_key
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import CloudInit, Config, Image, Job, Prepare

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUm0jwiMpCzGIxGGxkWwKZyJ/2L7QdKCk6PZ3rZyPqE me@here"
KINDS = [("ed25519", ""), ("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")]


def keygen(folder: Path, *words: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", folder / "key", *words], check=True, stdin=subprocess.DEVNULL)
    return folder / "key"


def sk_key(kind: str, *parts: bytes) -> str:
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind.encode(), *parts))
    return f"{kind} {base64.b64encode(blob).decode()} token"


@pytest.mark.parametrize(("kind", "bits"), KINDS)
@pytest.mark.parametrize(
    "options",
    [
        "",
        "no-pty ",
        'command="echo \\"ssh-rsa AAAA\\" # x",no-pty ',
        'from="10.0.0.0/8,!10.0.0.1",restrict\t',
        "cert-authority ",
    ],
)
def test_what_ssh_keygen_makes_is_a_key(tmp_path: Path, kind: str, bits: str, options: str) -> None:
    path = keygen(tmp_path, "-t", kind, *(["-b", bits] if bits else []), "-C", "a comment = with words")
    public = path.with_suffix(".pub").read_text()
    assert fault_of_key(options + public) is None
    assert fault_of_key(" ".join(public.split()[:2])) is None, "a comment is not needed"


def test_keys_of_tokens_are_keys() -> None:
    assert fault_of_key(sk_key("sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:")) is None
    assert fault_of_key(sk_key("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"k" * 65, b"ssh:")) is None


def body(text: str) -> str:
    return text.split()[1]


WRONG = {
    "nothing": "",
    "a URL": "https://github.com/somebody.keys",
    "a URL before a key": f"https://example.org/x {KEY}",
    "a path": "~/.ssh/id_ed25519.pub",
    "a file's URL": "file:///home/me/.ssh/id.pub",
    "an import": "gh:somebody",
    "a type alone": "ssh-ed25519",
    "the body alone": body(KEY),
    "half of it": KEY[:40],
    "a cut one": f"ssh-ed25519 {body(KEY)[:-8]}",
    "one sign less": f"ssh-ed25519 {body(KEY)[:-1]}",
    "no base64": f"ssh-ed25519 {body(KEY)[:-3]}!!! me",
    "another type within": f"ssh-rsa {body(KEY)}",
    "a type that is none": f"ssh-ed25518 {body(KEY)}",
    "a type of signatures": f"rsa-sha2-512 {body(KEY)}",
    "two keys": f"{KEY}\n{KEY}",
    "options that are none": f"a b {KEY}",
    "an open quote": f'command="x {KEY}',
    "the old form": "1024 65537 1234567890 me@here",
    "a number": "12345",
    "words": "MINE",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_key_is_refused(name: str) -> None:
    fault = fault_of_key(WRONG[name])
    assert fault
    assert not WRONG[name] or WRONG[name] not in fault


@given(st.text())
def test_no_text_makes_a_traceback_or_is_repeated(text: str) -> None:
    fault = fault_of_key(text)
    assert fault and (len(text) < 12 or text not in fault)


@given(st.integers(0, 75), st.characters(codec="ascii"))
def test_a_changed_blob_is_a_key_or_is_told(place: int, sign: str) -> None:
    text = body(KEY)[:place] + sign + body(KEY)[place + 1 :]
    fault = fault_of_key(f"ssh-ed25519 {text}")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    if 26 <= place < len(body(KEY)) and sign in alphabet:  # behind type and length
        assert fault is None
    else:
        assert fault is None or body(KEY) not in fault


def test_a_certificate_is_refused(tmp_path: Path) -> None:
    key = keygen(tmp_path, "-t", "ed25519")
    subprocess.run(["ssh-keygen", "-q", "-s", key, "-I", "me", key.with_suffix(".pub")], check=True)
    assert "is a certificate" in str(fault_of_key((tmp_path / "key-cert.pub").read_text()))


def config(place: str, keys: Any) -> Config:
    image, cloud_init = Image(), CloudInit()
    if place == "cloud_init.ssh_authorized_keys":
        cloud_init = CloudInit(ssh_authorized_keys=keys)
    elif place == "cloud_init.user_data.ssh_authorized_keys":
        cloud_init = CloudInit(user_data={"ssh_authorized_keys": keys})
    elif place == "cloud_init.user_data.user.ssh-authorized-keys":
        cloud_init = CloudInit(user_data={"user": {"ssh-authorized-keys": keys}})
    elif place == "cloud_init.user_data.users[1].ssh_authorized_keys":
        cloud_init = CloudInit(user_data={"users": ["default", {"name": "bob", "ssh_authorized_keys": keys}]})
    elif place == "cloud_init.meta_data.public-keys":
        cloud_init = CloudInit(meta_data={"public-keys": keys})
    else:
        image = Image(prepare=Prepare(user_data={"users": [{"name": "bob", "ssh_authorized_keys": keys}]}))
    return Config(job=Job(name="job"), image=image, cloud_init=cloud_init)


PLACES = [
    "cloud_init.ssh_authorized_keys",
    "cloud_init.user_data.ssh_authorized_keys",
    "cloud_init.user_data.user.ssh-authorized-keys",
    "cloud_init.user_data.users[1].ssh_authorized_keys",
    "cloud_init.meta_data.public-keys",
    "image.prepare.user_data.users[0].ssh_authorized_keys",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_private_key_is_refused_by_its_place_and_not_repeated(tmp_path: Path, place: str) -> None:
    private = keygen(tmp_path, "-t", "ed25519").read_text()
    check_job(JobSpec(1, Path("/run"), config(place, [KEY, f"{KEY}\n"])))
    for secret in (private, *private.splitlines()):
        with pytest.raises(ConfigError) as caught:
            check_job(JobSpec(1, Path("/run"), config(place, [KEY, secret])))
        assert str(caught.value).startswith(f"{place}[1]: ")
        assert not [line for line in private.splitlines()[1:-1] if line in str(caught.value)]


def test_a_rank_s_own_keys_are_checked() -> None:
    override = Override("a", RankSet.parse("0"), {"cloud_init": {"ssh_authorized_keys": ["~/.ssh/id.pub"]}})
    with pytest.raises(ConfigError, match=r"^ranks\.a\.cloud_init\.ssh_authorized_keys\[0\]: "):
        check_job(JobSpec(1, Path("/run"), Config(job=Job(name="job")), (override,)))
