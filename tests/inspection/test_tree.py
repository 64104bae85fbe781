"""Images looked into where they lie, in a store, and as containers: the same tree each time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inspection.layers import DIRECTORY, File, Link, layer_tar, write_image
from tests.support import PYTHON_APP
from winlayers.errors import (
    DigestMismatchError,
    ImageNotFoundError,
    LayerCorruptError,
    PathNotFoundError,
    WinlayersError,
)
from winlayers.images.documents import Descriptor
from winlayers.images.transports.oci_layout import LayoutSource
from winlayers.inspection import Entry, EntryType, Tree, open_image
from winlayers.inspection.blobview import BlobView, open_at
from winlayers.store import Store
from winlayers.testing.sample_image import TAG, write_sample_image
from winlayers.win32.reparse import MountPoint, SymbolicLink


def everything(tree: Tree) -> dict[str, object]:
    """All that the tree shows, data included."""
    found: dict[str, object] = {}
    for entry in tree.walk(tree.root(layer_root=True)):
        data = None if entry.inode.is_directory else tree.read(entry)
        streams = {s.name: tree.read(entry, s.name) for s in entry.inode.streams}
        links = tuple(tree.links(entry))
        layer = tree.layer_of(entry)
        number = None if layer is None else layer.number
        found[entry.path] = (entry.type, entry.metadata, data, streams, links, entry.inode.nlink, number)
    return found


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_in_place_and_imported_are_the_same(tmp_path: Path, store: Store, compression: str) -> None:
    write_sample_image(tmp_path / "layout", compression=compression)
    name = f"oci:{tmp_path / 'layout'}:{TAG}"
    with open_image(name, cache=tmp_path / "cache") as tree:
        in_place = everything(tree)
        assert [layer.created_by for layer in tree.layers][2] == "ADD app /app"
    assert not store.images.images()
    store.load(name, name="app:1")
    with open_image("app:1", store=store) as tree:
        assert tree.kind == "image"
        assert everything(tree) == in_place
    assert not (store.root / "cache").exists(), "an imported image needs no cache"
    store.create("app:1", name="web")
    with open_image("web", store=store) as tree:
        assert tree.kind == "container"
        assert everything(tree) == in_place
        assert tree.layers[-1].is_scratch


def test_the_recorded_image(tmp_path: Path, store: Store) -> None:
    if not PYTHON_APP.is_dir():
        pytest.skip(f"the recorded image is not at {PYTHON_APP}")
    name = f"oci:{PYTHON_APP}:3.13"
    with open_image(name, store=store) as tree:
        in_place = everything(tree)
    store.load(name, name="python-app:3.13")
    with open_image("python-app:3.13", store=store) as tree:
        assert everything(tree) == in_place
    assert len(in_place) > 1000


def test_a_second_look_reads_no_blob(tmp_path: Path) -> None:
    write_sample_image(tmp_path / "layout")
    name = f"oci:{tmp_path / 'layout'}:{TAG}"
    cache = tmp_path / "cache"
    with open_image(name, cache=cache) as tree:
        before = [entry.path for entry in tree.walk(tree.root())]
        for layer in tree.layers:
            assert layer.blob is not None
            (tmp_path / "layout" / "blobs" / layer.blob.digest.replace(":", "/")).unlink()
    with open_image(name, cache=cache) as tree:
        assert [entry.path for entry in tree.walk(tree.root())] == before
        with pytest.raises(ImageNotFoundError):
            tree.read(tree.find("/Windows/win.ini"))


def test_one_small_file_of_a_large_layer(tmp_path: Path) -> None:
    block = bytes(range(256)) * 16
    noise = [os.urandom(200_000) + block * 50 for _ in range(40)]
    entries: list[tuple[str, File | Link | None]] = [("Files", DIRECTORY)]
    entries += [(f"Files/{number:02}.bin", File(data)) for number, data in enumerate(noise)]
    name = write_image(tmp_path / "layout", "x", [layer_tar([*entries, ("Files/last.txt", File(b"last"))])])
    with open_image(name, cache=tmp_path / "cache") as tree:
        pass
    with open_image(name, cache=tmp_path / "cache") as tree:
        assert tree.read(tree.find("/last.txt")) == b"last"
        assert isinstance(tree.view, BlobView)
        (blob,) = tree.view.blobs
        assert blob.size > 16_000_000
        assert blob.bytes_inflated < 8_000_000
        assert tree.read(tree.find("/20.bin"), offset=5, size=100) == noise[20][5:105]


def test_a_damaged_blob_is_refused(tmp_path: Path) -> None:
    write_sample_image(tmp_path / "layout")
    blobs = sorted((tmp_path / "layout" / "blobs" / "sha256").iterdir(), key=lambda p: -p.stat().st_size)
    data = bytearray(blobs[0].read_bytes())
    data[len(data) // 2] ^= 1
    blobs[0].write_bytes(data)
    with pytest.raises(DigestMismatchError):
        open_image(f"oci:{tmp_path / 'layout'}:{TAG}", cache=tmp_path / "cache")
    assert [
        p.name for p in (tmp_path / "cache" / "blobs").iterdir() if p.name.startswith(blobs[0].name)
    ] == []


def test_a_damaged_cache_is_made_again(sample: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with open_image(sample, cache=cache) as tree:
        before = everything(tree)
    for path in (cache / "blobs").rglob("*.db"):
        path.write_bytes(b"damaged")
    with open_image(sample, cache=cache) as tree:
        assert everything(tree) == before


def test_without_a_cache_nothing_stays(sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))
    with open_image(sample) as tree:
        assert tree.read(tree.find("/app/app.config.json")) == b'{"listen": 8080}\n'
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))
    name = write_image(tmp_path / "layout", "x", [b"no tar at all" * 100])
    with pytest.raises(WinlayersError):
        open_image(name)
    assert [p.name for p in tmp_path.iterdir()] == ["layout"]


class TestFinding:
    @pytest.mark.parametrize(
        "path", ["/Windows/win.ini", r"C:\WINDOWS\Win.INI", "c:/windows//WIN.ini", "Windows/x/../win.ini"]
    )
    def test_spellings(self, tree: Tree, path: str) -> None:
        entry = tree.find(path)
        assert entry.shown == "/Windows/win.ini"
        assert tree.read(entry).startswith(b"; for 16-bit")

    def test_through_a_junction(self, tree: Tree) -> None:
        entry = tree.find("/documents and settings/public/notes.txt")
        assert entry.shown == "/Users/Public/notes.txt"

    def test_the_last_link(self, tree: Tree) -> None:
        assert tree.find("/Documents and Settings").shown == "/Users"
        link = tree.find("/Documents and Settings", follow=False)
        assert (link.type, link.target) == (EntryType.JUNCTION, r"C:\Users")
        assert tree.find("/Users/All Users.lnk").shown == "/ProgramData"
        assert tree.find("/Users/All Users.lnk", follow=False).type is EntryType.SYMLINK

    def test_the_root(self, tree: Tree) -> None:
        assert [e.name for e in tree.children(tree.find("/"))] == [
            "app",
            "Documents and Settings",
            "ProgramData",
            "Users",
            "Windows",
        ]
        names = [e.name for e in tree.children(tree.find("/", layer_root=True))]
        assert names == ["Files", "Hives", "UtilityVM"]
        assert tree.find("/Hives/sam_delta", layer_root=True).shown == "Hives/Sam_Delta"

    def test_streams(self, tree: Tree) -> None:
        entry, stream = tree.find_stream("/Users/Public/notes.txt:zone.identifier")
        assert stream == "Zone.Identifier"
        assert tree.read(entry, stream) == b"[ZoneTransfer]\r\nZoneId=3\r\n"
        with pytest.raises(PathNotFoundError, match="no stream 'other'"):
            tree.find_stream("/Users/Public/notes.txt:other")

    @pytest.mark.parametrize(
        ("path", "named"),
        [("/nope", "/nope"), ("/Windows/nope/deeper", "/Windows/nope"), ("/Windows/win.ini/x", "win.ini/x")],
    )
    def test_what_is_not_there(self, tree: Tree, path: str, named: str) -> None:
        with pytest.raises(PathNotFoundError, match=named):
            tree.find(path)

    def test_a_directory_has_no_data(self, tree: Tree) -> None:
        with pytest.raises(PathNotFoundError, match="is a directory"):
            tree.read(tree.find("/Windows"))

    def test_hard_links_and_layers(self, tree: Tree) -> None:
        entry = tree.find("/Windows/System32/cmd.exe")
        assert tree.links(entry) == sorted(
            [
                "Files/Windows/System32/cmd.exe",
                "Files/Windows/System32/cmd-copy.exe",
                "Files/Windows/WinSxS/amd64_kernel_10.0.20348.1/cmd.exe",
            ]
        )
        layer = tree.layer_of(tree.find("/Windows/System32/kernel32.dll"))
        assert layer is not None
        assert layer.number == 2

    def test_reading_as_a_file(self, tree: Tree) -> None:
        entry = tree.find("/app/app.exe")
        whole = tree.read(entry)
        with tree.open(entry) as file:
            assert file.read(10) == whole[:10]
            file.seek(-7, os.SEEK_END)
            assert file.read() == whole[-7:]
            file.seek(1000)
            assert file.read(5) == whole[1000:1005]


def link(target: str, *, directory: bool = False) -> File:
    return File(None if directory else b"", reparse=SymbolicLink.to(target).to_bytes())


def test_links_that_lead_in_circles_or_out(tmp_path: Path) -> None:
    entries: list[tuple[str, File | Link | None]] = [
        ("Files", DIRECTORY),
        ("Files/a", link("b")),
        ("Files/b", link("a")),
        ("Files/out", File(None, reparse=MountPoint.to("D:\\elsewhere").to_bytes())),
        ("Files/up", link("..\\..\\..\\real", directory=True)),
        ("Files/real", DIRECTORY),
        ("Files/real/file", File(b"here")),
    ]
    name = write_image(tmp_path / "layout", "x", [layer_tar(entries)])
    with open_image(name, cache=tmp_path / "cache") as tree:
        with pytest.raises(PathNotFoundError, match="too many links"):
            tree.find("/a")
        assert tree.find("/a", follow=False).type is EntryType.SYMLINK
        with pytest.raises(PathNotFoundError, match="leads out of"):
            tree.find("/out/x")
        assert tree.find("/out").type is EntryType.JUNCTION
        assert tree.read(tree.find("/UP/file")) == b"here"


def test_what_a_layer_deletes_a_link_may_still_mean(tmp_path: Path) -> None:
    layers = [
        layer_tar([("Files", DIRECTORY), ("Files/old", File(b"kept"))]),
        layer_tar([("Files", DIRECTORY), ("Files/old", None)]),
        layer_tar([("Files", DIRECTORY), ("Files/new", Link("Files/old"))]),
    ]
    name = write_image(tmp_path / "layout", "x", layers)
    with open_image(name, cache=tmp_path / "cache") as tree:
        assert [e.name for e in tree.children(tree.root())] == ["new"]
        assert tree.read(tree.find("/new")) == b"kept"


class TestStore:
    def test_names(self, store: Store, sample: str) -> None:
        store.load(sample, name="app:1")
        store.create("app:1", name="app")
        for name, kind in (("app", "container"), ("image:app:1", "image"), ("container:app", "container")):
            with open_image(name, store=store) as tree:
                assert tree.kind == kind
        layer = store.layers("app:1")[1]
        with open_image(f"layer:{layer.id[:12]}", store=store) as tree:
            assert tree.kind == "layer"
            assert len(tree.layers) == 2
            assert tree.layers[1].created_by.startswith("Install update")
            with pytest.raises(PathNotFoundError):
                tree.find("/app")
        with pytest.raises(ImageNotFoundError, match="no such image, container or layer: nope"):
            open_image("nope", store=store)

    def test_an_image_whose_layers_are_not_imported(self, store: Store, sample: str) -> None:
        image = store.load(sample, name="app:1")
        for identifier in reversed(image.layer_ids):
            store.driver.remove(identifier)
        with open_image("app:1", store=store) as tree:
            assert isinstance(tree.view, BlobView)
            assert tree.read(tree.find("/app/app.config.json")) == b'{"listen": 8080}\n'

    def test_a_container_with_changes(self, store: Store, sample: str) -> None:
        store.load(sample, name="app:1")
        store.create("app:1", name="web")
        drive = Path(store.mount("web"))
        (drive / "app" / "app.config.json").write_bytes(b"changed")
        (drive / "app" / "new.txt").write_bytes(b"new")
        (drive / "Windows" / "win.ini").unlink()
        shutil.rmtree(drive / "Users" / "Public")
        (drive / "many").mkdir()
        for number in range(20):
            (drive / "many" / f"{number}.txt").write_bytes(b"%d" % number)
        with open_image("web", store=store) as tree:
            self._check(tree)
        store.unmount("web")
        with open_image("web", store=store) as tree:
            self._check(tree)
            assert tree.read(tree.find("/app/new.txt"), offset=1, size=1) == b"e"
            assert tree.read(tree.find("/app/app.exe"))[:2] == b"MZ"
        with open_image("app:1", store=store) as tree:
            assert tree.read(tree.find("/app/app.config.json")) == b'{"listen": 8080}\n'

    @staticmethod
    def _check(tree: Tree) -> None:
        assert tree.read(tree.find("/app/app.config.json")) == b"changed"
        assert tree.read(tree.find("/app/new.txt")) == b"new"
        layer = tree.layer_of(tree.find("/app/new.txt"))
        assert layer is not None
        assert layer.is_scratch
        for path in ("/Windows/win.ini", "/Users/Public"):
            with pytest.raises(PathNotFoundError):
                tree.find(path)
        for number in range(20):
            assert tree.read(tree.find(f"/many/{number}.txt")) == b"%d" % number


class Ranged(LayoutSource):
    """A source that gives ranges, as a registry does, and counts the bytes."""

    given = 0

    def read_range(self, descriptor: Descriptor, offset: int, size: int) -> bytes | None:
        with self.open_blob(descriptor) as file:
            file.seek(offset)
            data = file.read(size)
        self.given += len(data)
        return data


@pytest.fixture
def ranged(sample: str) -> Iterator[Ranged]:
    folder, _, tag = sample.removeprefix("oci:").rpartition(":")
    with Ranged(folder, tag) as source:
        yield source


def test_ranges_are_used_where_a_source_has_them(ranged: Ranged) -> None:
    from winlayers.images.importer import resolve

    blob = resolve(ranged, ranged.offers()[0].descriptor).manifest.layers[0]
    with ranged.open_blob(blob) as whole:
        data = whole.read()
    with open_at(ranged, blob)(1000) as file:
        assert file.read(500) == data[1000:1500]
        assert file.read() == data[1500:]
    assert ranged.given == len(data) - 1000


def test_data_that_is_gone_is_told(tmp_path: Path, store: Store, sample: str) -> None:
    image = store.load(sample, name="app:1")
    (store.root / "layers" / image.layer_ids[0] / "layer.tar").write_bytes(b"")
    with open_image("app:1", store=store) as tree, pytest.raises(LayerCorruptError):
        tree.read(tree.find("/Windows/win.ini"))


def test_entries_are_small_and_stand_for_themselves(tree: Tree) -> None:
    entry: Entry = tree.find("/Users/Public/notes.txt")
    assert entry.total_size == entry.size + 26 + 15
    assert tree.find("/users/public/NOTES.TXT") == entry
