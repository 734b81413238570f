"""HTTP sessions that read no_proxy by `util.no_proxy`: requests knows no blanks in it, and no ports of addresses.

Importing this loads requests, which is slow.
"""

from __future__ import annotations

import os

import requests
from requests import PreparedRequest, RequestException, Response

from mvpnet.util.no_proxy import is_direct

__all__ = ["RequestException", "Session"]


class Session(requests.Session):
    """A session whose requests, and each redirect of them, go by a proxy of the environment or by none."""

    def send(self, request: PreparedRequest, **kwargs: object) -> Response:
        """Send a request, or what a redirect made of it."""
        if is_direct(request.url or "", os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""):
            kwargs["proxies"] = {}
        return super().send(request, **kwargs)
