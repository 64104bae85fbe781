"""Any part of any chain as one layer: the merged view stays what it was."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.layers.tars import LayerTar, base_tar
from winlayers.errors import LayerContentError, LayerCorruptError
from winlayers.images.editing.delta import ViewDelta
from winlayers.layers import DriverInfo
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.view import View
from winlayers.layers.service import EntryKind
from winlayers.tar.backuptar import write_layer_entry
from winlayers.tar.writer import TarWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata
from winlayers.win32.reparse import MountPoint, SymbolicLink
from winlayers.win32.security import sddl_to_bytes

DESCRIPTORS = [None, sddl_to_bytes("O:BAG:SYD:(A;;FA;;;BA)"), sddl_to_bytes("O:SYG:SYD:(A;;FR;;;WD)")]


def signature(view: View) -> dict[str, object]:
    """All that a view shows: each path with kind, metadata, data, streams, and its other names."""
    names: dict[int, list[str]] = {}
    for path, _, inode in view.walk():
        names.setdefault(inode.id, []).append(path)
    return {
        path: (
            inode.is_directory,
            inode.metadata,
            view.read(inode.extent),
            [(stream.name, view.read(stream.extent)) for stream in inode.streams],
            inode.nlink,
            frozenset(names[inode.id]),
        )
        for path, _, inode in view.walk()
    }


class Chain:
    """Layers on each other in a service."""

    def __init__(self, home: Path) -> None:
        self.service = PortableLayerService(DriverInfo(str(home)))
        self.service.check_home()
        self.ids: list[str] = []

    def add(self, tar: bytes, on: list[str] | None = None) -> str:
        """Add a layer on top, or on other layers."""
        parents = self.ids if on is None else on
        name = f"layer{len(self.service.store.ids())}"
        chain = [self.service.layer_path(parent) for parent in reversed(parents)]
        self.service.import_tar(name, chain, io.BytesIO(tar))
        if on is None:
            self.ids.append(name)
        return name

    def squashed(self, start: int) -> bytes:
        """The tar that stands for the layers from *start* on."""
        out = io.BytesIO()
        writer = TarWriter(out)
        with self.service.views.open(self.ids[-1]) as full:
            below = self.service.views.open(self.ids[start - 1]) if start else None
            try:
                for entry, streams in ViewDelta(full, below):
                    for _ in write_layer_entry(writer, entry, streams):
                        pass
            finally:
                if below is not None:
                    below.close()
        writer.close()
        return out.getvalue()

    def check(self, start: int) -> list[tuple[str, str]]:
        """Squash from *start* on, compare the views; the new layer's entries as (kind, path)."""
        made = self.add(self.squashed(start), self.ids[:start])
        with self.service.views.open(self.ids[-1]) as one, self.service.views.open(made) as other:
            assert signature(other) == signature(one)
        with self.service.open_reader(made, []) as reader:
            return [(entry.kind.value, entry.path) for entry, _ in reader]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "home")


def test_only_what_differs_is_written(chain: Chain) -> None:
    chain.add(base_tar().file("Files/Windows/a", b"a").file("Files/Windows/b", b"b").bytes())
    chain.add(LayerTar().directory("Files").file("Files/x", b"1").file("Files/gone", b"2").bytes())
    chain.add(LayerTar().remove("Files/gone").remove("Files/Windows/a").file("Files/x", b"3").bytes())
    assert chain.check(1) == [
        ("directory", "Files"),
        ("directory", "Files/Windows"),
        ("whiteout", "Files/Windows/a"),
        ("file", "Files/x"),
    ]


def test_what_comes_back_to_what_it_was_is_not_told_from_what_stayed(chain: Chain) -> None:
    chain.add(base_tar().file("Files/a", b"a").bytes())
    chain.add(LayerTar().link("Files/b", "Files/a").bytes())
    chain.add(LayerTar().remove("Files/b").bytes())
    assert chain.check(1) == []


class TestLinks:
    def test_into_the_lower_layers_stay_links(self, chain: Chain) -> None:
        chain.add(base_tar().file("Files/a", b"a" * 10_000).bytes())
        chain.add(LayerTar().link("Files/b", "Files/a").bytes())
        chain.add(LayerTar().link("Files/c", "Files/b").bytes())
        assert ("link", "Files/b") in chain.check(1)
        assert len(chain.squashed(1)) < 10_000

    def test_to_a_file_whose_first_name_goes(self, chain: Chain) -> None:
        chain.add(base_tar().file("Files/a", b"a").bytes())
        chain.add(LayerTar().link("Files/b", "Files/a").link("Files/c", "Files/a").bytes())
        chain.add(LayerTar().remove("Files/a").bytes())
        assert {("whiteout", "Files/a"), ("link", "Files/b"), ("link", "Files/c")} <= set(chain.check(1))

    def test_to_a_file_whose_every_name_is_taken(self, chain: Chain) -> None:
        chain.add(base_tar().file("Files/a", b"a").bytes())
        chain.add(LayerTar().link("Files/b", "Files/a").link("Files/c", "Files/a").bytes())
        chain.add(LayerTar().file("Files/a", b"other").bytes())
        assert {("file", "Files/a"), ("file", "Files/b"), ("link", "Files/c")} <= set(chain.check(1))

    def test_among_new_files(self, chain: Chain) -> None:
        chain.add(base_tar().bytes())
        chain.add(LayerTar().file("Files/z", b"z", streams=[("s", b"stream")]).bytes())
        chain.add(LayerTar().link("Files/y", "Files/z").bytes())
        assert chain.check(1)[-2:] == [("file", "Files/y"), ("link", "Files/z")]

    def test_to_what_a_layer_between_deletes(self, chain: Chain) -> None:
        chain.add(base_tar().file("Files/a", b"a").link("Files/twin", "Files/a").bytes())
        chain.add(LayerTar().remove("Files/a").bytes())
        chain.add(LayerTar().link("Files/again", "Files/a").bytes())
        assert ("file", "Files/again") in chain.check(1), "it is no more the same file as its twin"


class TestDirectories:
    def test_that_get_another_letter_case(self, chain: Chain) -> None:
        chain.add(base_tar().directory("Files/dir").file("Files/dir/a", b"a").bytes())
        chain.add(LayerTar().remove("Files/dir").bytes())
        chain.add(LayerTar().directory("Files/DIR").link("Files/DIR/a", "Files/dir/a").bytes())
        chain.check(1)

    def test_that_become_files_and_back(self, chain: Chain) -> None:
        chain.add(base_tar().file("Files/d/a", b"a").file("Files/f", b"f").bytes())
        chain.add(LayerTar().file("Files/d", b"file").file("Files/f/now", b"dir").bytes())
        assert {("whiteout", "Files/d"), ("file", "Files/d"), ("file", "Files/f/now")} <= set(chain.check(1))

    def test_that_lose_their_descriptor(self, chain: Chain) -> None:
        described = FileMetadata(FileAttributes.DIRECTORY, 1, 2, 3, 4, DESCRIPTORS[1])
        chain.add(base_tar().directory("Files/d", described).file("Files/d/a", b"a").bytes())
        chain.add(LayerTar().directory("Files/d", junction(None)).bytes())
        chain.add(LayerTar().directory("Files/d", FileMetadata(FileAttributes.DIRECTORY)).bytes())
        chain.check(1)

    def test_that_no_layer_describes(self, chain: Chain) -> None:
        chain.add(base_tar().bytes())
        chain.add(LayerTar().file("Files/no/parents/here", b"x").bytes())
        assert ("directory", "Files/no/parents") in chain.check(1)


def junction(security: bytes | None) -> FileMetadata:
    attributes = FileAttributes.DIRECTORY | FileAttributes.REPARSE_POINT
    return FileMetadata(attributes, 5, 6, 7, 8, security, reparse=MountPoint.to("C:\\Users").to_bytes())


def test_views_of_two_chains_are_refused(chain: Chain) -> None:
    chain.add(base_tar().bytes())
    other = chain.add(base_tar().file("Files/x").bytes(), [])
    with (
        chain.service.views.open(chain.ids[0]) as one,
        chain.service.views.open(other) as two,
        pytest.raises(LayerCorruptError),
    ):
        ViewDelta(one, two)


# -- any chain --------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "A", "b", "B", "ä", "\ud800"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/".join(["Files", *parts]))
TIMES = st.integers(116_444_736_000_000_000, 140_000_000_000_000_000)


@st.composite
def metadata(draw: Callable[..., Any], *, is_directory: bool) -> FileMetadata:
    """Metadata with all that a tar can hold."""
    attributes = FileAttributes.DIRECTORY if is_directory else FileAttributes.ARCHIVE
    reparse = None
    if draw(st.integers(0, 5)) == 0:
        attributes |= FileAttributes.REPARSE_POINT
        target = "C:\\x" if is_directory else "x"
        reparse = (MountPoint if is_directory else SymbolicLink).to(target).to_bytes()
    if draw(st.booleans()):
        attributes |= FileAttributes.HIDDEN
    created, read, written, changed = (draw(TIMES) for _ in range(4))
    eas = (ExtendedAttribute("EA", b"value"),) if draw(st.booleans()) else ()
    security = draw(st.sampled_from(DESCRIPTORS))
    return FileMetadata(attributes, created, read, written, changed, security, eas, reparse)


STREAMS = st.lists(st.tuples(st.sampled_from(["s", "t"]), st.binary(max_size=3)), max_size=2)


@dataclasses.dataclass
class Operation:
    """One entry of a random layer."""

    kind: EntryKind
    path: str
    metadata: FileMetadata = dataclasses.field(default_factory=FileMetadata)
    data: bytes = b""
    streams: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    choice: int = 0

    def write(self, tar: LayerTar, files: list[str]) -> None:
        """Write the entry; *files* are the paths of files so far, to which links lead."""
        if self.kind is EntryKind.FILE and self.metadata.reparse is None:
            tar.file(self.path, self.data, self.metadata, self.streams)
        elif self.kind in (EntryKind.FILE, EntryKind.DIRECTORY):
            tar.directory(self.path, self.metadata)
        elif self.kind is EntryKind.LINK:
            if files:
                tar.link(self.path, files[self.choice % len(files)])
        elif self.kind is EntryKind.WHITEOUT:
            tar.remove(self.path)
        else:
            tar.hide(self.path)


OPERATIONS = st.one_of(
    st.builds(
        Operation,
        st.just(EntryKind.FILE),
        PATHS,
        metadata(is_directory=False),
        st.binary(max_size=3),
        STREAMS,
    ),
    st.builds(Operation, st.just(EntryKind.DIRECTORY), PATHS, metadata(is_directory=True)),
    st.builds(Operation, st.just(EntryKind.LINK), PATHS, choice=st.integers(0, 100)),
    st.builds(Operation, st.sampled_from([EntryKind.WHITEOUT, EntryKind.OPAQUE]), PATHS),
)
LAYERS = st.lists(st.lists(OPERATIONS, min_size=1, max_size=10), min_size=2, max_size=4)


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.data())
def test_any_part_of_any_chain_is_one_layer(layers: list[list[Operation]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(Path(folder))
        files: list[str] = []
        for number, operations in enumerate(layers):
            if number == 0:
                operations = [o for o in operations if o.kind is not EntryKind.WHITEOUT]
            for keep_links in (True, False):
                tar = LayerTar().directory("Files")
                for operation in operations:
                    if operation.kind is EntryKind.FILE:
                        files.append(operation.path)
                    if keep_links or operation.kind is not EntryKind.LINK:
                        operation.write(tar, files)
                try:
                    chain.service.views.open(chain.add(tar.bytes())).close()
                    break
                except LayerContentError:  # a link to nothing, or to what the layer itself replaces
                    assume(keep_links and len(chain.ids) == number)
        chain.check(data.draw(st.integers(0, len(layers) - 1)))
