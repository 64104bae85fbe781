"""Image archives, both kinds, against skopeo and the standard library."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from tests.images.support import Layout, sample_layout, tree_digest
from tests.support import require_tool
from winlayers.errors import DigestMismatchError, ImageError, ImageNotFoundError, WinlayersError
from winlayers.store import Store, open_store

SKOPEO = ("--insecure-policy", "--override-os", "windows", "copy", "-q")


def names(path: Path) -> list[str]:
    """The members of an archive."""
    with tarfile.open(path) as archive:
        return archive.getnames()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_an_oci_archive_keeps_every_blob(store: Store, tmp_path: Path, compression: str) -> None:
    image = store.load(sample_layout(tmp_path / "layout", compression=compression), name="app:1")
    path = tmp_path / "app.tar"
    store.save("app:1", f"oci-archive:{path}:1")
    other = open_store(tmp_path / "other")
    assert other.load(f"oci-archive:{path}:1").digest == image.digest
    assert other.images.images()[0].references == ("docker.io/library/app:1",)
    assert tree_digest(other.root / "images" / "blobs") == tree_digest(store.root / "images" / "blobs")
    again = tmp_path / "again.tar"
    other.save("app:1", f"oci-archive:{again}:1")
    assert again.read_bytes() == path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044


def test_a_docker_archive_keeps_configuration_and_layers(store: Store, tmp_path: Path) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    path = tmp_path / "app.tar"
    store.save("app:1", f"docker-archive:{path}:app:1")
    other = open_store(tmp_path / "other")
    loaded = other.load(f"docker-archive:{path}")
    assert loaded.references == ("docker.io/library/app:1",)
    assert loaded.id == image.id
    assert loaded.layer_ids == image.layer_ids
    assert [layer.digest for layer in loaded.manifest.layers] == list(image.config.diff_ids)
    again = tmp_path / "again.tar"
    other.save("app:1", f"docker-archive:{again}:app:1")
    assert again.read_bytes() == path.read_bytes()
    with tarfile.open(path) as archived:
        manifest = archived.extractfile("manifest.json")
        assert manifest is not None
        assert json.loads(manifest.read())[0]["RepoTags"] == ["app:1"]


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("compressed", ["gzip", "zstd", "none"])
def test_archives_are_told_by_looking_at_them(
    store: Store, tmp_path: Path, kind: str, compressed: str
) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    path = tmp_path / "image.tar"
    store.save("app:1", f"{kind}:{path}:{'1' if kind == 'oci-archive' else 'app:1'}")
    data = path.read_bytes()
    if compressed == "gzip":
        path.write_bytes(gzip.compress(data))
    elif compressed == "zstd":
        path.write_bytes(zstandard.compress(data))
    loaded = open_store(tmp_path / "other").load(str(path))
    assert loaded.id == image.id


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives_through_pipes(store: Store, tmp_path: Path, kind: str) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    tag = "1" if kind == "oci-archive" else "app:1"
    command = [sys.executable, "-m", "winlayers", "--root"]
    saved = subprocess.run(
        [*command, store.root, "save", "app:1", f"{kind}:-:{tag}"], capture_output=True, check=True
    )
    loaded = subprocess.run(
        [*command, tmp_path / "other", "load", "-", "--name", "x:1", "--json"],
        input=saved.stdout,
        capture_output=True,
        check=True,
    )
    assert json.loads(loaded.stdout)["id"] == image.id


def test_skopeo_reads_what_is_written(store: Store, tmp_path: Path) -> None:
    skopeo = require_tool("skopeo")
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    for kind, tag in (("oci-archive", "1"), ("docker-archive", "app:1")):
        path = tmp_path / f"{kind}.tar"
        store.save("app:1", f"{kind}:{path}:{tag}")
        copy = tmp_path / f"copy-{kind}"
        subprocess.run([skopeo, *SKOPEO, f"{kind}:{path}:{tag}", f"oci:{copy}:1"], check=True)
        assert Layout(copy, "1").config["rootfs"]["diff_ids"] == list(image.config.diff_ids)
    assert Layout(tmp_path / "copy-oci-archive", "1").descriptor["digest"] == image.digest


def test_what_skopeo_writes_is_read(store: Store, tmp_path: Path) -> None:
    skopeo = require_tool("skopeo")
    source = sample_layout(tmp_path / "layout")
    image = store.load(source, name="app:1")
    for kind, tag in (("oci-archive", "1"), ("docker-archive", "app:1")):
        path = tmp_path / f"{kind}.tar"
        subprocess.run([skopeo, *SKOPEO, source, f"{kind}:{path}:{tag}"], check=True)
        loaded = store.load(str(path), name=f"{kind}:1")
        assert loaded.layer_ids == image.layer_ids
    assert store.image("oci-archive:1").digest == image.digest


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    """Write an archive of the members."""
    with tarfile.open(path, "w") as out:
        for info, data in members:
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return str(path)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """A link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def file(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """A file."""
    return tarfile.TarInfo(name), data


def test_the_old_form_with_links_and_several_images(store: Store, tmp_path: Path) -> None:
    """docker save before version 25: a folder for each layer, links where a layer comes twice."""
    layout = Layout(tmp_path / "layout")
    sample_layout(layout.folder, compression="none")
    tars = [layout.layer(i).read_bytes() for i in range(3)]
    config = layout.blob(layout.manifest["config"]["digest"]).read_bytes()
    images = [
        {
            "Config": "c.json",
            "RepoTags": ["a:1", "b:2"],
            "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"],
        },
        {"Config": "./c.json", "RepoTags": None, "Layers": ["1/layer.tar", "4/layer.tar", "5/layer.tar"]},
    ]
    path = archive(
        tmp_path / "old.tar",
        file("c.json", config),
        file("./1/layer.tar", b"overwritten by the next"),
        file("1/layer.tar", tars[0]),
        file("2/layer.tar", gzip.compress(tars[1])),
        file("3/layer.tar", tars[2]),
        link("4/layer.tar", "../2/layer.tar"),
        link("5/layer.tar", "/3/layer.tar", tarfile.LNKTYPE),
        file("manifest.json", json.dumps(images).encode()),
    )
    loaded = store.load(f"docker-archive:{path}:b:2")
    assert loaded.references == ("docker.io/library/b:2",)
    assert len(store.load_all(path)) == 2
    assert store.image("a:1").digest == store.load(f"docker-archive:{path}:@1", name="c:3").digest
    with pytest.raises(ImageNotFoundError, match="it has a:1, b:2"):
        store.load(f"docker-archive:{path}:c:3")
    with pytest.raises(ImageNotFoundError, match="@2"):
        store.load(f"docker-archive:{path}:@2")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([file("x", b"")], "no manifest.json"),
        ([file("manifest.json", b"{}")], "not a JSON list"),
        ([file("manifest.json", b"[]")], "no images"),
        ([file("manifest.json", b"[1]")], "not a JSON object"),
        ([file("manifest.json", b'[{"Config": "../../etc/passwd", "Layers": []}]')], "no member"),
        ([file("manifest.json", b'[{"Config": "a", "Layers": []}]'), link("a", "a")], "no member a"),
        ([link("manifest.json", "/etc/passwd")], "no manifest.json"),
        ([file("oci-layout", b"{}"), file("index.json", b"[]")], "not a JSON object"),
        ([file("oci-layout", b"{}")], "no OCI image layout"),
    ],
)
def test_wrong_archives(
    store: Store, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        store.load(archive(tmp_path / "x.tar", *members))
    assert "\n" not in str(caught.value)


def test_what_is_no_archive(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"", b"no archive" * 100, b"\x1f\x8bno gzip", os.urandom(2000)):
        path.write_bytes(data)
        with pytest.raises(WinlayersError):
            store.load(str(path))
    for data in (lzma.compress(b"data"), gzip.compress(bytes(4096))[:-9]):
        path.write_bytes(data)
        with pytest.raises(ImageError, match=f"^{re.escape(str(path))}: "):
            store.load(str(path))
    with pytest.raises(ImageError, match="can't open"):
        store.load(f"oci-archive:{tmp_path / 'missing'}")


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_a_damaged_archive_leaves_the_store_as_it_was(store: Store, tmp_path: Path, kind: str) -> None:
    store.load(sample_layout(tmp_path / "layout", compression="none"), name="app:1")
    path = tmp_path / "app.tar"
    store.save("app:1", f"{kind}:{path}:{'1' if kind == 'oci-archive' else 'app:1'}")
    other = open_store(tmp_path / "other")
    assert other.driver.name == "windowsfilter"
    before = tree_digest(other.root)
    data = bytearray(path.read_bytes())
    data[data.index(b"MZ") + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError):
        other.load(str(path))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError):
        other.load(str(path))
    assert tree_digest(other.root) == before


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_a_failed_save_leaves_no_archive(store: Store, tmp_path: Path, kind: str) -> None:
    image = store.load(sample_layout(tmp_path / "layout"), name="app:1")
    blob = store.images.content.blob_path(image.manifest.layers[1].digest)
    blob.write_bytes(blob.read_bytes()[:-1])
    (tmp_path / "out").mkdir()
    with pytest.raises(DigestMismatchError):
        store.save("app:1", f"{kind}:{tmp_path / 'out' / 'x.tar'}:x")
    assert os.listdir(tmp_path / "out") == []
    (tmp_path / "out" / "there").write_text("precious")
    with pytest.raises(ImageError, match="exists already"):
        store.save("app:1", f"{kind}:{tmp_path / 'out' / 'there'}:x")
    assert (tmp_path / "out" / "there").read_text() == "precious"
