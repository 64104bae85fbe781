"""Layers made to hurt: deep, long, many of the same, linked in circles; refused, or taken in linear time."""

from __future__ import annotations

import io
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.layers.tars import LayerTar, base_tar
from tests.tar.mutations import pax_member, raw_header
from winlayers import durable
from winlayers.errors import LayerContentError, WinlayersError
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo, EntryKind
from winlayers.tar.header import TarHeader
from winlayers.testing.tars import Member, make_tar


@pytest.fixture
def service(tmp_path: Path) -> PortableLayerService:
    service = PortableLayerService(DriverInfo(str(tmp_path / "home")))
    service.check_home()
    return service


def put(service: PortableLayerService, layer_id: str, tar: bytes, *parents: str) -> int:
    return service.import_tar(layer_id, [service.layer_path(p) for p in parents], io.BytesIO(tar))


def seconds(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def growth(measure: Callable[[int], float], small: int) -> float:
    """How many times longer it takes for four times as much; the least of some attempts."""
    return min(measure(4 * small) / max(measure(small), 0.005) for _ in range(3))


LINEAR = 10.0
"""Four times as much may take so many times longer; what is quadratic takes 16 times as long."""


class TestSizes:
    @pytest.mark.parametrize("at", [0, 5, (1 << 63) - 2], ids=["no data", "data first", "data last"])
    @pytest.mark.parametrize("before", [False, True], ids=["alone", "behind another"])
    def test_a_sparse_file_of_all_63_bits(self, service: PortableLayerService, at: int, before: bool) -> None:
        stored = bytes(bool(at))
        records = [("GNU.sparse.size", f"{(1 << 63) - 1}"), ("GNU.sparse.numblocks", "1")]
        records += [("GNU.sparse.map", f"{at},{len(stored)}")]
        tar = pax_member(records, raw_header(b"Files/huge", b"0", len(stored)), stored)
        if before:
            small = [("GNU.sparse.size", "9"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "5,1")]
            tar = pax_member(small, raw_header(b"Files/small", b"0", 1), b"x") + tar
        with pytest.raises(LayerContentError, match="is larger than the store's file system holds"):
            put(service, "layer", tar + bytes(1024))
        assert not service.exists("layer")


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            pytest.param("Files/" + "a/" * 1_000_000 + "f", id="a million levels"),
            pytest.param("Files/" + "n" * 40_000, id="a long name"),
            pytest.param("Files/" + "\U0001f600" * 16_381, id="surrogate pairs"),
        ],
    )
    def test_a_path_that_is_too_long(self, service: PortableLayerService, path: str) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(WinlayersError) as caught:
            put(service, "bad", LayerTar().raw(TarHeader(path)).bytes())
        assert len(str(caught.value)) < 1000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
        assert service.store.ids() == []

    def test_the_longest_path_there_is(self, service: PortableLayerService) -> None:
        folder = "Files/" + "a/" * 16_379 + "a"
        path = f"{folder}/f"
        assert len(path) == 32_767
        tar = make_tar(Member(path, b"deep"), Member("Files/link", link=path))
        put(service, "base", tar)
        put(service, "top", make_tar(Member(f"{folder}/.wh.f"), Member(f"{folder}/g", b"g")), "base")
        with service.views.open("top") as view:
            assert view.resolve(path) is None
            node = view.resolve(f"{folder}/g")
            assert node is not None
            assert view.path_of(node) == f"{folder}/g"
            assert sum(1 for _ in view.walk()) == 16_380 + 3
        assert [c.path for c in service.changes("top", [])] == [path, f"{folder}/g"]
        with service.open_reader("base", []) as reader:
            entries = [entry for entry, _ in reader]
        assert sum(entry.kind is EntryKind.DIRECTORY for entry in entries) == 16_381

    def test_long_paths_take_no_memory_for_each_of_their_parents(self, service: PortableLayerService) -> None:
        """The parents of each of these files have paths of 16 MB together."""
        deep = "a/" * 4000
        files = [Member(f"Files/{n}/{deep}f", b"f") for n in range(4)]
        tar = make_tar(*files, Member("Files/link", link=f"Files/0/{deep}f"))

        def read() -> int:
            with service.open_reader("base", []) as reader:
                return sum(1 for _ in reader)

        uses: list[tuple[Callable[[], int], int]] = [
            (lambda: put(service, "base", tar), 4),
            (read, 1 + 4 * 4002 + 1),
            (lambda: len(list(service.changes("base", []))), 5),
        ]
        for use, result in uses:
            tracemalloc.start()
            try:
                assert use() == result
                assert tracemalloc.get_traced_memory()[1] < 8 << 20
            finally:
                tracemalloc.stop()

    def test_files_far_down_in_two_folders_in_turn(self, service: PortableLayerService) -> None:
        numbers = iter(range(1000))

        def measure(depth: int) -> float:
            files = [Member(f"Files/{n % 2}/{'a/' * depth}{n}", b"f") for n in range(30)]
            tar = make_tar(*files, Member("Files/link", link=files[0].name))
            return seconds(lambda: put(service, f"layer-{next(numbers)}", tar))

        assert growth(measure, 4000) < LINEAR

    @pytest.mark.parametrize(
        "name", ["Files/a\0b", "Files/a:b/c", "Files//../../x", "\\\\server\\share", "C:/x"]
    )
    def test_what_is_no_path(self, service: PortableLayerService, name: str) -> None:
        with pytest.raises(WinlayersError):
            put(service, "bad", make_tar(Member("Files/f", pax={"path": name})))
        assert service.store.ids() == []


class TestManyOfTheSame:
    def test_one_path_again_and_again(self, service: PortableLayerService) -> None:
        numbers = iter(range(1000))

        def measure(count: int) -> float:
            layer_id = f"layer-{next(numbers)}"
            members = [Member("Files/same", b"%d" % n) for n in range(count)]
            put(service, layer_id, make_tar(*members))
            took = seconds(lambda: service.views.open(layer_id).close())
            with service.views.open(layer_id) as view:
                node = view.resolve("Files/same")
                assert node is not None
                assert view.read(view.inode(node.inode).extent) == b"%d" % (count - 1)
                assert view.count() == 2
            return took

        assert growth(measure, 1000) < LINEAR

    def test_a_file_and_a_folder_in_turn(self, service: PortableLayerService) -> None:
        numbers = iter(range(1000))

        def measure(count: int) -> float:
            layer_id = f"layer-{next(numbers)}"
            turns = [(Member("Files/x", b"f"), Member("Files/x/in/it", b"g")) for _ in range(count)]
            put(service, layer_id, make_tar(*(member for turn in turns for member in turn)))
            took = seconds(lambda: service.views.open(layer_id).close())
            with service.views.open(layer_id) as view:
                assert view.count() == 4
            return took

        assert growth(measure, 500) < LINEAR

    def test_many_streams_of_one_file(self, service: PortableLayerService) -> None:
        members = [Member("Files/f", b"x"), *(Member(f"Files/f:s{n}", b"%d" % n) for n in range(5000))]
        put(service, "base", make_tar(*members))
        with service.views.open("base") as view:
            node = view.resolve("Files/f")
            assert node is not None
            streams = view.inode(node.inode).streams
            assert len(streams) == 5000
            assert view.read(streams[-1].extent) == b"4999"

    def test_another_descriptor_for_each_file(
        self, service: PortableLayerService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("winlayers.layers.portable.index._MOST_DESCRIPTORS", 1000)
        import base64
        import struct

        descriptors = [
            b"\1\0\4\x80\x14\0\0\0\x24\0\0\0\0\0\0\0\0\0\0\0"
            + b"\1\2\0\0\0\0\0\5\x20\0\0\0" + struct.pack("<I", n)
            + b"\1\1\0\0\0\0\0\5\x12\0\0\0"
            for n in range(100)
        ]  # fmt: skip
        members = [
            Member(
                f"Files/{n}", pax={"MSWINDOWS.rawsd": base64.b64encode(descriptors[n % 100]).decode("ascii")}
            )
            for n in range(300)
        ]
        put(service, "base", make_tar(*members))
        with service.open_reader("base", []) as reader:
            found = {
                e.path: e.metadata.security for e, _ in reader if e.metadata and e.kind is EntryKind.FILE
            }
        assert found == {f"Files/{n}": descriptors[n % 100] for n in range(300)}


class TestLinks:
    def test_links_to_links_in_the_worst_order(self, service: PortableLayerService) -> None:
        numbers = iter(range(1000))

        def measure(count: int) -> float:
            layer_id = f"layer-{next(numbers)}"
            links = [Member(f"Files/{n}", link=f"Files/{n + 1}") for n in range(count)]
            put(service, layer_id, make_tar(*links, Member(f"Files/{count}", b"end")))
            took = seconds(lambda: service.views.open(layer_id).close())
            with service.views.open(layer_id) as view:
                node = view.resolve("Files/0")
                assert node is not None
                assert view.inode(node.inode).nlink == count + 1
            return took

        assert growth(measure, 1000) < LINEAR

    def test_links_into_what_a_layer_between_deletes(self, service: PortableLayerService) -> None:
        numbers = iter(range(1000))

        def measure(count: int) -> float:
            base, middle, top = (f"{name}-{next(numbers)}" for name in ("base", "middle", "top"))
            put(service, base, make_tar(*(Member(f"Files/d/{n}", b"%d" % n) for n in range(count))))
            put(service, middle, make_tar(Member("Files/.wh.d")), base)
            # Spelled otherwise, so that the index can't be asked for just this path.
            links = make_tar(*(Member(f"Files/l{n}", link=f"Files/D/{n}") for n in range(count)))
            took = seconds(lambda: put(service, top, links, middle, base))
            took += seconds(lambda: service.views.open(top).close())
            with service.views.open(top) as view:
                node = view.resolve(f"Files/l{count - 1}")
                assert node is not None
                assert view.read(view.inode(node.inode).extent) == b"%d" % (count - 1)
            return took

        assert growth(measure, 400) < LINEAR

    def test_a_long_chain_of_links_in_a_parent_that_is_deleted(self, service: PortableLayerService) -> None:
        links = [Member(f"Files/d/{n}", link=f"Files/d/{n + 1}") for n in range(3000)]
        put(service, "base", make_tar(*links, Member("Files/d/3000", b"end")))
        put(service, "middle", make_tar(Member("Files/.wh.d")), "base")
        put(service, "top", make_tar(Member("Files/x", link="Files/d/0")), "middle", "base")
        with service.views.open("top") as view:
            node = view.resolve("Files/x")
            assert node is not None
            assert view.read(view.inode(node.inode).extent) == b"end"


@pytest.mark.skipif(sys.platform == "win32", reason="such folders can't be made there")
class TestDeepFolders:
    @pytest.fixture
    def top(self, tmp_path: Path) -> Iterator[Path]:
        """A folder that is gone in the end: what is left of such a one stops pytest's own cleaning up."""
        top = tmp_path / "top"
        top.mkdir()
        yield top
        durable.remove_tree(str(top))

    @staticmethod
    def deep(top: Path, levels: int) -> None:
        """A folder deeper than paths, calls and open files can go."""
        fd = os.open(top, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
            os.close(fd)
            fd = below
        os.close(fd)

    def test_a_deep_folder_is_removed(self, top: Path, tmp_path: Path) -> None:
        self.deep(top, 5000)
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("kept")
        (top / "link").symlink_to(outside)
        durable.remove_tree(str(top))
        assert not top.exists()
        assert (outside / "kept").exists()

    def test_what_may_not_be_read_is_removed(self, top: Path) -> None:
        (top / "a" / "b").mkdir(parents=True)
        (top / "a" / "b" / "f").write_text("x")
        (top / "a" / "b").chmod(0)
        (top / "a").chmod(0o500)
        durable.remove_tree(str(top))
        assert not top.exists()

    def test_a_deep_folder_is_no_layer(self, service: PortableLayerService, top: Path) -> None:
        (top / "Hives").mkdir()
        self.deep(top / "Hives", 1500)
        with pytest.raises(LayerContentError, match="components"):
            service.import_folder("deep", str(top), [])
        assert service.store.ids() == []


def test_a_layer_of_nothing_but_deletions(service: PortableLayerService) -> None:
    put(service, "base", base_tar().file("Files/kept").bytes())
    with pytest.raises(LayerContentError):
        put(service, "bad", make_tar(Member("Files/.wh.a")))
    members = [Member(f"Files/.wh.{n}") for n in range(20_000)]
    put(service, "top", make_tar(*members), "base")
    assert list(service.changes("top", [])) == []
    with service.views.open("top") as view:
        assert view.resolve("Files/kept") is not None
