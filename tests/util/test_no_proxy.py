"""no_proxy, as the programs that read it take it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.util.no_proxy import entries, is_direct

HOST, ADDRESS, SIX = "https://images.example.org/x", "http://10.1.2.3:8080/x", "http://[fd00::1]/x"


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("example.org", HOST),
        (".example.org", HOST),
        ("*.example.org", HOST),
        ("images.example.org", HOST),
        ("Example.ORG", HOST),
        ("a, example.org", HOST),
        ("a example.org", HOST),
        (" a ,\texample.org,", HOST),
        ("example.org:443", HOST),
        ("example.org.", HOST),
        ("*", HOST),
        (" * ", HOST),
        ("10.1.2.3", ADDRESS),
        ("10.1.2.3:8080", ADDRESS),
        ("10.0.0.0/8", ADDRESS),
        ("10.1.2.0/24, b", ADDRESS),
        ("a, 10.1.2.3", ADDRESS),
        ("fd00::1", SIX),
        ("[fd00::1]:80", SIX),
        ("fd00::/8", SIX),
    ],
)
def test_reached_without_a_proxy(no_proxy: str, url: str) -> None:
    assert is_direct(url, no_proxy)


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("", HOST),
        (",", HOST),
        (".", HOST),
        ("ample.org", HOST),
        ("example.org:80", HOST),
        ("other.example.org", HOST),
        ("10.1.2.3:80", ADDRESS),
        ("10.2.0.0/16", ADDRESS),
        ("1.2.3", ADDRESS),
        ("fd01::/16", SIX),
        ("example.org", "file:///x"),
        ("example.org", "http://[x/"),
    ],
)
def test_reached_by_the_proxy(no_proxy: str, url: str) -> None:
    assert not is_direct(url, no_proxy)


@given(st.text(), st.text())
def test_any_text_is_read(no_proxy: str, host: str) -> None:
    is_direct(f"http://{host}", no_proxy)
    assert entries(",".join(entries(no_proxy))) == entries(no_proxy)
