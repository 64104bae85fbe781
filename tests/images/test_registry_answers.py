"""A registry whose answers make no sense, break off, or never come: one line for the user, at once."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.images.registries import Exchange, Proxy, answer, docker_config, forget_configuration, proxied
from tests.images.support import Layout, sample_layout, tree_digest
from winlayers.cli.main import run
from winlayers.errors import DigestMismatchError, ImageNotFoundError, RegistryError, WinlayersError
from winlayers.images.blobstream import LayerStream
from winlayers.images.documents import Descriptor
from winlayers.images.exporter import copy
from winlayers.images.progress import Progress
from winlayers.images.reference import Reference
from winlayers.images.registry.client import Repository
from winlayers.images.registry.credentials import Credentials, find_credentials
from winlayers.images.registry.options import RegistryOptions
from winlayers.images.transports.registry import RegistrySource
from winlayers.store import Store, open_store

ONCE = RegistryOptions(retries=0)
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


class Fake:
    """A registry that serves a layout's image under every name, unless it is told otherwise."""

    def __init__(self, layout: Layout, proxy: Proxy) -> None:
        self.layout = layout
        self.host = proxy.host
        self.proxy = proxy
        self.spoil: Callable[[Exchange], str] = lambda exchange: ""
        proxy.spoil = self.serve

    @property
    def image(self) -> str:
        """What to pull."""
        return f"{self.host}/some/app:1"

    def layer(self, index: int) -> str:
        """A layer blob's digest."""
        digest: str = self.layout.manifest["layers"][index]["digest"]
        return digest

    def serve(self, exchange: Exchange) -> str:
        """Answer as asked for, else properly."""
        if self.spoil(exchange):
            return "handled"
        name = exchange.path.rpartition("/")[2]
        if exchange.path == "/v2/":
            return answer(exchange, 200)
        if "/manifests/" in exchange.path:
            digest = name if name.startswith("sha256:") else self.layout.descriptor["digest"]
            kind = self.layout.descriptor["mediaType"]
            return answer(exchange, 200, self.layout.blob(digest).read_bytes(), Content_Type=kind)
        if "/blobs/" in exchange.path and exchange.command == "GET":
            return answer(exchange, 200, self.layout.blob(name).read_bytes())
        if exchange.command in ("POST", "PATCH"):
            return answer(exchange, 202, Location=f"http://{self.host}/v2/some/app/blobs/uploads/1")
        return answer(exchange, 201 if exchange.command == "PUT" else 404)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """Such a registry."""
    forget_configuration(tmp_path, monkeypatch)
    sample_layout(tmp_path / "served")
    with proxied("127.0.0.1:1") as proxy:
        yield Fake(Layout(tmp_path / "served"), proxy)


def break_off(exchange: Exchange, status: int, body: bytes, length: int) -> str:
    """Answer with less than was promised."""
    exchange.send_response(status)
    exchange.send_header("Content-Length", str(length))
    exchange.end_headers()
    exchange.wfile.write(body)
    exchange.close_connection = True
    return "handled"


def test_the_fake_serves(fake: Fake, store: Store) -> None:
    assert store.pull(fake.image).digest == fake.layout.descriptor["digest"]


@pytest.mark.parametrize("status", [400, 404, 403])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_an_error_whose_text_breaks_off(fake: Fake, store: Store, status: int, part: str) -> None:
    fake.spoil = lambda e: break_off(e, status, b'{"errors":[', 1000) if part in e.path else ""
    with pytest.raises(WinlayersError, match=r"is not there|access denied|status 400"):
        store.pull(fake.image, registry=ONCE)


def test_a_manifest_that_breaks_off_is_asked_for_again(fake: Fake, store: Store) -> None:
    broken: list[str] = []

    def spoil(exchange: Exchange) -> str:
        if "/manifests/" not in exchange.path or broken:
            return ""
        broken.append(exchange.path)
        return break_off(exchange, 200, b'{"schema', 1000)

    fake.spoil = spoil
    assert store.pull(fake.image).digest == fake.layout.descriptor["digest"]
    assert broken


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "http://localhost:99999/x", "http://localhost:x/", "file:///etc/passwd"],
)
def test_a_redirect_to_no_address(fake: Fake, store: Store, location: str) -> None:
    requests: list[str] = []

    def spoil(exchange: Exchange) -> str:
        if fake.layer(0) not in exchange.path:
            return ""
        requests.append(exchange.path)
        return answer(exchange, 307, Location=location)

    fake.spoil = spoil
    with pytest.raises(RegistryError, match="which is no address"):
        store.pull(fake.image)
    assert len(requests) == 1  # asking again would be of no use


@pytest.mark.parametrize("status", [307, 401, 503])
def test_a_body_that_nobody_wants_is_not_read_for_ever(fake: Fake, store: Store, status: int) -> None:
    sent: list[int] = []

    def spoil(exchange: Exchange) -> str:
        if "/manifests/" not in exchange.path or sent:
            return ""
        exchange.send_response(status)
        exchange.send_header("Location", f"http://{fake.host}/v2/some/app/manifests/2")
        exchange.send_header("WWW-Authenticate", f'Bearer realm="http://{fake.host}/token"')
        exchange.send_header("Content-Length", str(1 << 40))
        exchange.end_headers()
        exchange.close_connection = True
        sent.append(0)
        with contextlib.suppress(ConnectionError):
            while sent[0] < 128 << 20:  # far more than lies in sockets
                exchange.wfile.write(bytes(1 << 20))
                sent[0] += 1 << 20
        return "handled"

    fake.spoil = lambda e: answer(e, 200, b'{"token":"x"}') if e.path.startswith("/token") else spoil(e)
    assert store.pull(fake.image).digest == fake.layout.descriptor["digest"]
    assert sent[0] < 128 << 20


def test_lists_of_tags_that_break_off_or_never_end(fake: Fake) -> None:
    answers = ['{"tags":["1","2"]}', '{"tags":["3"]}', '{"tags":[]}']
    asked: list[str] = []

    def spoil(exchange: Exchange) -> str:
        if "/tags/list" not in exchange.path:
            return ""
        asked.append(exchange.path)
        if len(asked) == 1:
            return break_off(exchange, 200, b'{"tags":', 1000)
        body = answers[min(len(asked), 4) - 2].encode()
        return answer(exchange, 200, body, Link='</v2/some/app/tags/list?last=x>; rel="next"')

    fake.spoil = spoil
    repository = Repository(Reference.parse(fake.image), RegistryOptions())
    assert repository.tags() == ["1", "2", "3"]
    assert len(asked) == 4
    repository.close()


@pytest.mark.parametrize("realm", ["http://[::1", "file:///etc/passwd", "http://localhost:99999/"])
def test_a_token_server_at_no_address(fake: Fake, store: Store, realm: str) -> None:
    fake.spoil = lambda e: answer(e, 401, WWW_Authenticate=f'Bearer realm="{realm}",service="x"')
    with pytest.raises(RegistryError, match="which is no address"):
        store.pull(fake.image)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"token":"a\r\nX-Other: b"}',
        b'{"token":"\xe2\x82\xac"}',
        rb'{"token":"\ud800"}',
        b'{"token":""}',
        b'{"token":5}',
        b'{"token":"a","expires_in":"soon"}',
        b'{"token":"a","expires_in":%s}' % (b"9" * 400),
        b"[" * 100_000,
        b"null",
    ],
)
def test_tokens_that_no_header_can_carry(fake: Fake, store: Store, body: bytes) -> None:
    def spoil(exchange: Exchange) -> str:
        if exchange.path.startswith("/token"):
            return answer(exchange, 200, body)
        challenge = f'Bearer realm="http://{fake.host}/token",service="x"'
        return "" if exchange.path == "/v2/" else answer(exchange, 401, WWW_Authenticate=challenge)

    fake.spoil = spoil
    with pytest.raises(RegistryError, match="gave an answer that is not understood"):
        store.pull(fake.image)


@pytest.mark.parametrize("where", ["bytes=0-" + "9" * 5000, "0-x", "5-7"])
def test_an_upload_that_is_told_nonsense_begins_anew(fake: Fake, store: Store, where: str) -> None:
    """The first try breaks off; where to go on is not to be understood."""
    blob = fake.layout.layer(0).read_bytes()
    sent: list[bytes] = []
    upload = f"http://{fake.host}/v2/some/app/blobs/uploads/1"

    def spoil(exchange: Exchange) -> str:
        if exchange.command == "GET" and exchange.path.endswith("/uploads/1"):
            return answer(exchange, 204, Range=where, Location=upload)
        if exchange.command == "PATCH":
            sent.append(exchange.rfile.read(int(exchange.headers["Content-Length"])))
            if len(sent) == 1:
                exchange.close_connection = True
                return "handled"
            return break_off(exchange, 202, b"", 0)
        return ""

    fake.spoil = spoil
    copy(fake.layout.name, f"docker://{fake.image}", registry=RegistryOptions(parallel=1))
    assert sent[0] == sent[1] == blob


def test_credentials_that_are_no_text(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    headers = []

    def spoil(exchange: Exchange) -> str:
        headers.append(exchange.headers.get("Authorization"))
        return "" if headers[-1] else answer(exchange, 401, WWW_Authenticate='Basic realm="x"')

    fake.spoil = spoil
    store = str(tmp_path / "other")
    assert run(["--root", store, "-q", "pull", "--creds", "us\udcffer:word", fake.image]) == 0
    assert headers[-1] == "Basic dXP/ZXI6d29yZA=="  # the byte that the argument had
    with pytest.raises(RegistryError, match="no text"):
        Credentials("user", "\ud800").basic()
    fake.spoil = lambda e: answer(e, 401, WWW_Authenticate=f'Bearer realm="http://{fake.host}/token"')
    docker_config(tmp_path / "docker", "elsewhere")
    auths = {fake.host: {"identitytoken": "\ud800"}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": auths}))
    assert run(["--root", store, "pull", fake.image]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("credentials hold what is no text")

    helper = tmp_path / "bin" / "docker-credential-odd"
    helper.parent.mkdir()
    helper.write_text("#!/bin/sh\nprintf '\\377'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    docker_config(tmp_path / "docker", "elsewhere")
    (tmp_path / "docker" / "config.json").write_text('{"credsStore":"odd"}')
    with pytest.raises(RegistryError, match="not understood"):
        find_credentials("some.example", "app")


@pytest.mark.parametrize(
    "text",
    [
        'server = "http://[::1"',
        'server = "http://localhost:x"',
        'server = "http://"',
        'server = "ftp://localhost"',
        '[host."http://[::1"]',
        '[header]\nX-A = "a\\r\\nb"',
        '[header]\nX-A = "\u20ac"',
        '[header]\n"X A" = "b"',
    ],
)
def test_a_configuration_that_can_t_be_used_is_named(
    fake: Fake, store: Store, tmp_path: Path, text: str
) -> None:
    folder = tmp_path / "certs.d" / fake.host
    folder.mkdir(parents=True)
    server = "" if text.startswith(("server", "[host")) else f'server = "http://{fake.host}"\n'
    (folder / "hosts.toml").write_text(server + text, "utf-8")
    with pytest.raises(RegistryError, match=r"hosts\.toml: .* (is no server|can't be sent)"):
        store.pull(fake.image)


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("foo:bar", "a proxy that is none: 'foo:bar'"),
        ("http://user:secret@localhost:99999", "a proxy that is none: 'http://localhost:99999'"),
        ("http://127.0.0.1:1", "the proxy: can't connect"),
    ],
)
def test_a_proxy_that_is_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, proxy: str, message: str
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(RegistryError, match=message):
        store.pull("registry.invalid/some/app:1", registry=ONCE)


@pytest.mark.parametrize("everything", [False, True])
def test_an_image_is_not_sent_to_another_one_s_digest(fake: Fake, everything: bool) -> None:
    digest = fake.layout.descriptor["digest"]
    place = f"docker://{fake.host}/some/app"
    with pytest.raises(DigestMismatchError, match=f"{digest}, which can't be called .*@sha256:0000"):
        copy(fake.layout.name, f"{place}@sha256:{'0' * 64}", everything=everything)
    assert fake.proxy.requests == []
    assert copy(fake.layout.name, f"{place}@{digest}", everything=everything).digest == digest


@pytest.mark.parametrize("archived", [False, True])
def test_foreign_layers_that_a_layout_has_not_come_from_their_urls(
    fake: Fake, store: Store, tmp_path: Path, archived: bool
) -> None:
    """skopeo and others leave them out of layouts."""
    base = fake.layer(0)
    layer = {"mediaType": FOREIGN, "urls": [f"http://{fake.host}/elsewhere"]}
    sample_layout(tmp_path / "partial")
    layout = Layout(tmp_path / "partial")
    layout.change_manifest(lambda manifest: manifest["layers"][0].update(layer))
    content = layout.blob(base).read_bytes()
    layout.blob(base).unlink()
    name = layout.name
    if archived:
        with tarfile.open(tmp_path / "partial.tar", "w") as tar:
            tar.add(layout.folder, ".")
        name = f"oci-archive:{tmp_path / 'partial.tar'}:{layout.tag}"
    with pytest.raises(ImageNotFoundError, match=f"{base[7:]}.*, and its URLs don't have it"):
        store.load(name, registry=ONCE)
    fake.spoil = lambda exchange: answer(exchange, 200, content)
    assert store.load(name).digest == layout.descriptor["digest"]
    assert store.images.content.blob_path(base).read_bytes() == content


def test_who_gave_up_asks_for_nothing_elsewhere(fake: Fake) -> None:
    """Other threads go on to a foreign layer's URLs when the registry fails; that would take its time."""
    url = f"http://{fake.host}/elsewhere"
    blob = Descriptor(FOREIGN, fake.layer(0), fake.layout.layer(0).stat().st_size, urls=(url,))
    fake.spoil = lambda e: answer(e, 404) if "/blobs/" in e.path else answer(e, 200, b"its data")
    with RegistrySource(Reference.parse(fake.image)) as source:
        with source.open_blob(blob) as file:
            assert file.read(3) == b"its"
        before = fake.proxy.count("GET", "/elsewhere")
        source.give_up()
        with pytest.raises(RegistryError, match="given up"):
            source.open_blob(blob)
    assert fake.proxy.count("GET", "/elsewhere") == before == 1


class Silence:
    """A server that begins to answer, and says nothing more until it is let go."""

    def __init__(self, part: str, prefix: bytes | None) -> None:
        self._part = part
        self._prefix = prefix
        self.begun = threading.Event()
        self.over = threading.Event()
        self.waited_in_vain = False

    def spoil(self, exchange: Exchange) -> str:
        """What becomes of a request."""
        if self._part not in exchange.path or exchange.command == "HEAD":
            return ""
        if self._prefix is not None:
            exchange.send_response(200)
            exchange.send_header("Content-Length", "1000")
            exchange.end_headers()
            exchange.wfile.write(self._prefix)
            exchange.wfile.flush()
        self.begun.set()
        if not self.over.wait(40):
            self.waited_in_vain = True
        exchange.close_connection = True
        return "handled"

    def interrupt(self, *args: Any, **named: Any) -> NoReturn:
        """Ctrl-C in the thread that calls this, once another waits for the server."""
        assert self.begun.wait(40)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """The block ends in the interrupt, without the server having been let go."""
        try:
            with pytest.raises(KeyboardInterrupt):
                yield
        finally:
            self.over.set()
        assert not self.waited_in_vain


SILENCES = pytest.mark.parametrize(
    "prefix", [None, b"", b"\x1f\x8b\x08"], ids=["no answer", "no body", "some body"]
)


@pytest.mark.parametrize("prefix", [b"", b"\x1f\x8b\x08"], ids=["no body", "some body"])
@pytest.mark.parametrize("parallel", [1, 4])
def test_an_interrupt_ends_the_import_of_a_layer_that_does_not_come(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: bytes, parallel: int
) -> None:
    store = open_store(tmp_path / "other")
    monkeypatch.setattr(store.driver, "apply_diff", (silence := Silence(fake.layer(0), prefix)).interrupt)
    before = tree_digest(store.root)
    fake.spoil = silence.spoil
    with silence.ended():
        store.pull(fake.image, registry=RegistryOptions(parallel=parallel))
    assert tree_digest(store.root) == before


@SILENCES
def test_an_interrupt_ends_the_download_of_a_further_layer(
    fake: Fake, tmp_path: Path, prefix: bytes | None
) -> None:
    silence = Silence(f"/blobs/{fake.layer(1)}", prefix)

    class Interrupting(Progress):
        def finish(self, key: str, note: str = "") -> None:
            silence.interrupt()

    store = open_store(tmp_path / "other")
    assert store.driver.name == "windowsfilter"
    before = tree_digest(store.root)
    fake.spoil = silence.spoil
    with silence.ended():
        store.pull(fake.image, progress=Interrupting())
    assert tree_digest(store.root) == before


@SILENCES
@pytest.mark.parametrize("target", ["oci", "docker"])
def test_an_interrupt_ends_a_copy(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, prefix: bytes | None
) -> None:
    silence = Silence(f"/blobs/{fake.layer(1)}", prefix)
    fake.spoil = silence.spoil
    monkeypatch.setattr("winlayers.images.exporter.wait", silence.interrupt)
    place = f"oci:{tmp_path / 'out'}:1" if target == "oci" else f"docker://{fake.host}/other/app:1"
    with silence.ended():
        copy(f"docker://{fake.image}", place)
    assert not (tmp_path / "out").exists()


def test_an_interrupt_ends_a_push(
    fake: Fake, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load(sample_layout(tmp_path / "layout"), name="app:1")
    silence = Silence("/uploads/", None)
    fake.spoil = silence.spoil
    monkeypatch.setattr("winlayers.images.exporter.wait", silence.interrupt)
    with silence.ended():
        store.push("app:1", fake.image)


def test_the_first_failure_of_a_copy_is_the_one_that_is_told(fake: Fake, tmp_path: Path) -> None:
    """A blob that is not there ends the others, which wait; their errors would say nothing."""
    silence = Silence(f"/blobs/{fake.layer(0)}", b"")

    def spoil(exchange: Exchange) -> str:
        if fake.layer(1) in exchange.path:
            assert silence.begun.wait(40)
            return answer(exchange, 404)
        return silence.spoil(exchange)

    fake.spoil = spoil
    try:
        with pytest.raises(ImageNotFoundError, match=fake.layer(1)):
            copy(f"docker://{fake.image}", f"oci:{tmp_path / 'out'}:1")
    finally:
        silence.over.set()
    assert not silence.waited_in_vain


def test_a_stream_that_is_closed_wakes_its_source() -> None:
    woken = threading.Event()

    class Waiting:
        def read(self, n: int, /) -> bytes:
            assert woken.wait(40)
            raise RegistryError("given up")

        def give_up(self) -> None:
            woken.set()

    blob = Descriptor("application/vnd.oci.image.layer.v1.tar", f"sha256:{'0' * 64}", 10)
    with pytest.raises(KeyboardInterrupt), LayerStream(Waiting(), blob, None):
        raise KeyboardInterrupt
    assert woken.is_set()
