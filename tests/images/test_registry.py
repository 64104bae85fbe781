"""Registries: pull, push, copy against docker-registry and skopeo; and through connections that break."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.images.registries import (
    PASSWORD,
    USER,
    Exchange,
    Proxy,
    answer,
    docker_config,
    docker_registry,
    forget_configuration,
    make_certificate,
    make_htpasswd,
    proxied,
    query_of,
)
from tests.images.support import Layout, sample_layout, tree_digest
from tests.support import require_tool
from winlayers.cli.main import run
from winlayers.errors import DigestMismatchError, ImageNotFoundError, PlatformError, RegistryError
from winlayers.images.exporter import copy
from winlayers.images.reference import Reference
from winlayers.images.registry.client import Repository
from winlayers.images.registry.credentials import Credentials, find_credentials
from winlayers.images.registry.options import RegistryOptions
from winlayers.store import Store, open_store


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry without authentication, over plain HTTP."""
    with docker_registry(tmp_path_factory.mktemp("registry") / "data") as host:
        yield host


@pytest.fixture
def proxy(registry: str) -> Iterator[Proxy]:
    """A proxy before that registry."""
    with proxied(registry) as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No configuration of the machine's own."""
    forget_configuration(tmp_path, monkeypatch)
    (tmp_path / "docker").mkdir()
    return tmp_path


def skopeo(*arguments: str) -> str:
    """Run skopeo."""
    command = [require_tool("skopeo"), "--insecure-policy", "--override-os", "windows", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_push_and_pull(store: Store, tmp_path: Path, registry: str, compression: str, docker: bool) -> None:
    source = sample_layout(tmp_path / "layout", compression=compression, docker=docker)
    image = store.load(source, name="app:1")
    name = f"{registry}/push-pull/{compression}-{docker}:1".lower()
    assert store.push("app:1", name).digest == image.digest
    if not (docker and compression == "zstd"):  # of which skopeo does not know
        inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}"))
        assert inspected["Digest"] == image.digest
    other = open_store(tmp_path / "other")
    pulled = other.pull(name)
    assert pulled.digest == image.digest
    assert pulled.references == (name,)
    assert tree_digest(other.root / "images" / "blobs") == tree_digest(store.root / "images" / "blobs")
    assert other.pull(f"{name.rpartition(':')[0]}@{image.digest}", name="x:1").digest == image.digest
    assert "1" in Repository(Reference.parse(name), RegistryOptions()).tags()


def test_what_skopeo_pushed_is_pulled(store: Store, tmp_path: Path, registry: str) -> None:
    source = sample_layout(tmp_path / "layout")
    skopeo("copy", "-q", "--dest-tls-verify=false", source, f"docker://{registry}/skopeo/app:1")
    assert store.pull(f"{registry}/skopeo/app:1").digest == Layout(tmp_path / "layout").descriptor["digest"]


KINDS = ["oci", "oci-archive", "docker-archive", "docker"]


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_copy_between_every_pair_of_transports(
    tmp_path: Path, registry: str, source: str, target: str
) -> None:
    def name(kind: str, stem: str) -> str:
        return {
            "oci": f"oci:{tmp_path / stem}:1",
            "oci-archive": f"oci-archive:{tmp_path / stem}.tar:1",
            "docker-archive": f"docker-archive:{tmp_path / stem}.tar:app:1",
            "docker": f"docker://{registry}/copy/{source}-{target}-{stem}:1",
        }[kind]

    layout = Layout(tmp_path / "layout")
    sample_layout(layout.folder)
    first = copy(layout.name, name(source, "a"))
    second = copy(name(source, "a"), name(target, "b"))
    copy(name(target, "b"), f"oci:{tmp_path / 'end'}:1")
    end = Layout(tmp_path / "end", "1")
    assert end.manifest["config"]["digest"] == layout.manifest["config"]["digest"]
    if "docker-archive" not in (source, target):
        assert first.digest == second.digest == end.descriptor["digest"] == layout.descriptor["digest"]


def test_a_second_pull_or_push_moves_no_blob(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    store.load(sample_layout(tmp_path / "layout"), name=f"{proxy.host}/second/app:1")
    store.push(f"{proxy.host}/second/app:1")
    assert proxy.count("PATCH", "/blobs/uploads/") == 4
    proxy.requests.clear()
    store.push(f"{proxy.host}/second/app:1")
    assert proxy.count("PATCH", "") == proxy.count("POST", "") == 0
    other = open_store(tmp_path / "other")
    other.pull(f"{proxy.host}/second/app:1")
    assert proxy.count("GET", "/blobs/") == 4
    proxy.requests.clear()
    other.pull(f"{proxy.host}/second/app:1")
    assert proxy.count("GET", "/blobs/") == 1  # the configuration, which says what the layers are


def test_blobs_are_mounted_from_other_repositories(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    store.load(sample_layout(tmp_path / "layout"), name=f"{proxy.host}/mount/one:1")
    store.push(f"{proxy.host}/mount/one:1")
    proxy.requests.clear()
    store.push(f"{proxy.host}/mount/one:1", f"{proxy.host}/mount/two:1")
    assert proxy.count("POST", "mount=") == 4
    assert proxy.count("PATCH", "") == 0
    proxy.requests.clear()
    copy(f"docker://{proxy.host}/mount/one:1", f"docker://{proxy.host}/mount/three:1")
    assert proxy.count("PATCH", "") == 0
    assert proxy.count("GET", "/blobs/") == 1


def test_a_broken_download_is_resumed(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    store.load(sample_layout(tmp_path / "layout", compression="none"), name="app:1")
    image = store.image("app:1")
    store.push("app:1", f"{proxy.host}/resume/down:1")
    proxy.cut_download = 50_000
    breaks = 0

    def spoil(exchange: Exchange) -> str:
        nonlocal breaks
        if exchange.command == "GET" and "/blobs/" in exchange.path and breaks < 4:
            breaks += 1
            return "cut download"
        return ""

    proxy.spoil = spoil
    proxy.requests.clear()
    assert open_store(tmp_path / "other").pull(f"{proxy.host}/resume/down:1").digest == image.digest
    ranges = [headers["Range"] for _, _, headers in proxy.requests if "Range" in headers]
    assert "bytes=50000-" in ranges


def test_a_server_without_ranges_is_read_again(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    store.load(sample_layout(tmp_path / "layout", compression="none"), name="app:1")
    store.push("app:1", f"{proxy.host}/resume/without:1")
    breaks = 0

    def spoil(exchange: Exchange) -> str:
        nonlocal breaks
        del exchange.headers["Range"]
        if exchange.command == "GET" and "/blobs/" in exchange.path and breaks < 2:
            breaks += 1
            return "cut download"
        return ""

    proxy.spoil = spoil
    pulled = open_store(tmp_path / "other").pull(f"{proxy.host}/resume/without:1")
    assert pulled.digest == store.image("app:1").digest


def test_a_connection_that_always_breaks_is_an_error(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    store.load(sample_layout(tmp_path / "layout", compression="none"), name="app:1")
    store.push("app:1", f"{proxy.host}/broken/down:1")
    proxy.cut_download = 0
    proxy.spoil = lambda e: "cut download" if e.command == "GET" and "/blobs/" in e.path else ""
    other = open_store(tmp_path / "other")
    assert other.driver.name == "windowsfilter"
    before = tree_digest(other.root)
    with pytest.raises(RegistryError, match="broke 2 times"):
        other.pull(f"{proxy.host}/broken/down:1", registry=RegistryOptions(retries=1))
    assert tree_digest(other.root) == before


def test_a_broken_upload_goes_on(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    image = store.load(sample_layout(tmp_path / "layout", compression="none"), name="app:1")
    breaks = 0

    def spoil(exchange: Exchange) -> str:
        nonlocal breaks
        if exchange.command == "PATCH" and int(exchange.headers["Content-Length"]) > 100_000 and breaks < 2:
            breaks += 1
            return "cut upload"
        return ""

    proxy.cut_upload = 65536
    proxy.spoil = spoil
    assert store.push("app:1", f"{proxy.host}/resume/up:1").digest == image.digest
    assert breaks == 2
    proxy.spoil = lambda exchange: ""
    assert open_store(tmp_path / "other").pull(f"{proxy.host}/resume/up:1").digest == image.digest


def test_busy_servers_are_asked_again(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    store.load(sample_layout(tmp_path / "layout"), name="app:1")
    answered: set[str] = set()

    def spoil(exchange: Exchange) -> str:
        key = f"{exchange.command} {exchange.path.partition('?')[0]}"
        if exchange.command == "PATCH" or key in answered:
            return ""
        answered.add(key)
        return answer(exchange, 429 if len(answered) % 2 else 503, Retry_After="0")

    proxy.spoil = spoil
    store.push("app:1", f"{proxy.host}/busy/app:1")
    assert len(answered) > 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "has other content|is malformed"),
        (lambda b: b + b"more", "is longer than|has other content"),
    ],
)
def test_a_registry_that_lies_is_found_out(
    store: Store, tmp_path: Path, proxy: Proxy, damage: Any, message: str
) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    store.push("app:1", f"{proxy.host}/lies/app:1")
    blob = image.manifest.layers[1]
    content = store.images.content.blob_path(blob.digest).read_bytes()
    proxy.spoil = lambda e: answer(e, 200, damage(content)) if blob.digest in e.path else ""
    other = open_store(tmp_path / "other")
    assert other.driver.name == "windowsfilter"
    before = tree_digest(other.root)
    with pytest.raises(DigestMismatchError, match=message):
        other.pull(f"{proxy.host}/lies/app:1")
    assert tree_digest(other.root) == before
    proxy.spoil = lambda e: answer(e, 200, b"{}") if "/manifests/" in e.path else ""
    with pytest.raises(DigestMismatchError):
        other.pull(f"{proxy.host}/lies/app@{image.digest}")


def test_an_image_that_is_pulled_by_its_digest_is_called_by_it(
    store: Store, registry: str, tmp_path: Path
) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    store.push("app:1", f"{registry}/pinned/app:1")
    other = open_store(tmp_path / "other")
    name = f"{registry}/pinned/app@{image.digest}"
    assert other.pull(name).references == (name,)
    assert other.images.prune().images == []
    assert other.image(name).digest == image.digest
    assert other.pull(f"{registry}/pinned/app:1@{image.digest}").references == (
        f"{registry}/pinned/app:1",
        name,
    )
    other.remove_image(name)
    assert other.image(image.digest).references == (f"{registry}/pinned/app:1",)


def test_what_is_not_there(store: Store, registry: str, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match="nothing/here:1 is not there"):
        store.pull(f"{registry}/nothing/here:1")
    with pytest.raises(RegistryError, match="can't connect"):
        store.pull("127.0.0.1:1/x:1", registry=RegistryOptions(retries=0))
    with pytest.raises(ImageNotFoundError, match="no such image"):
        store.push("missing:1", f"{registry}/x:1")


def test_basic_authentication(store: Store, tmp_path: Path) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    with docker_registry(tmp_path / "data", htpasswd=make_htpasswd(tmp_path / "htpasswd")) as host:
        with pytest.raises(RegistryError, match="access denied"):
            store.push("app:1", f"{host}/app:1")
        docker_config(tmp_path / "docker", host)
        assert store.push("app:1", f"{host}/app:1").digest == image.digest
        assert store.pull(f"{host}/app:1").digest == image.digest
        (tmp_path / "docker" / "config.json").unlink()
        wrong = RegistryOptions(credentials=f"{USER}:wrong")
        with pytest.raises(RegistryError, match="access denied"):
            store.pull(f"{host}/app:1", registry=wrong)
        right = RegistryOptions(credentials=f"{USER}:{PASSWORD}")
        assert store.pull(f"{host}/app:1", registry=right).digest == image.digest


def test_two_registries_with_credentials_of_their_own(tmp_path: Path) -> None:
    layout = sample_layout(tmp_path / "layout")
    passwords = make_htpasswd(tmp_path / "htpasswd")
    with (
        docker_registry(tmp_path / "one", htpasswd=passwords) as one,
        docker_registry(tmp_path / "two") as two,
    ):
        good, wrong = f"{USER}:{PASSWORD}", "someone:else"
        source, target = f"docker://{one}/app:1", f"docker://{two}/app:1"
        assert run(["copy", "-q", "--creds", wrong, "--dest-creds", good, layout, source]) == 0
        assert run(["copy", "-q", "--src-creds", good, source, target]) == 0
        assert run(["copy", "-q", "--creds", good, "--src-creds", wrong, source, target]) == 1


def test_tls(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    certificate = make_certificate(tmp_path)
    with docker_registry(tmp_path / "data", certificate=certificate) as host:
        with pytest.raises(RegistryError, match="CERTIFICATE_VERIFY_FAILED"):
            store.push("app:1", f"{host}/app:1")
        trusting = RegistryOptions(ca_file=str(certificate[0]))
        assert store.push("app:1", f"{host}/app:1", registry=trusting).digest == image.digest
        assert store.pull(f"{host}/app:1", registry=RegistryOptions(insecure=True)).digest == image.digest
        hosts = tmp_path / "certs.d" / host.replace(":", "_") / "hosts.toml"
        hosts = tmp_path / "certs.d" / host / "hosts.toml"
        hosts.parent.mkdir(parents=True)
        hosts.write_text(f'server = "https://{host}"\nca = "{certificate[0]}"\n')
        assert store.pull(f"{host}/app:1").digest == image.digest


def test_mirrors(store: Store, tmp_path: Path, registry: str, proxy: Proxy) -> None:
    """What the mirror has comes from there, the rest from the registry; pushes go to the registry."""
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    store.push("app:1", f"{proxy.host}/mirrored/app:1")
    with docker_registry(tmp_path / "origin") as origin:
        hosts = tmp_path / "certs.d" / origin / "hosts.toml"
        hosts.parent.mkdir(parents=True)
        hosts.write_text(
            f'[host."http://127.0.0.1:1"]\n[host."http://{proxy.host}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        proxy.requests.clear()
        pulled = open_store(tmp_path / "a").pull(
            f"{origin}/mirrored/app:1", registry=RegistryOptions(retries=0)
        )
        assert pulled.digest == image.digest
        assert pulled.references == (f"{origin}/mirrored/app:1",)
        assert all(
            f"ns={origin.replace(':', '%3A')}" in path for _, path, _ in proxy.requests if "app" in path
        )
        store.push("app:1", f"{origin}/only/origin:1")
        assert open_store(tmp_path / "b").pull(f"{origin}/only/origin:1").digest == image.digest


def test_tokens(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    """A registry with a token server: the right scope is asked for, and no secret goes elsewhere."""
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    asked: list[dict[str, list[str]]] = []

    def spoil(exchange: Exchange) -> str:
        if exchange.path.startswith("/token"):
            expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if exchange.headers.get("Authorization") != f"Basic {expected}":
                return answer(exchange, 401)
            asked.append(query_of(exchange))
            return answer(exchange, 200, json.dumps({"token": "secret", "expires_in": 300}).encode())
        if exchange.headers.get("Authorization") != "Bearer secret":
            challenge = f'Bearer realm="http://{proxy.host}/token",service="test, \\"quoted\\""'
            return answer(exchange, 401, WWW_Authenticate=challenge)
        del exchange.headers["Authorization"]
        return ""

    proxy.spoil = spoil
    with pytest.raises(RegistryError, match="wrong credentials"):
        store.push("app:1", f"{proxy.host}/tokens/app:1")
    docker_config(tmp_path / "docker", proxy.host)
    assert store.push("app:1", f"{proxy.host}/tokens/app:1").digest == image.digest
    assert store.pull(f"{proxy.host}/tokens/app:1").digest == image.digest
    assert asked[0] == {"service": ['test, "quoted"'], "scope": ["repository:tokens/app:pull,push"]}
    assert asked[-1]["scope"] == ["repository:tokens/app:pull"]
    assert len(asked) <= 4  # tokens are kept: one for each command and scope, not for each request


def test_identity_tokens_are_refreshed(store: Store, tmp_path: Path, proxy: Proxy) -> None:
    store.load(sample_layout(tmp_path / "layout"), name="app:1")
    store.push("app:1", f"{proxy.host}/identity/app:1")
    config = {"auths": {proxy.host: {"identitytoken": "refresh me"}}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps(config))

    def spoil(exchange: Exchange) -> str:
        if exchange.path.startswith("/token"):
            assert exchange.command == "POST"
            body = exchange.rfile.read(int(exchange.headers["Content-Length"])).decode()
            exchange.headers.replace_header("Content-Length", "0")
            good = "grant_type=refresh_token" in body and "refresh_token=refresh+me" in body
            return answer(exchange, 200 if good else 400, b'{"access_token": "fresh"}')
        if exchange.headers.get("Authorization") != "Bearer fresh":
            return answer(exchange, 401, WWW_Authenticate=f'Bearer realm="http://{proxy.host}/token"')
        del exchange.headers["Authorization"]
        return ""

    proxy.spoil = spoil
    store.pull(f"{proxy.host}/identity/app:1")


def test_redirects_get_no_secrets(store: Store, tmp_path: Path, proxy: Proxy, registry: str) -> None:
    store.load(sample_layout(tmp_path / "layout"), name="app:1")
    store.push("app:1", f"{proxy.host}/redirect/app:1")
    with proxied(registry) as elsewhere:

        def spoil(exchange: Exchange) -> str:
            if not exchange.headers.get("Authorization"):
                return answer(exchange, 401, WWW_Authenticate='Basic realm="x"')
            if "/blobs/" in exchange.path:
                return answer(exchange, 307, Location=f"http://{elsewhere.host}{exchange.path}")
            del exchange.headers["Authorization"]
            return ""

        proxy.spoil = spoil
        options = RegistryOptions(credentials=f"{USER}:{PASSWORD}")
        open_store(tmp_path / "other").pull(f"{proxy.host}/redirect/app:1", registry=options)
        assert elsewhere.count("GET", "/blobs/") == 4
        assert all("Authorization" not in headers for _, _, headers in elsewhere.requests)


def test_foreign_layers(store: Store, tmp_path: Path, proxy: Proxy, registry: str) -> None:
    """Pulled from their URLs where the registry has them not; pushed only when asked."""
    layout = Layout(tmp_path / "layout")
    sample_layout(layout.folder, docker=True)
    base = layout.manifest["layers"][0]["digest"]
    url = f"http://{proxy.host}/elsewhere/base.tar.gz"
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    layout.change_manifest(
        lambda m: m["layers"][0].update(mediaType=foreign, urls=["http://127.0.0.1:1/gone", url])
    )
    image = store.load(layout.name, name="app:1")
    content = layout.blob(base).read_bytes()
    served: list[str] = []

    def spoil(exchange: Exchange) -> str:
        if "/elsewhere/" not in exchange.path:
            return ""
        served.append(exchange.path)
        return answer(exchange, 200, content)

    proxy.spoil = spoil
    store.push("app:1", f"{proxy.host}/foreign/app:1")
    repository = Repository(Reference.parse(f"{registry}/foreign/app"), RegistryOptions())
    assert not repository.has_blob(base)
    quick = RegistryOptions(retries=0)
    pulled = open_store(tmp_path / "other").pull(f"{proxy.host}/foreign/app:1", registry=quick)
    assert pulled.digest == image.digest
    assert served == ["/elsewhere/base.tar.gz"]
    store.push("app:1", f"{proxy.host}/foreign/app:1", foreign=True)
    assert repository.has_blob(base)
    assert open_store(tmp_path / "third").pull(f"{proxy.host}/foreign/app:1").digest == image.digest
    assert len(served) == 1


def test_indexes_offer_platforms(store: Store, tmp_path: Path, registry: str) -> None:
    layout = Layout(tmp_path / "layout")
    sample_layout(layout.folder)
    copy(layout.name, f"docker://{registry}/index/app:windows")
    entry = {k: layout.descriptor[k] for k in ("mediaType", "digest", "size")}
    windows = {
        **entry,
        "platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.20348.2227"},
    }
    other = {**entry, "platform": {"os": "linux", "architecture": "amd64"}}
    kind = "application/vnd.oci.image.index.v1+json"
    raw = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [other, windows]}).encode()
    repository = Repository(Reference.parse(f"{registry}/index/app:all"), RegistryOptions(), push=True)
    repository.put_manifest("all", raw, kind)
    assert store.pull(f"{registry}/index/app:all").digest == entry["digest"]
    from winlayers.images.platforms import Platform

    with pytest.raises(PlatformError, match=r"it offers linux/amd64, windows/amd64:10\.0\.20348\.2227"):
        store.pull(f"{registry}/index/app:all", platform=Platform.parse("windows/arm64"))


def test_without_blobs_less_is_kept(store: Store, tmp_path: Path, registry: str) -> None:
    sample_layout(tmp_path / "layout")
    copy(f"oci:{tmp_path / 'layout'}:sample", f"docker://{registry}/lean/app:1")
    image = store.pull(f"{registry}/lean/app:1", keep_blobs=False)
    assert len(list(store.images.content.digests())) == 2
    assert all(info.present for info in store.layers(f"{registry}/lean/app:1"))
    with pytest.raises(ImageNotFoundError, match="load the image again, with its blobs"):
        store.save(f"{registry}/lean/app:1", f"oci:{tmp_path / 'out'}:1")
    assert store.pull(f"{registry}/lean/app:1", keep_blobs=False).digest == image.digest
    store.pull(f"{registry}/lean/app:1")
    store.save(f"{registry}/lean/app:1", f"oci:{tmp_path / 'out'}:1")


def write_helper(folder: Path, name: str, script: str) -> None:
    """A credential helper on the path."""
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\nread server\n{script}\n")
    path.chmod(0o755)


def test_credentials_as_docker_and_podman_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    write_helper(tmp_path / "bin", "good", 'echo "{\\"Username\\": \\"$server\\", \\"Secret\\": \\"s\\"}"')
    write_helper(tmp_path / "bin", "token", 'echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"t\\"}"')
    write_helper(tmp_path / "bin", "empty", 'echo "credentials not found in native keychain"; exit 1')
    write_helper(tmp_path / "bin", "bad", 'echo "the keychain is locked" >&2; exit 1')

    def pair(text: str) -> dict[str, str]:
        return {"auth": base64.b64encode(text.encode()).decode()}

    config: dict[str, Any] = {
        "auths": {
            "a.example": pair("a:1"),
            "a.example/team": pair("team:2"),
            "https://b.example/v1/": pair("b:3"),
            "https://index.docker.io/v1/": pair("hub:4"),
            "e.example": {},
        },
        "credHelpers": {"c.example": "good", "t.example": "token", "l.example": "bad"},
        "credsStore": "empty",
    }
    (tmp_path / "docker" / "config.json").write_text(json.dumps(config))
    assert find_credentials("a.example", "other/app") == Credentials("a", "1")
    assert find_credentials("a.example", "team/app") == Credentials("team", "2")
    assert find_credentials("b.example", "app") == Credentials("b", "3")
    assert find_credentials("docker.io", "library/app") == Credentials("hub", "4")
    assert find_credentials("c.example", "app") == Credentials("c.example", "s")
    assert find_credentials("t.example", "app") == Credentials("<token>", "t", is_token=True)
    assert find_credentials("d.example", "app") is None
    assert find_credentials("e.example", "app") is None
    with pytest.raises(RegistryError, match="the keychain is locked"):
        find_credentials("l.example", "app")
    auth = {"auths": {"d.example": pair("podman:5")}}
    (tmp_path / "auth.json").write_text(json.dumps(auth))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    assert find_credentials("d.example", "app") == Credentials("podman", "5")
    assert "5" not in repr(find_credentials("d.example", "app"))
    (tmp_path / "auth.json").write_text("{")
    with pytest.raises(RegistryError, match="is not JSON"):
        find_credentials("d.example", "app")
