"""A web server on 127.0.0.1 that misbehaves as real ones do: for the tests of the image store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file, and how it is served."""

    body: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str | None = None
    status: int | None = None  # answer this, and nothing else
    says_length: bool = True
    length: int | None = None  # to say in place of the truth
    cuts: list[int] = field(default_factory=list)  # for each coming request, after how many bytes the connection breaks
    pause_at: int | None = None  # after so many bytes, wait for `go_on`
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Request:
    path: str
    range: str | None
    headers: dict[str, str]


class ImageServer:
    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[Request] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append(Request(self.path, self.headers.get("Range"), dict(self.headers)))
                self.close_connection = True
                with suppress(ConnectionError):
                    server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: what matters is in `requests`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def serve(self, name: str, body: bytes, **how: object) -> str:
        """Serve a file from now on; its URL."""
        self.files[name] = Served(body, **how)  # type: ignore[arg-type]
        return self.url(name)

    def requests_for(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.path == f"/{name}"]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        file = self.files.get(handler.path.lstrip("/"))
        if file is None or file.status is not None:
            handler.send_error(404 if file is None else file.status or 500)
            return
        if file.redirect:
            handler.send_response(302)
            handler.send_header("Location", file.redirect)
            handler.send_header("Connection", "close")  # it is closed, and a client that is not told sends into it
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = self._start(handler, file)
        body = file.body[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(file.body) - 1}/{len(file.body)}")
        if file.says_length:
            handler.send_header("Content-Length", str(len(body) if file.length is None else file.length))
        for name, value in {**({"ETag": file.etag} if file.etag else {}), **file.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        self._send(handler, file, body)

    @staticmethod
    def _start(handler: BaseHTTPRequestHandler, file: Served) -> int:
        asked = handler.headers.get("Range")
        if not (asked and file.ranges and handler.headers.get("If-Range") == file.etag):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, file: Served, body: bytes) -> None:
        cut = file.cuts.pop(0) if file.cuts else len(body)
        pause = len(body) if file.pause_at is None else file.pause_at
        handler.wfile.write(body[: min(cut, pause)])
        handler.wfile.flush()
        if pause < cut:
            file.go_on.wait(60)
            handler.wfile.write(body[pause:cut])

    def close(self) -> None:
        for file in self.files.values():
            file.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def image_server() -> Iterator[ImageServer]:
    server = ImageServer()
    try:
        yield server
    finally:
        server.close()
