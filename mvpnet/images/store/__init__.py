"""The image store: disk images from vendors and from elsewhere, fetched once, checked, and kept by digest.

    CACHE/images/<sha256>/disk          the image, unpacked, never written again
    CACHE/images/<sha256>/image.json    what it is (store.StoredImage); both appear by one rename, or not at all
    CACHE/images/sources/<url>.json     what a URL or file gave the last time (store.SourceRecord)
    CACHE/images/fetching/<url>.part    what came so far of a transfer; .json beside it is what it is the beginning of
    CACHE/images/fetching/<url>.lock    held by whoever fetches that URL
    CACHE/images/.staging-<url>/        an image in the making
    CACHE/images/quarantine/            files that were refused: wrong digest, no disk image

CACHE is image.cache_dir, by default $XDG_CACHE_HOME/mvpnet or ~/.cache/mvpnet. <sha256> is the digest of the file as it
is fetched, which is what vendors publish and people pin; <url> is the beginning of the SHA-256 of the URL.

`wanted` reads what is asked for, `fetching` gets it, `provide` does both for the ranks of a job; the verbs of
`mvpnet image` are in mvpnet.cli.image.
"""

from __future__ import annotations

from mvpnet.images.store.resolve import pin_images, planned, provide_image

__all__ = ["pin_images", "planned", "provide_image"]
