"""``copy --all``: whole indexes, with all that they name, from place to place; their digests stay."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.images.registries import docker_registry
from tests.images.support import Layout, sample_layout, tree_digest
from tests.support import require_tool
from winlayers.cli.main import run
from winlayers.errors import DigestMismatchError, ImageError, ImageNotFoundError
from winlayers.images import mediatypes
from winlayers.images.digest import digest_of
from winlayers.images.exporter import copy
from winlayers.images.layout import OciLayout
from winlayers.images.transports.names import open_source
from winlayers.store import Store

KINDS = ["oci", "oci-archive", "docker"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry without authentication, over plain HTTP."""
    with docker_registry(tmp_path_factory.mktemp("registry") / "data") as host:
        yield host


class Many:
    """A layout whose tag ``all`` is an index: an image for Windows, one for Linux, and an attestation."""

    def __init__(self, folder: Path, *, docker: bool = False) -> None:
        self.layout = Layout(folder)
        sample_layout(folder, docker=docker)
        self.docker = docker
        windows = {
            **self._plain(self.layout.descriptor),
            "platform": {"os": "windows", "architecture": "amd64"},
        }
        linux = {**self._linux(), "platform": {"os": "linux", "architecture": "amd64"}}
        self.manifests = [windows, linux]
        if not docker:
            unknown = {"os": "unknown", "architecture": "unknown"}
            self.manifests.append({**self._attestation(linux["digest"]), "platform": unknown})
        self.index = self.put_index(self.manifests)
        self.tag(self.index)
        self.name = f"oci:{folder}:all"

    @staticmethod
    def _plain(descriptor: dict[str, Any]) -> dict[str, Any]:
        return {key: descriptor[key] for key in ("mediaType", "digest", "size")}

    def put(self, data: bytes | dict[str, Any], media_type: str) -> dict[str, Any]:
        """Store a blob; return its descriptor."""
        raw = data if isinstance(data, bytes) else json.dumps(data, indent=1).encode()
        OciLayout(self.layout.folder).write(raw)
        return {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw)}

    def put_index(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """Store an index."""
        kind = mediatypes.DOCKER_LIST if self.docker else mediatypes.OCI_INDEX
        return self.put({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}, kind)

    def tag(self, descriptor: dict[str, Any]) -> None:
        """Let ``all`` mean *descriptor*."""
        entry = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": "all"}}
        path = self.layout.folder / "index.json"
        index = json.loads(path.read_bytes())
        others = [d for d in index["manifests"] if d["annotations"] != entry["annotations"]]
        path.write_text(json.dumps({**index, "manifests": [*others, entry]}))

    def _linux(self) -> dict[str, Any]:
        tar = gzip.compress(b"\0" * 1024, mtime=0)
        diff_id = digest_of(b"\0" * 1024)
        config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
        kinds = (
            (mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_CONFIG, mediatypes.DOCKER_LAYER_GZIP)
            if self.docker
            else (mediatypes.OCI_MANIFEST, mediatypes.OCI_CONFIG, mediatypes.OCI_LAYER_GZIP)
        )
        manifest = {"config": self.put(config, kinds[1]), "layers": [self.put(tar, kinds[2])]}
        return self.put({"schemaVersion": 2, "mediaType": kinds[0], **manifest}, kinds[0])

    def _attestation(self, subject: str) -> dict[str, Any]:
        config = {"architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": []}}
        statement = {"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"digest": subject}]}
        manifest = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": self.put(config, "application/vnd.example.attestation+json"),
            "layers": [self.put(statement, "application/vnd.in-toto+json")],
        }
        return self.put(manifest, mediatypes.OCI_MANIFEST)


@pytest.fixture
def many(tmp_path: Path) -> Many:
    """An index in a layout."""
    return Many(tmp_path / "layout")


@pytest.mark.parametrize(
    ("source", "target", "docker"),
    [
        *((a, b, False) for a in KINDS for b in KINDS),
        ("docker", "docker", True),
        ("oci-archive", "oci", True),
    ],
)
def test_between_every_pair_of_transports(
    tmp_path: Path, registry: str, source: str, target: str, docker: bool
) -> None:
    def name(kind: str, stem: str) -> str:
        return {
            "oci": f"oci:{tmp_path / stem}:1",
            "oci-archive": f"oci-archive:{tmp_path / stem}.tar:1",
            "docker": f"docker://{registry}/all/{source}-{target}-{stem}-{docker}:1".lower(),
        }[kind]

    many = Many(tmp_path / "layout", docker=docker)
    first = copy(many.name, name(source, "a"), everything=True)
    second = copy(name(source, "a"), name(target, "b"), everything=True)
    last = copy(name(target, "b"), f"oci:{tmp_path / 'end'}:1", everything=True)
    assert first.digest == second.digest == last.digest == many.index["digest"]
    assert last.media_type == many.index["mediaType"]
    assert tree_digest(tmp_path / "end" / "blobs") == tree_digest(many.layout.folder / "blobs")


def test_one_of_them_is_still_chosen_without_all(many: Many, tmp_path: Path, store: Store) -> None:
    copy(many.name, f"oci:{tmp_path / 'whole'}:1", everything=True)
    windows = many.manifests[0]["digest"]
    assert copy(f"oci:{tmp_path / 'whole'}:1", f"oci:{tmp_path / 'one'}:1").digest == windows
    assert store.load(f"oci:{tmp_path / 'whole'}:1", name="app:1").digest == windows


def test_skopeo_reads_what_was_copied_and_the_reverse(many: Many, tmp_path: Path, registry: str) -> None:
    def skopeo(*arguments: str) -> None:
        command = [require_tool("skopeo"), "--insecure-policy", "copy", "-q", "--all", *arguments]
        subprocess.run(command, check=True, timeout=60)

    ours, theirs = f"docker://{registry}/skopeo/ours:1", f"docker://{registry}/skopeo/theirs:1"
    copy(many.name, ours, everything=True)
    skopeo("--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests", ours, theirs)
    assert copy(theirs, f"oci:{tmp_path / 'end'}:1", everything=True).digest == many.index["digest"]
    assert tree_digest(tmp_path / "end" / "blobs") == tree_digest(many.layout.folder / "blobs")


def test_a_second_copy_sends_no_blob(many: Many, tmp_path: Path) -> None:
    copy(many.name, f"oci:{tmp_path / 'end'}:1", everything=True)
    before = {
        path: path.stat().st_ino for path in (tmp_path / "end").rglob("*") if path.parent.name == "sha256"
    }
    copy(many.name, f"oci:{tmp_path / 'end'}:2", everything=True)
    assert before == {
        path: path.stat().st_ino for path in (tmp_path / "end").rglob("*") if path.parent.name == "sha256"
    }


def test_a_single_image_is_copied_as_it_is(layout: Layout, tmp_path: Path) -> None:
    for target in (f"oci:{tmp_path / 'end'}:1", f"docker-archive:{tmp_path / 'end.tar'}:app:1"):
        assert copy(layout.name, target, everything=True).digest == layout.descriptor["digest"]
    with open_source(f"docker-archive:{tmp_path / 'end.tar'}") as source:
        assert [str(r) for r in source.offers()[0].references] == ["docker.io/library/app:1"]


def test_an_index_in_an_index(many: Many, tmp_path: Path) -> None:
    outer = many.put_index([many.index, many.manifests[0]])
    many.tag(outer)
    assert copy(many.name, f"oci:{tmp_path / 'end'}:1", everything=True).digest == outer["digest"]
    assert tree_digest(tmp_path / "end" / "blobs") == tree_digest(many.layout.folder / "blobs")


def test_a_docker_archive_holds_no_index(many: Many, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is for several platforms \(copy one of them with --platform"):
        copy(many.name, f"docker-archive:{tmp_path / 'end.tar'}:app:1", everything=True)
    assert not [path for path in tmp_path.iterdir() if path.name != "layout"]


def test_what_is_missing_or_damaged_leaves_nothing(many: Many, tmp_path: Path) -> None:
    linux = many.layout.blob(many.manifests[1]["digest"])
    layer = many.layout.blob(json.loads(linux.read_bytes())["layers"][0]["digest"])
    for victim in (layer, linux):
        good = victim.read_bytes()
        victim.write_bytes(good[:-1] + b"?")
        with pytest.raises(DigestMismatchError):
            copy(many.name, f"oci:{tmp_path / 'end'}:1", everything=True)
        victim.unlink()
        with pytest.raises(ImageNotFoundError):
            copy(many.name, f"oci:{tmp_path / 'end'}:1", everything=True)
        victim.write_bytes(good)
        assert not (tmp_path / "end").exists()


def test_too_deep_and_too_many(many: Many, tmp_path: Path) -> None:
    outer = many.index
    for _ in range(4):
        outer = many.put_index([outer])
    many.tag(outer)
    with pytest.raises(ImageError, match="nested more than"):
        copy(many.name, f"oci:{tmp_path / 'end'}:1", everything=True)
    kind = mediatypes.OCI_INDEX
    few = [{"schemaVersion": 2, "manifests": [], "n": n} for n in range(1000)]
    many.tag(many.put_index([many.put(document, kind) for document in few]))
    with pytest.raises(ImageError, match="more than 1000 manifests"):
        copy(many.name, f"oci:{tmp_path / 'end'}:1", everything=True)
    large = [json.dumps(document).encode() + b" " * (3 << 20) for document in few[:23]]
    many.tag(many.put_index([many.put(raw, kind) for raw in large]))
    with pytest.raises(ImageError, match="bytes of manifests"):
        copy(many.name, f"oci:{tmp_path / 'end'}:1", everything=True)
    assert not (tmp_path / "end").exists()


def test_the_command(many: Many, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["copy", "--all", many.name, f"oci:{tmp_path / 'end'}:1"]) == 0
    output = capsys.readouterr()
    assert output.out.strip() == many.index["digest"]
    assert "image 1/3, layer 1/" in output.err
    assert run(["copy", "--all", "--platform", "windows", many.name, f"oci:{tmp_path / 'x'}:1"]) == 2
