"""Take secrets out of what is recorded: passwords and signatures in URLs (`util.urls`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mvpnet.spec.model import JobSpec
from mvpnet.spec.plain import plain
from mvpnet.util.files import write_whole
from mvpnet.util.urls import masked_tree, masked_words

_IMAGE_URLS = ("source", "checksums")  # keys of the section image


def recorded(value: Any) -> Any:
    """Return a tree of a spec or of words, in JSON's types, as it is recorded."""
    return masked_tree(value, _IMAGE_URLS)


def recorded_spec(spec: JobSpec) -> dict[str, Any]:
    """Return a job's spec as it is recorded, in JSON's types."""
    plain_spec = plain(spec)
    urls = list(image_urls(plain_spec))
    return {**recorded(plain_spec), "typed": [masked_words(word, urls) for word in spec.typed]}


def image_urls(value: Any) -> Iterator[str]:
    """Yield the URLs of images, and of their checksum files, in a spec in JSON's types."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in _IMAGE_URLS and isinstance(item, str):
                yield item
            else:
                yield from image_urls(item)
    elif isinstance(value, list):
        for item in value:
            yield from image_urls(item)


def mask_files(folder: Path, urls: list[str]) -> None:
    """Take secrets out of the text files in a folder, of what Hydra wrote. Raises OSError."""
    for path in folder.glob("*.yaml"):
        text = path.read_text()
        if (clean := masked_words(text, urls)) != text:
            write_whole(path, clean)
