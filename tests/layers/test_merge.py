"""Chains merged by NTFS's rules, against a model that is written another way."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers.tars import DIRECTORY, FILE, LayerTar, base_tar
from winlayers.errors import LayerContentError
from winlayers.layers import DriverInfo
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.view import View
from winlayers.tar.header import TarHeader
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import upcase
from winlayers.win32.reparse import MountPoint


def make_service(home: Path) -> PortableLayerService:
    service = PortableLayerService(DriverInfo(str(home)))
    service.check_home()
    return service


def import_chain(service: PortableLayerService, *tars: bytes) -> str:
    """Import the layers, lowest first; the id of the top one."""
    chain: list[str] = []
    for number, tar in enumerate(tars):
        service.import_tar(f"layer{number}", chain, io.BytesIO(tar))
        chain.insert(0, service.layer_path(f"layer{number}"))
    return f"layer{len(tars) - 1}"


def tree(view: View) -> dict[str, bytes | None]:
    """Every path of the view with its data; None for directories."""
    return {path: None if inode.is_directory else view.read(inode.extent) for path, _, inode in view.walk()}


@pytest.fixture
def service(tmp_path: Path) -> PortableLayerService:
    return make_service(tmp_path / "home")


def view_of(service: PortableLayerService, *tars: bytes) -> dict[str, bytes | None]:
    with service.views.open(import_chain(service, *tars)) as view:
        return tree(view)


def test_directories_that_differ_in_case_are_one(service: PortableLayerService) -> None:
    merged = view_of(
        service,
        base_tar().file("Files/Windows/System32/a.dll", b"a").bytes(),
        LayerTar().file("Files/WINDOWS/system32/B.dll", b"b").file("FILES/windows/c", b"c").bytes(),
    )
    assert {p: d for p, d in merged.items() if d is not None} == {
        "Files/Windows/System32/a.dll": b"a",
        "Files/Windows/System32/B.dll": b"b",
        "Files/Windows/c": b"c",
    }


def test_case_is_compared_by_upcase_not_by_unicode_folding(service: PortableLayerService) -> None:
    merged = view_of(
        service,
        base_tar().file("Files/straße", b"1").file("Files/ÄÖÜ", b"2").file("Files/ı", b"3").bytes(),
        LayerTar().file("Files/STRASSE", b"4").file("Files/äöü", b"5").file("Files/I", b"6").bytes(),
    )
    assert merged["Files/straße"] == b"1"
    assert merged["Files/STRASSE"] == b"4"
    assert merged["Files/ÄÖÜ"] == b"5"
    assert "Files/äöü" not in merged
    assert merged["Files/ı"] == b"3"
    assert merged["Files/I"] == b"6"


def test_a_whiteout_acts_on_parents_wherever_it_stands(service: PortableLayerService) -> None:
    merged = view_of(
        service,
        base_tar().file("Files/dir/old", b"old").file("Files/dir/kept", b"k").bytes(),
        LayerTar().directory("Files/dir").file("Files/dir/new", b"new").remove("Files/DIR").bytes(),
    )
    assert merged["Files/dir/new"] == b"new"
    assert "Files/dir/old" not in merged
    assert "Files/dir/kept" not in merged


def test_an_opaque_directory_hides_what_lies_below(service: PortableLayerService) -> None:
    merged = view_of(
        service,
        base_tar().file("Files/dir/a", b"a").file("Files/dir/sub/b", b"b").file("Files/other", b"o").bytes(),
        LayerTar().file("Files/dir/c", b"c").hide("Files/dir").bytes(),
    )
    assert sorted(p for p in merged if p.startswith("Files/dir")) == ["Files/dir", "Files/dir/c"]
    assert merged["Files/other"] == b"o"


def test_file_and_directory_replace_each_other(service: PortableLayerService) -> None:
    merged = view_of(
        service,
        base_tar().file("Files/x", b"file").file("Files/y/inside", b"in").bytes(),
        LayerTar().directory("Files/x").file("Files/x/now", b"dir").file("Files/y", b"file").bytes(),
    )
    assert merged["Files/x"] is None
    assert merged["Files/x/now"] == b"dir"
    assert merged["Files/y"] == b"file"
    assert "Files/y/inside" not in merged


def test_of_two_entries_for_one_path_the_last_wins(service: PortableLayerService) -> None:
    merged = view_of(service, base_tar().file("Files/A", b"1").file("Files/a", b"2").bytes())
    assert merged["Files/A"] == b"2"
    assert "Files/a" not in merged


def test_missing_parents_are_made(service: PortableLayerService) -> None:
    merged = view_of(service, LayerTar().file("Files/no/parents/here", b"x").bytes())
    assert merged == {
        "Files": None,
        "Files/no": None,
        "Files/no/parents": None,
        "Files/no/parents/here": b"x",
    }


class TestHardLinks:
    def test_into_the_same_layer_before_and_after(self, service: PortableLayerService) -> None:
        tar = base_tar().link("Files/early", "Files/target").file("Files/target", b"t")
        tar.link("Files/late", "FILES/TARGET").link("Files/chained", "Files/early")
        with service.views.open(import_chain(service, tar.bytes())) as view:
            drive = view.drive
            assert drive is not None
            inodes = {name: view.lookup(drive.id, name) for name in ("early", "target", "late", "chained")}
            assert len({node.inode for node in inodes.values() if node is not None}) == 1
            assert view.inode(inodes["late"].inode).nlink == 4  # type: ignore[union-attr]  # it is there

    def test_into_a_parent_which_this_layer_deletes_or_replaces(self, service: PortableLayerService) -> None:
        merged = view_of(
            service,
            base_tar().file("Files/a", b"a").file("Files/b", b"b").bytes(),
            LayerTar()
            .remove("Files/a")
            .file("Files/b", b"other")
            .link("Files/a2", "Files/a")
            .link("Files/b2", "Files/b")
            .bytes(),
        )
        assert merged["Files/a2"] == b"a"
        assert "Files/a" not in merged
        assert merged["Files/b2"] == b"other", "a target in the layer itself comes first"

    def test_into_a_grandparent_behind_a_whiteout(self, service: PortableLayerService) -> None:
        merged = view_of(
            service,
            base_tar().file("Files/a", b"a", streams=[("s", b"stream")]).bytes(),
            LayerTar().remove("Files/a").bytes(),
            LayerTar().link("Files/again", "Files/a").bytes(),
        )
        assert merged["Files/again"] == b"a"
        assert "Files/a" not in merged

    def test_across_roots(self, service: PortableLayerService) -> None:
        merged = view_of(
            service,
            base_tar().file("Files/a", b"a").link("UtilityVM/Files/a", "Files/a").bytes(),
        )
        assert merged["UtilityVM/Files/a"] == b"a"

    def test_to_nothing_is_refused_and_leaves_nothing(self, service: PortableLayerService) -> None:
        import_chain(service, base_tar().bytes())
        tar = LayerTar().file("Files/x", b"x").link("Files/l", "Files/missing").bytes()
        with pytest.raises(LayerContentError, match=r"Files/l.*Files/missing"):
            service.import_tar("bad", [service.layer_path("layer0")], io.BytesIO(tar))
        assert service.store.ids() == ["layer0"]
        assert not [n for n in Path(service.info.home).iterdir() if n.name.startswith(".tmp")]

    def test_in_a_circle_is_refused(self, service: PortableLayerService) -> None:
        tar = base_tar().link("Files/a", "Files/b").link("Files/b", "Files/a").bytes()
        with pytest.raises(LayerContentError):
            service.import_tar("bad", [], io.BytesIO(tar))

    def test_to_a_file_that_becomes_a_directory_is_refused(self, service: PortableLayerService) -> None:
        tar = base_tar().file("Files/a", b"x").file("Files/a/b", b"y").link("Files/c", "Files/a").bytes()
        with pytest.raises(LayerContentError, match=r"Files/c.*Files/a"):
            service.import_tar("bad", [], io.BytesIO(tar))
        assert service.store.ids() == []

    def test_below_a_file_that_becomes_a_directory(self, service: PortableLayerService) -> None:
        merged = view_of(
            service,
            base_tar().file("Files/a", b"x").file("Files/f", b"f").link("Files/a/b", "Files/f").bytes(),
        )
        assert merged["Files/a"] is None
        assert merged["Files/a/b"] == b"f"

    def test_a_changed_file_parts_from_its_links(self, service: PortableLayerService) -> None:
        merged = view_of(
            service,
            base_tar().file("Files/a", b"old").link("Files/b", "Files/a").bytes(),
            LayerTar().file("Files/a", b"new").bytes(),
        )
        assert (merged["Files/a"], merged["Files/b"]) == (b"new", b"old")


class TestDeletionsThatAreRefused:
    def test_in_a_base_layer(self, service: PortableLayerService) -> None:
        with pytest.raises(LayerContentError, match="base layer"):
            service.import_tar("base", [], io.BytesIO(base_tar().remove("Files/x").bytes()))

    def test_of_nothing_below_in_files_is_fine(self, service: PortableLayerService) -> None:
        view_of(service, base_tar().bytes(), LayerTar().remove("Files/never/there").bytes())

    def test_of_nothing_below_in_the_utility_vm(self, service: PortableLayerService) -> None:
        import_chain(service, base_tar().bytes())
        tar = LayerTar().remove("UtilityVM/Files/never").bytes()
        with pytest.raises(LayerContentError, match="UtilityVM"):
            service.import_tar("bad", [service.layer_path("layer0")], io.BytesIO(tar))


def test_metadata_streams_and_reparse_points_are_kept(service: PortableLayerService) -> None:
    junction = FileMetadata(
        FileAttributes.DIRECTORY | FileAttributes.REPARSE_POINT,
        1329,
        reparse=MountPoint.to("C:\\Users").to_bytes(),
    )
    tar = base_tar().file("Files/f", b"data", FILE, [("one", b"1"), ("Two", b"22")])
    tar.directory("Files/Documents and Settings", junction)
    with service.views.open(import_chain(service, tar.bytes())) as view:
        node = view.resolve("files/F")
        assert node is not None
        inode = view.inode(node.inode)
        assert dataclasses.replace(inode.metadata, change_time=0) == dataclasses.replace(FILE, change_time=0)
        assert [(s.name, view.read(s.extent)) for s in inode.streams] == [("one", b"1"), ("Two", b"22")]
        link = view.resolve("Files/documents and settings")
        assert link is not None
        assert view.inode(link.inode).metadata.reparse == junction.reparse


def test_a_directory_without_a_descriptor_keeps_the_one_below(service: PortableLayerService) -> None:
    bare = LayerTar().raw(TarHeader("Files/Windows/", "5", mode=0o755)).bytes()
    with service.views.open(import_chain(service, base_tar().bytes(), bare)) as view:
        node = view.resolve("Files/Windows")
        assert node is not None
        assert view.inode(node.inode).metadata.security is not None


def test_128_layers(service: PortableLayerService) -> None:
    tars = [base_tar().file("Files/f", b"0").bytes()]
    for number in range(1, 128):
        tar = (
            LayerTar().file(f"Files/own{number}", str(number).encode()).file("FILES/F", str(number).encode())
        )
        if number > 1:
            tar.remove(f"Files/own{number - 1}")
        tars.append(tar.bytes())
    merged = view_of(service, *tars)
    assert merged["Files/f"] == b"127"
    assert [p for p in merged if "own" in p] == ["Files/own127"]


def test_a_view_is_made_again_when_it_is_damaged(service: PortableLayerService) -> None:
    top = import_chain(service, base_tar().file("Files/f", b"0").bytes())
    service.views.open(top).close()
    path = Path(service.layer_path(top)) / "view.db"
    for damage in (b"", b"not a database at all" * 100):
        path.write_bytes(damage)
        with service.views.open(top) as view:
            assert tree(view)["Files/f"] == b"0"


# -- against a model --------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "A", "b", "ä", "Ä", "ß", "\ud800", "long" * 40])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/".join(["Files", *parts]))


@dataclasses.dataclass
class Node:
    """A node of the model: a name as first written, and data or children."""

    name: str
    data: bytes | None = None
    children: dict[str, Node] = dataclasses.field(default_factory=dict)


class Model:
    """NTFS with layers over it, as plain nested dictionaries, without hard links."""

    def __init__(self) -> None:
        self.root = Node("")

    def parent(self, path: str) -> Node:
        node = self.root
        for part in path.split("/")[:-1]:
            child = node.children.get(upcase(part))
            if child is None or child.data is not None:
                child = Node(part if child is None else child.name)
                node.children[upcase(part)] = child
            node = child
        return node

    def put(self, path: str, data: bytes | None) -> None:
        parent = self.parent(path)
        name = path.rpartition("/")[2]
        old = parent.children.get(upcase(name))
        if data is None and old is not None and old.data is None:
            return
        parent.children[upcase(name)] = Node(name if old is None else old.name, data)

    def find(self, path: str) -> tuple[Node, str] | None:
        node = self.root
        parts = path.split("/")
        for part in parts[:-1]:
            child = node.children.get(upcase(part))
            if child is None:
                return None
            node = child
        return (node, upcase(parts[-1])) if upcase(parts[-1]) in node.children else None

    def remove(self, path: str) -> None:
        found = self.find(path)
        if found is not None:
            del found[0].children[found[1]]

    def hide(self, path: str) -> None:
        found = self.find(path)
        if found is not None:
            found[0].children[found[1]].children.clear()

    def tree(self) -> dict[str, bytes | None]:
        return dict(self._walk(self.root, ""))

    def _walk(self, node: Node, prefix: str) -> Iterator[tuple[str, bytes | None]]:
        for child in node.children.values():
            yield prefix + child.name, child.data
            yield from self._walk(child, f"{prefix}{child.name}/")


LAYERS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["file", "directory", "remove", "hide"]), PATHS, st.binary(max_size=3)),
        max_size=8,
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(LAYERS)
def test_any_chain_is_what_the_model_says(layers: list[list[tuple[str, str, bytes]]]) -> None:
    model = Model()
    tars = []
    for number, operations in enumerate(layers):
        tar = LayerTar().directory("Files")
        model.put("Files", None)
        for kind, path, _ in operations:
            if kind == "remove" and number > 0:
                tar.remove(path)
                model.remove(path)
            elif kind == "hide":
                tar.hide(path)
                model.hide(path)
        for kind, path, data in operations:
            if kind == "file":
                tar.file(path, data)
                model.put(path, data)
            elif kind == "directory":
                tar.directory(path, DIRECTORY)
                model.put(path, None)
        tars.append(tar.bytes())
    with tempfile.TemporaryDirectory() as folder:
        service = make_service(Path(folder))
        with service.views.open(import_chain(service, *tars)) as view:
            assert tree(view) == model.tree()
