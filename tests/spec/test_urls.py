"""Secrets in URLs: what is taken out, and what stays because it says which file is meant."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.config.compose import compose
from mvpnet.errors import ConfigError
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import CloudInit, Config, Image, ImageKind
from mvpnet.spec.urls import address, file_name, image_urls, masked, masked_tree, masked_words, urls_in_words

FILE = "https://example.org/disk.qcow2"

SIGNED = [
    f"{FILE}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA&X-Amz-Expires=600&X-Amz-Signature=abc",
    f"{FILE}?X-Goog-Signature=abc&X-Goog-Date=20260101",
    f"{FILE}?sv=2022-11-02&st=2026&se=2027&sr=b&sp=r&sig=a%2Fb%3D",
    f"{FILE}?AWSAccessKeyId=AKIA&Signature=abc&Expires=123",
    f"{FILE}?OSSAccessKeyId=abc&Expires=1&Signature=abc",
    f"{FILE}?Expires=1&Signature=abc&Key-Pair-Id=K1&Policy=abc",
    f"{FILE}?temp_url_sig=abc&temp_url_expires=123",
    f"{FILE}?q-sign-algorithm=sha1&q-ak=abc&q-signature=abc",
    f"{FILE}?token=abc",
    f"{FILE}?access_token=abc",
    f"{FILE}?private-token=abc",
    f"{FILE}?api_key=abc",
    f"{FILE}?password=abc&auth=x",
    f"{FILE}?TOKEN=abc#sha256=abc",
    "https://user:abc@example.org/disk.qcow2",
    "https://user:abc#@?@example.org/disk.qcow2",
    "https://abc@example.org/disk.qcow2?token=abc",
]


@pytest.mark.parametrize("url", SIGNED)
def test_signatures_are_no_part_of_a_files_address(url: str) -> None:
    assert address(url) == FILE
    assert file_name(url) == "disk.qcow2"
    assert "abc" not in masked(url).replace("#sha256=abc", "")


@pytest.mark.parametrize(
    "url",
    [
        FILE,
        f"{FILE}?download=1&file=x.qcow2",
        f"{FILE}?version=1.2&arch=x86_64",
        f"{FILE}?design=abc&signed=1",
        f"{FILE}?sp=1&sr=2",  # Azure's, without its sig
        f"{FILE}?raw",
        "https://example.org/get?file=CentOS-Stream-GenericCloud-9-latest.x86_64.qcow2",
        "https://example.org/get?key=images/a-very-long-name-of-a-disk.img.xz",
        "http://127.0.0.1:8000/disk.img",
        "file:///a@b",
        "/a@b?token=x/disk.img".replace("?token=x", ""),
        "user@example.org",
        "https://example.org/a@b",
        "prepared:0123456789abcdef0123456789abcdef",
    ],
)
def test_what_says_which_file_is_meant_stays(url: str) -> None:
    assert address(url) == url
    assert masked(url) == url


def test_a_long_value_is_told_apart_by_its_digest() -> None:
    one, other = (
        "https://example.org/get?export=download&id=1a2B3c4D5e6F7g8H9i0J",
        "https://example.org/get?id=" + "z" * 20,
    )
    assert address(one).startswith("https://example.org/get?export=download&id=masked-")
    assert address(one) != address(other) and "1a2B3c4D" not in address(one)


@given(st.text("abcAB012?&=#:/@.%-_[]", max_size=40))
def test_an_address_is_its_own(text: str) -> None:
    for url in (text, f"https://{text}", f"https://h/{text}"):
        assert address(address(url)) == address(url)
        assert masked(masked(url)) == masked(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/disk.qcow2?token=1", "disk.qcow2"),
        ("https://h/download?file=disk.img.xz&x=1", "disk.img.xz"),
        ("https://h/get?path=%2Fimages%2Fdisk.raw", "disk.raw"),
        ("https://h/get?token=secret.img", "get"),
        ("https://h/a%20b.img", "a b.img"),
        ("/images/disk.img", "disk.img"),
        ("https://h/", ""),
    ],
)
def test_the_name_of_the_file(url: str, name: str) -> None:
    assert file_name(url) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("curl 'https://h/x?a=b&token=xyz' -o f", "curl 'https://h/x?a=b&token=masked' -o f"),
        ("url: /x?X-Amz-Signature=abc (Caused by …)", "url: /x?X-Amz-Signature=masked (Caused by …)"),
        ("https://me:pw@h/x and http://you@h", "https://h/x and http://h"),
        ("a && token=1", "a && token=1"),
    ],
)
def test_any_text(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_words_of_a_command_line() -> None:
    words = [
        f"image.source='{SIGNED[0]}'",
        "+ranks.a.image.source=https://h/get?id=1a2B3c4D5e6F7g8H9i0J,/x",
        "vm.cpus=2",
    ]
    urls = urls_in_words(words)
    assert urls == [SIGNED[0], "https://h/get?id=1a2B3c4D5e6F7g8H9i0J"]
    assert masked_words(words[0], urls) == f"image.source='{FILE}'"
    assert "1a2B" not in masked_words(words[1], urls) and masked_words(words[1], urls).endswith(",/x")


def spec_of(url: str, **cloud_init: Any) -> JobSpec:
    config = Config(image=Image(kind=ImageKind.cloud, source=url, checksums=url), cloud_init=CloudInit(**cloud_init))
    override = Override("one", RankSet.parse("1"), {"image": {"source": url}})
    return JobSpec(2, Path("/run"), config, (override,), (f"image.source={url}",))


@pytest.mark.parametrize("url", SIGNED)
def test_a_spec_with_another_signature_is_the_same_experiment(url: str) -> None:
    assert spec_of(url).digest() == spec_of(FILE).digest() != spec_of(f"{FILE}?v=2").digest()


def test_a_spec_is_shown_without_secrets() -> None:
    from mvpnet.spec.plain import plain

    spec = spec_of(
        SIGNED[0], user_data={"apt": {"sources": {"x": {"source": "deb https://me:pw@h/debian stable main"}}}}
    )
    shown = masked_tree(plain(spec))
    assert list(image_urls(shown)) == [FILE, FILE, FILE]
    assert "pw" not in str(shown) and "abc" not in str(shown).replace("Signature=masked", "")
    assert (
        shown["config"]["cloud_init"]["user_data"]["apt"]["sources"]["x"]["source"]
        == "deb https://h/debian stable main"
    )
    assert dataclasses.replace(spec, typed=()).digest() == spec.digest()


@pytest.mark.parametrize("key", ["image.source", "image.checksums", "cloud_init.proxy", "ranks.a.image.source"])
@pytest.mark.parametrize("url", ["https://[h/d.qcow2", "https://h:port/d", "https://h:99999/d"])
def test_what_is_no_url_is_refused(key: str, url: str) -> None:
    word = f"+ranks.a={{on: 0, image: {{source: '{url}'}}}}" if key.startswith("ranks") else f"{key}={url}"
    with pytest.raises(ConfigError, match=rf"{key.removeprefix('ranks.a.')}: .* is no URL"):
        compose([word], 1)
