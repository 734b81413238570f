"""Numbers as people read them."""

from __future__ import annotations

import pytest

from mvpnet.util.text import and_more, duration, megabytes, size_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h 00 min"),
        (86400 * 2 + 3600 * 5, "2 d 5 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 MiB"), (1024 * 1536, "1.5 MiB"), (512 * 2**20, "512 MiB"), (2**30, "1 GiB"), (24_696_061_952, "23 GiB")],
)
def test_size(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def test_megabytes() -> None:
    assert megabytes(12_400_000) == "12 MB"


def test_what_a_list_leaves_out() -> None:
    assert [and_more(number) for number in (-1, 0, 1, 12)] == ["", "", " and 1 more", " and 12 more"]
    assert and_more(2, before=" (", after=")") == " (and 2 more)"
