"""Take secrets out of what is recorded: passwords and signatures in URLs (`spec.urls`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvpnet.spec.model import JobSpec
from mvpnet.spec.plain import plain
from mvpnet.spec.urls import image_urls, masked_tree, masked_words
from mvpnet.util.files import write_whole


def recorded_spec(spec: JobSpec) -> dict[str, Any]:
    """Return a job's spec as it is recorded, in JSON's types."""
    plain_spec = plain(spec)
    urls = list(image_urls(plain_spec))
    recorded: dict[str, Any] = masked_tree(plain_spec)
    return {**recorded, "typed": [masked_words(word, urls) for word in spec.typed]}


def mask_files(folder: Path, urls: Sequence[str]) -> None:
    """Take the secrets out of what Hydra wrote into a folder. Raises OSError.

    Args:
        folder: The folder. Only its own YAML files are changed.
        urls: URLs of images, for which their addresses are put.
    """
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text()
        if (clean := masked_words(text, urls)) != text:
            write_whole(path, clean)
