"""Store disk images from vendors and other sources: fetched once, checked, and kept by digest.

    CACHE/images/<sha256>/disk          the image, unpacked, never written again
    CACHE/images/<sha256>/image.json    its description (store.StoredImage); both appear by one rename, or not at all
    CACHE/images/sources/<url>.json     the last result of a URL or file (sources.SourceRecord)
    CACHE/images/fetching/<url>.part    a partial transfer; .json beside it identifies the version of the whole file
    CACHE/images/fetching/<url>.lock    held by the process that fetches that URL
    CACHE/images/.staging-<url>/        an image under construction
    CACHE/images/quarantine/            rejected files: wrong digest, no disk image

CACHE is image.cache_dir, by default $XDG_CACHE_HOME/mvpnet or ~/.cache/mvpnet. <sha256> is the digest of the file as it
is fetched, which vendors publish and users pin; <url> is the beginning of the SHA-256 of the URL.

`request` reads the configuration, `fetch` gets an image, `resolve` does both for the ranks of a job. The verbs of
`mvpnet image` are in `mvpnet.cli.image`.
"""

from __future__ import annotations

from mvpnet.images.store.resolve import pin_images, planned, provide_image

__all__ = ["pin_images", "planned", "provide_image"]
