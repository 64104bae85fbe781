"""The portable service through its contract: what goes in comes out, and what fails leaves nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.tars import FILE, LayerTar, base_tar
from tests.support import PYTHON_APP, VECTORS, vector_cases
from winlayers import durable
from winlayers.errors import (
    FormatError,
    InvalidNameError,
    LayerContentError,
    LayerCorruptError,
    LayerExistsError,
    LayerInUseError,
    LayerNotFoundError,
    StoreError,
    TarTruncatedError,
)
from winlayers.graphdriver.windows.removal import remove_layer
from winlayers.layers import ChangeKind, DriverInfo, LayerChange
from winlayers.layers.portable.check import Checker, Finding
from winlayers.layers.portable.service import PortableLayerService
from winlayers.tar.header import TarHeader


@pytest.fixture
def service(tmp_path: Path) -> PortableLayerService:
    service = PortableLayerService(DriverInfo(str(tmp_path / "home")))
    service.check_home()
    return service


def contents(home: str) -> set[str]:
    """Every path in the store but locks."""
    return {
        os.path.relpath(os.path.join(root, name), home)
        for root, folders, files in os.walk(home)
        for name in [*folders, *files]
        if not name.endswith("lock")
    }


def put(service: PortableLayerService, layer_id: str, tar: bytes, *parents: str) -> int:
    return service.import_tar(layer_id, [service.layer_path(p) for p in parents], io.BytesIO(tar))


def make_first_format(service: PortableLayerService, layer_id: str) -> None:
    """Let the layer be as the first version made it: sizes with streams, an index of version 2."""
    folder = Path(service.layer_path(layer_id))
    record = json.loads((folder / "layer.json").read_bytes())
    with sqlite3.connect(folder / "index.db") as index:
        index.execute("UPDATE meta SET value = 2 WHERE key = 'version'")
        index.execute("DELETE FROM meta WHERE key = 'stream_size'")
        index.execute("UPDATE meta SET value = ? WHERE key = 'data_size'", (record["data_size"],))
    record["format"] = 1
    record["data_size"] += record.pop("stream_size")
    for name in ("own_digest", "index_digest", "side_digest", "parent"):
        del record[name]
    (folder / "layer.json").write_text(json.dumps(record))


class TestByteForByte:
    @pytest.mark.parametrize("tail", [b"", b"\0" * 4096, b"garbage after the end", b"\0" * 513])
    def test_what_follows_the_archive_stays(self, service: PortableLayerService, tail: bytes) -> None:
        tar = base_tar().file("Files/f", b"data").bytes() + tail
        put(service, "layer", tar)
        assert service.export_tar("layer", []).read() == tar
        assert service.store.record("layer").digest == f"sha256:{hashlib.sha256(tar).hexdigest()}"

    def test_a_tar_without_its_last_padding(self, service: PortableLayerService) -> None:
        tar = base_tar().file("Files/f", b"data" * 100).bytes()[:-1024]
        tar = tar[: len(tar) - (512 - 400)]
        put(service, "layer", tar)
        assert service.export_tar("layer", []).read() == tar
        assert os.stat(os.path.join(service.layer_path("layer"), "layer.tar")).st_size % 512 == 0
        with service.open_file("layer", "Files/f") as file:
            assert file.read() == b"data" * 100

    @pytest.mark.parametrize(
        "case",
        [case for case in vector_cases("backuptar") if (case / "in.tar").exists()],
        ids=lambda case: case.name,
    )
    def test_every_vector_that_is_taken_comes_out_the_same(
        self, service: PortableLayerService, case: Path
    ) -> None:
        tar = (case / "in.tar").read_bytes()
        service.create("parent", "")
        before = contents(service.info.home)
        try:
            size = put(service, "layer", tar)
        except (FormatError, LayerContentError):
            assert contents(service.info.home) == before
        else:
            assert service.export_tar("layer", []).read() == tar
            # Members of these types have their data here, and none in the reference (docs/compatibility.md).
            more = {"27-types": 16, "31-gnu-sparse-in": 10_000}.get(case.name, 0)
            assert size == json.loads((case / "index.json").read_bytes())["total_size"] + more

    @pytest.mark.parametrize(("name", "size"), [("base", 62), ("delta", 110)])
    def test_sizes_of_recorded_imports(self, service: PortableLayerService, name: str, size: int) -> None:
        tar = VECTORS / "hcs-traces" / f"{name}.tar"
        if not tar.exists():
            pytest.skip("recorded vectors are not at hand")
        if name != "base":
            put(service, "parent", tar.with_name("base.tar").read_bytes())
        parents = () if name == "base" else ("parent",)
        assert put(service, name, tar.read_bytes(), *parents) == size

    def test_a_record_of_the_first_format_is_brought_up(self, service: PortableLayerService) -> None:
        tar = base_tar().file("Files/f", b"12345", streams=[("s", b"67")]).bytes()
        put(service, "layer", tar)
        make_first_format(service, "layer")
        assert service.store.record("layer").data_size == 7
        facts = service.facts("layer")
        assert (facts["size"], facts["stream_size"]) == ("5", "2")
        assert service.store.record("layer").stream_size == 2
        assert service.export_tar("layer", []).read() == tar

    def test_reads_of_any_size_give_the_same(self, service: PortableLayerService) -> None:
        tar = base_tar().file("Files/f", os.urandom(3 << 20)).bytes()
        put(service, "layer", tar)
        stream = service.export_tar("layer", [])
        parts = []
        while part := stream.read(100_003):
            parts.append(part)
        stream.close()
        assert b"".join(parts) == tar

    def test_a_sparse_member_is_expanded_beside_the_tar(self, service: PortableLayerService) -> None:
        case = VECTORS / "backuptar" / "31-gnu-sparse-in"
        if not case.is_dir():
            pytest.skip("recorded vectors are not at hand")
        tar = (case / "in.tar").read_bytes()
        put(service, "layer", tar)
        assert service.export_tar("layer", []).read() == tar
        with service.open_file("layer", "Files/oldgnu") as file:
            data = file.read()
        assert len(data) == 10000
        assert data[512:4096] == bytes(4096 - 512)
        assert data[4096:4196] != bytes(100)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda: LayerTar().raw(TarHeader("../escape"), b"").bytes(), InvalidNameError),
            (lambda: LayerTar().raw(TarHeader("/absolute"), b"").bytes(), InvalidNameError),
            (lambda: LayerTar().raw(TarHeader("Files/a:b:c:d", size=0)).bytes(), LayerContentError),
            (
                lambda: LayerTar().raw(TarHeader("Files/no-file:stream", size=1), b"x").bytes(),
                LayerContentError,
            ),
            (lambda: base_tar().file("Files/f", b"x" * 2000).bytes()[:-2500], TarTruncatedError),
            (lambda: b"this is no tar at all" * 100, FormatError),
        ],
    )
    def test_a_bad_tar_is_named_and_leaves_nothing(
        self, service: PortableLayerService, make: object, error: type[Exception]
    ) -> None:
        before = contents(service.info.home)
        with pytest.raises(error, match="layer bad"):
            put(service, "bad", make())  # type: ignore[operator]  # a lambda of the table
        assert contents(service.info.home) == before
        assert not service.exists("bad")

    def test_a_source_that_fails_leaves_nothing(self, service: PortableLayerService) -> None:
        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 3000:
                    raise OSError("the network is gone")
                return super().read(min(size or 1000, 1000))

        before = contents(service.info.home)
        with pytest.raises(OSError, match="network"):
            service.import_tar("bad", [], Failing(base_tar().file("Files/f", bytes(9000)).bytes()))
        assert contents(service.info.home) == before

    def test_a_layer_that_is_there(self, service: PortableLayerService) -> None:
        put(service, "layer", base_tar().bytes())
        with pytest.raises(LayerExistsError):
            put(service, "layer", base_tar().file("Files/x").bytes())
        with pytest.raises(LayerExistsError):
            service.create("layer", "")

    def test_a_parent_that_is_not_there(self, service: PortableLayerService) -> None:
        with pytest.raises(LayerNotFoundError, match="missing"):
            put(service, "layer", base_tar().bytes(), "missing")

    @pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a\\b", ".tmp-1", "a\0b"])
    def test_ids_that_would_leave_the_home(self, service: PortableLayerService, bad: str) -> None:
        with pytest.raises(InvalidNameError):
            service.exists(bad)


class TestLife:
    def test_an_empty_layer_is_filled_and_keeps_its_alternate_id(self, service: PortableLayerService) -> None:
        service.create("layer", "")
        Path(service.layer_path("layer"), "layerID").write_text("other")
        assert service.exists("layer")
        put(service, "layer", base_tar().bytes())
        assert Path(service.layer_path("layer"), "layerID").read_text() == "other"

    def test_removal_is_refused_while_children_stand_on_it(self, service: PortableLayerService) -> None:
        put(service, "base", base_tar().bytes())
        put(service, "top", LayerTar().file("Files/f").bytes(), "base")
        with pytest.raises(LayerInUseError, match="top"):
            service.destroy("base")
        with pytest.raises(LayerInUseError):
            service.prepare_removal("base")
        service.destroy("top")
        service.prepare_removal("base")
        with pytest.raises(LayerNotFoundError, match="removed"):
            put(service, "late", LayerTar().file("Files/f").bytes(), "base")
        service.destroy("base")
        service.destroy("base")
        assert service.store.ids() == []

    def test_two_imports_at_once_end_with_one_good_layer(self, service: PortableLayerService) -> None:
        tar = base_tar().file("Files/f", os.urandom(1 << 20)).bytes()

        class Second(io.BytesIO):
            """While the first import reads, a second one of the same layer runs to its end."""

            started = False

            def read(self, size: int | None = -1, /) -> bytes:
                if not Second.started:
                    Second.started = True
                    put(service, "layer", tar)
                return super().read(size)

        assert service.import_tar("layer", [], Second(tar)) > 0
        assert service.export_tar("layer", []).read() == tar
        assert not [n for n in os.listdir(service.info.home) if n.startswith(".tmp")]

    def test_the_store_can_be_moved(self, service: PortableLayerService, tmp_path: Path) -> None:
        put(service, "base", base_tar().file("Files/f", b"1").bytes())
        put(service, "top", LayerTar().file("Files/g", b"2").bytes(), "base")
        os.rename(service.info.home, tmp_path / "moved")
        moved = PortableLayerService(DriverInfo(str(tmp_path / "moved")))
        with moved.views.open("top") as view:
            assert view.resolve("Files/f") is not None
        put(moved, "another", LayerTar().file("Files/h").bytes(), "top", "base")

    def test_work_of_a_process_that_is_gone_is_swept(self, service: PortableLayerService) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        leftover = Path(service.info.home, f".tmp-{gone.pid}-abc")
        mine = Path(durable.temporary_name(service.info.home))
        for folder in (leftover, mine):
            folder.mkdir()
            (folder / "layer.tar").write_bytes(b"half")
        service.check_home()
        assert not leftover.exists()
        assert mine.exists()

    def test_nobody_waits_for_a_layer_that_is_in_use(
        self, service: PortableLayerService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Opening a store cleans up after those who are gone, and there is nothing to wait for else."""
        put(service, "base", base_tar().bytes())
        service.activate("base")
        monkeypatch.setattr("winlayers.layers.portable.mounting._PATIENCE", 1000.0)
        with durable.FileLock(os.path.join(service.layer_path("base"), ".mount.lock")):
            PortableLayerService(service.info).check_home()
        service.deactivate("base")


class TestChanges:
    def changes(self, service: PortableLayerService, layer_id: str) -> dict[str, LayerChange]:
        return {c.path: c for c in service.changes(layer_id, [])}

    def test_additions_are_told_from_modifications(self, service: PortableLayerService) -> None:
        put(service, "base", base_tar().file("Files/f", b"1").file("Files/d/x").file("Files/d/y").bytes())
        tar = LayerTar().directory("FILES").file("files/F", b"22", streams=[("s", b"333")])
        tar.file("Files/new", b"4").remove("Files/d").remove("Files/nothing").link("Files/l", "Files/f")
        put(service, "top", tar.bytes(), "base")
        changes = self.changes(service, "top")
        assert {path: change.kind for path, change in changes.items()} == {
            "FILES": ChangeKind.MODIFY,
            "files/F": ChangeKind.MODIFY,
            "Files/new": ChangeKind.ADD,
            "Files/l": ChangeKind.ADD,
            "Files/d": ChangeKind.DELETE,
        }
        assert (changes["files/F"].size, changes["files/F"].stream_size) == (2, 3)
        assert changes["Files/d"].is_directory

    def test_what_is_deleted_and_made_again(self, service: PortableLayerService) -> None:
        put(service, "base", base_tar().file("Files/d/x").file("Files/d/y").bytes())
        tar = LayerTar().remove("Files/d").directory("Files/d").file("Files/d/y", b"new")
        put(service, "top", tar.bytes(), "base")
        assert {p: c.kind.value for p, c in self.changes(service, "top").items()} == {
            "Files/d": "C",
            "Files/d/x": "D",
            "Files/d/y": "C",
        }

    def test_a_base_layer_adds_all(self, service: PortableLayerService) -> None:
        put(service, "base", base_tar().bytes())
        assert {c.kind for c in service.changes("base", [])} == {ChangeKind.ADD}


class TestCheck:
    @pytest.fixture
    def damaged(self, service: PortableLayerService) -> PortableLayerService:
        put(service, "base", base_tar().file("Files/f", os.urandom(5000)).bytes())
        put(service, "top", LayerTar().file("Files/g", b"g").bytes(), "base")
        service.views.open("top").close()
        return service

    def run(self, service: PortableLayerService, *, repair: bool = False, **more: object) -> list[Finding]:
        checker = Checker(service.store, service.views, service.mounts, repair=repair, **more)  # type: ignore[arg-type]
        return list(checker.run())

    def file(self, service: PortableLayerService, name: str, layer: str = "base") -> Path:
        return Path(service.layer_path(layer), name)

    def test_a_good_store_is_clean(self, damaged: PortableLayerService) -> None:
        assert self.run(damaged) == []

    def test_a_changed_byte(self, damaged: PortableLayerService) -> None:
        path = self.file(damaged, "layer.tar")
        data = bytearray(path.read_bytes())
        data[-3000] ^= 1
        path.write_bytes(data)
        (finding,) = self.run(damaged, repair=True)
        assert (finding.layer, finding.path, finding.mended) == ("base", "layer.tar", False)
        assert "digest" in finding.problem
        assert self.run(damaged, deep=False) == []

    def test_a_truncated_and_a_missing_tar_come_back_from_outside(
        self, damaged: PortableLayerService
    ) -> None:
        path = self.file(damaged, "layer.tar")
        good = path.read_bytes()

        def restore(layer_id: str, digest: str, target: str) -> bool:
            Path(target).write_bytes(good)
            return layer_id == "base"

        for harm in (lambda: path.write_bytes(good[:3000]), path.unlink):
            harm()
            (finding,) = self.run(damaged)
            assert not finding.mended
            (finding,) = self.run(damaged, repair=True, restore=restore)
            assert finding.mended
            assert self.run(damaged) == []

    @pytest.mark.parametrize("name", ["index.db", "view.db"])
    def test_a_damaged_or_missing_derived_file(self, damaged: PortableLayerService, name: str) -> None:
        path = self.file(damaged, name, "top")
        for data in (b"", b"garbage" * 999):
            path.write_bytes(data)
            (finding,) = self.run(damaged)
            assert (finding.layer, finding.path) == ("top", name)
            (finding,) = self.run(damaged, repair=True)
            assert finding.mended
            assert self.run(damaged) == []
        with damaged.views.open("top") as view:
            assert view.resolve("Files/f") is not None

    def test_a_layer_of_the_first_format(self, damaged: PortableLayerService) -> None:
        """It works; what can't be verified is told once, and mended by use as well as by repair."""
        for layer_id in ("base", "top"):
            make_first_format(damaged, layer_id)
        assert [(f.layer, f.path, f.problem) for f in self.run(damaged)] == [
            (layer_id, "index.db", "the index is of another version") for layer_id in ("base", "top")
        ]
        with damaged.open_file("base", "Files/f") as file:
            assert len(file.read()) == 5000
        assert [f.layer for f in self.run(damaged)] == ["top"]
        (finding,) = self.run(damaged, repair=True)
        assert (finding.layer, finding.mended) == ("top", True)
        assert self.run(damaged) == []
        assert damaged.store.record("top").parent == "base"

    def test_a_broken_chain(self, damaged: PortableLayerService) -> None:
        chain = self.file(damaged, "layerchain.json", "top")
        chain.write_text(json.dumps([damaged.layer_path("nobody")]))
        assert "nobody" in self.run(damaged)[0].problem
        chain.write_text(json.dumps([damaged.layer_path("top")]))
        assert "names top where base is due" in self.run(damaged)[0].problem
        chain.write_text("{")
        assert "can't be read" in self.run(damaged)[0].problem

    def test_extra_files_and_leftovers(self, damaged: PortableLayerService) -> None:
        self.file(damaged, "stranger").write_text("?")
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        Path(damaged.info.home, f".tmp-{gone.pid}-x").mkdir()
        found = {f.path: f for f in self.run(damaged, repair=True)}
        assert not found["stranger"].mended
        assert found[f".tmp-{gone.pid}-x"].mended

    def test_an_unreadable_record(self, damaged: PortableLayerService) -> None:
        self.file(damaged, "layer.json", "top").write_text("[]")
        assert any(f.layer == "top" and f.path == "layer.json" for f in self.run(damaged))
        with pytest.raises(LayerCorruptError, match="layer top"):
            damaged.export_tar("top", [])


def layers_of_python_app() -> Iterator[tuple[str, bytes]]:
    import gzip

    blobs = PYTHON_APP / "blobs" / "sha256"
    index = json.loads((PYTHON_APP / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        yield diff_id, gzip.decompress((blobs / layer["digest"][7:]).read_bytes())


def test_a_real_image(service: PortableLayerService) -> None:
    if not PYTHON_APP.is_dir():
        pytest.skip("the recorded image is not at hand")
    parents: list[str] = []
    for number, (diff_id, tar) in enumerate(layers_of_python_app()):
        put(service, f"l{number}", tar, *parents)
        parents.insert(0, f"l{number}")
        assert service.store.record(f"l{number}").digest == diff_id
    with service.views.open("l2") as view:
        drive = view.drive
        assert drive is not None
        names = [node.name for node in view.children(drive.id)]
        assert [n for n in names if n.upper() == "WINDOWS"] == ["Windows"]
        win_ini = view.resolve("Windows/win.ini", drive.id)
        assert win_ini is not None
        assert win_ini.is_directory
        globalization = view.resolve("Windows/Globalization", drive.id)
        assert globalization is not None
        assert [node.name for node in view.children(globalization.id)] == ["new.nls"]
        assert view.resolve("Windows/System32/msimsg.dll", drive.id) is None
        again = view.resolve("Windows/System32/again-normaliz.dll", drive.id)
        assert again is not None
        inode = view.inode(again.inode)
        assert view.layers[inode.layer].name == "l0"
        assert view.read(inode.extent)[:2] == b"MZ"


class TestTransportFolder:
    def test_out_and_in_again_is_the_same_layer(self, service: PortableLayerService, tmp_path: Path) -> None:
        put(service, "base", base_tar().file("Files/gone").file("Files/below", b"b").bytes())
        tar = base_tar().file("Files/f", b"data", FILE, [("s", b"stream")]).file("Files/ünï", b"u")
        tar.link("Files/l", "Files/f").link("Files/into-parent", "Files/below").remove("Files/gone")
        tar.file("Hives/System_Delta", b"hive")
        put(service, "top", tar.bytes(), "base")
        folder = tmp_path / "folder"
        folder.mkdir()
        service.export_folder("top", str(folder), [])
        tombstones = (folder / "tombstones.txt").read_bytes()
        assert tombstones == b"\xef\xbb\xbfVersion 1.0\n\\gone\n"
        assert (folder / "Files" / "f").read_bytes()[:4] == b"\x20\0\0\0"
        assert (folder / "Files.$wcidirs$").is_file()
        assert (folder / "Hives" / "System_Delta").read_bytes() == b"hive"
        service.import_folder("again", str(folder), [service.layer_path("base")])
        with service.views.open("again") as again, service.views.open("top") as top:
            for path in ("Files/f", "Files/l", "Files/into-parent", "Files/ünï"):
                one, two = again.resolve(path), top.resolve(path)
                assert one is not None
                assert two is not None
                left, right = again.inode(one.inode), top.inode(two.inode)
                assert again.read(left.extent) == top.read(right.extent)
                assert [(s.name, again.read(s.extent)) for s in left.streams] == [
                    (s.name, top.read(s.extent)) for s in right.streams
                ]
                assert left.metadata.attributes == right.metadata.attributes
                assert left.metadata.write_time == right.metadata.write_time
            assert again.resolve("Files/gone") is None


def test_a_removal_that_fails_leaves_a_layer_that_works(
    service: PortableLayerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(service, "base", base_tar().bytes())

    def denied(source: str, target: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", denied)
        with pytest.raises(StoreError):
            remove_layer(service, "base")
    put(service, "top", LayerTar().file("Files/f").bytes(), "base")


def test_files_are_found_in_whatever_case(service: PortableLayerService) -> None:
    put(service, "base", base_tar().file("Files/Some.txt", b"1").file("Files/SOME.TXT", b"2").bytes())
    for path, data in (("Files/Some.txt", b"1"), ("Files/SOME.TXT", b"2"), ("files/some.txt", b"2")):
        with service.open_file("base", path) as file:
            assert file.read() == data
    with pytest.raises(LayerContentError):
        service.open_file("base", "Files/other")
