"""Registries for tests: docker-registry on loopback, a proxy that breaks connections, a token server."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.support import missing, require_tool

if TYPE_CHECKING:
    import pytest

USER, PASSWORD = "reader", "correct horse"


@contextlib.contextmanager
def docker_registry(
    folder: Path,
    *,
    htpasswd: Path | None = None,
    certificate: tuple[Path, Path] | None = None,
    token_realm: tuple[str, Path] | None = None,
    proxy: str | None = None,
) -> Iterator[str]:
    """Run docker-registry with its data in *folder*; gives host and port."""
    program = require_tool("docker-registry")
    lines = [
        "version: 0.1",
        "log: {level: info, accesslog: {disabled: true}}",
        "storage:",
        f"  filesystem: {{rootdirectory: {folder}}}",
        "  delete: {enabled: true}",
        "validation: {manifests: {urls: {allow: ['.*']}}}",
        "http:",
        "  addr: 127.0.0.1:0",  # no port that was free a moment ago may be another's by now
    ]
    if certificate is not None:
        lines.append(f"  tls: {{certificate: {certificate[0]}, key: {certificate[1]}}}")
    if htpasswd is not None:
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}")
    if token_realm is not None:
        realm, bundle = token_realm
        lines.append(
            f"auth: {{token: {{realm: '{realm}', service: test, issuer: test, rootcertbundle: {bundle}}}}}"
        )
    if proxy is not None:
        lines.append(f"proxy: {{remoteurl: '{proxy}'}}")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder.with_suffix(".yml")
    config.write_text("\n".join(lines))
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen([program, "serve", config], stdout=output, stderr=output)
    try:
        yield address_of(process, log)
    finally:
        process.terminate()
        process.wait(60)


def address_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """Host and port of the server, which it says in its log once it can be connected to."""
    deadline = time.monotonic() + 120
    while True:
        ended = process.poll() is not None or time.monotonic() > deadline
        said = log.read_text()
        if found := re.search(r"listening on (127\.0\.0\.1:[0-9]+)[^0-9]", said):
            return found[1]
        if ended:
            missing(f"docker-registry does not start: {said[-1000:]}")
        time.sleep(0.02)


def make_htpasswd(path: Path) -> Path:
    """A password file with the one user."""
    command = [require_tool("htpasswd"), "-Bbn", USER, PASSWORD]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return path


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    command = [
        *(require_tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    subprocess.run(command, capture_output=True, check=True)
    return certificate, key


def docker_config(folder: Path, host: str) -> None:
    """Write docker's configuration with the user's credentials for *host*."""
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request through the proxy, which :class:`Proxy` may spoil."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def handle_any(self) -> None:
        """Pass the request on, and the answer back."""
        length = int(self.headers.get("Content-Length") or 0)
        proxy = self.server
        proxy.requests.append((self.command, self.path, dict(self.headers)))
        spoiled = proxy.spoil(self)
        if spoiled == "handled":
            return
        body = self.rfile
        connection = http.client.HTTPConnection(proxy.upstream, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        headers["Host"] = f"127.0.0.1:{proxy.port}"  # so that locations lead through here
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            left = length
            limit = proxy.cut_upload if spoiled == "cut upload" else None
            while left:
                data = body.read(min(left, 65536))
                left -= len(data)
                proxy.uploaded += len(data)
                connection.send(data)
                if limit is not None and length - left >= limit:
                    connection.close()
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
            response = connection.getresponse()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() != "connection":
                    self.send_header(name, value)
            self.end_headers()
            sent = 0
            while data := response.read(65536):
                if spoiled == "cut download" and sent + len(data) > proxy.cut_download:
                    data = data[: proxy.cut_download - sent]
                    self.wfile.write(data)
                    self.wfile.flush()
                    proxy.downloaded += len(data)
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(data)
                sent += len(data)
                proxy.downloaded += len(data)
        except OSError:
            self.close_connection = True
        finally:
            connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any


class Proxy(socketserver.ThreadingTCPServer):
    """Stands before a registry, counts, and breaks what it is told to.

    Attributes:
        requests: what came: method, path, headers.
        uploaded, downloaded: bytes of bodies.
        spoil: decides what to do to a request: "", "cut download", "cut upload", or "handled".
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream = upstream
        self.port: int = self.server_address[1]
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.uploaded = self.downloaded = 0
        self.cut_download = self.cut_upload = 3000
        self.spoil: Callable[[Exchange], str] = lambda exchange: ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def count(self, method: str, part: str) -> int:
        """How many requests of that method had *part* in their path."""
        return sum(m == method and part in path for m, path, _ in self.requests)


@contextlib.contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """A proxy before *upstream*."""
    with Proxy(upstream) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


def answer(exchange: Exchange, status: int, body: bytes = b"", **headers: str) -> str:
    """Answer a request instead of the registry."""
    exchange.rfile.read(int(exchange.headers.get("Content-Length") or 0))
    exchange.send_response(status)
    for name, value in headers.items():
        exchange.send_header(name.replace("_", "-"), value)
    exchange.send_header("Content-Length", str(len(body)))
    exchange.end_headers()
    if exchange.command != "HEAD":
        exchange.wfile.write(body)
    return "handled"


def query_of(exchange: Exchange) -> dict[str, list[str]]:
    """The query of a request."""
    return parse_qs(urlsplit(exchange.path).query)


def forget_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let credentials and certificates be looked for in *folder*, not in the machine's own places."""
    monkeypatch.setenv("DOCKER_CONFIG", str(folder / "docker"))
    monkeypatch.setenv("WINLAYERS_CERTS_D", str(folder / "certs.d"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
