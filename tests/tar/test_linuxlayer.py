"""Windows layers made on Linux, from tars and trees."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import open_below, require, require_tool
from winlayers.errors import (
    FormatError,
    InvalidNameError,
    LayerContentError,
    SddlError,
    TarError,
    WinlayersError,
)
from winlayers.tar.backuptar import EntryKind
from winlayers.tar.layertar import LayerTarEntry, entries_from_tar
from winlayers.tar.linuxlayer import DRIVE_SDDL, LayerOptions, LinuxLayer, layer_from_tar, windows_target
from winlayers.tar.linuxtree import layer_from_tree
from winlayers.tar.reader import TarReader
from winlayers.tar.writer import Buffer
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import filetime_from_unix
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.reparse import SymbolicLink, parse_reparse
from winlayers.win32.security import bytes_to_sddl, sddl_to_bytes

Member = tuple[str, dict[str, object], bytes]
PLAIN = LayerOptions(epoch=None)
NOW = 1_686_832_496


def tar_of(*members: Member, pax: bool = True) -> bytes:
    """A plain tar of (name, attributes of TarInfo, data)."""
    buffer = io.BytesIO()
    form = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.mtime, info.size = NOW, len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, data: bytes = b"", **fields: object) -> Member:
    return name, fields, data


def directory(name: str, **fields: object) -> Member:
    return name, {"type": tarfile.DIRTYPE, **fields}, b""


def symlink(name: str, target: str) -> Member:
    return name, {"type": tarfile.SYMTYPE, "linkname": target}, b""


def hard_link(name: str, target: str) -> Member:
    return name, {"type": tarfile.LNKTYPE, "linkname": target}, b""


def convert(stream: bytes, options: LayerOptions = PLAIN) -> tuple[list[LayerTarEntry], bytes, LinuxLayer]:
    """The entries of the layer made of *stream*, the layer, and the result; data are in `contents`."""
    sink = io.BytesIO()
    result = layer_from_tar(io.BytesIO(stream), sink, options)
    layer = sink.getvalue()
    assert result.size == len(layer)
    entries = list(entries_from_tar(TarReader(io.BytesIO(layer))))
    assert result.entries == len(entries)
    return entries, layer, result


def paths(stream: bytes, options: LayerOptions = PLAIN) -> list[str]:
    return [entry.path for entry in convert(stream, options)[0]]


def contents(layer: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        return {m.name: f.read() for m in tar if m.isreg() and (f := tar.extractfile(m)) is not None}


def target_of(entry: LayerTarEntry) -> tuple[str, bool]:
    """A link's target, and whether it is marked as one to a directory."""
    assert entry.metadata is not None
    assert entry.metadata.reparse is not None
    point = parse_reparse(entry.metadata.reparse)
    assert isinstance(point, SymbolicLink)
    return point.target, entry.kind is EntryKind.DIRECTORY


# -- what a layer looks like ------------------------------------------------------------------------


def test_roots_first_then_parents_then_content() -> None:
    entries, layer, _ = convert(tar_of(file("./a/b/c.txt", b"data"), directory("a/"), file("/top", b"x")))
    assert [entry.path for entry in entries] == [
        "Files", "Hives", "Files/a", "Files/a/b", "Files/a/b/c.txt", "Files/top",
    ]  # fmt: skip
    assert contents(layer) == {"Files/a/b/c.txt": b"data", "Files/top": b"x"}


def test_files_get_inherited_descriptors_and_directories_nothing_to_force() -> None:
    entries, _, _ = convert(tar_of(directory("Windows"), file("Windows/x", b"1")))
    for entry in entries[:3]:
        assert entry.header.pax.keys() <= {"mtime"}
        assert entry.metadata is not None
        assert entry.metadata.security is None
    metadata = entries[3].metadata
    assert metadata is not None
    assert metadata.attributes == FileAttributes.ARCHIVE
    assert metadata.security is not None
    assert bytes_to_sddl(metadata.security) == "O:BAG:SYD:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;0x1200a9;;;BU)"


def test_only_new_directories_get_attributes_and_descriptors() -> None:
    below = {"Windows": True}.get
    options = LayerOptions(epoch=None, below=below, destination="app/Windows")
    entries, _, _ = convert(tar_of(directory("Windows"), directory("new"), file("f")), options)
    found = {e.path: e.header.pax.get("MSWINDOWS.fileattr") for e in entries}
    assert found == {
        "Files": None, "Hives": None, "Files/app": "16", "Files/app/Windows": "16",
        "Files/app/Windows/Windows": "16", "Files/app/Windows/new": "16", "Files/app/Windows/f": "32",
    }  # fmt: skip
    entries, _, _ = convert(
        tar_of(directory("Windows"), directory("new")), LayerOptions(epoch=None, below=below)
    )
    assert entries[2].header.pax == {}
    metadata = entries[3].metadata
    assert metadata is not None
    assert metadata.security is not None
    assert bytes_to_sddl(metadata.security) == (
        "O:BAG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)"
    )


def test_directories_that_are_known_are_written_again_and_inherited_from() -> None:
    parent = sddl_to_bytes("O:SYG:SYD:PAI(A;OICI;FA;;;WD)")
    known = FileMetadata(FileAttributes.DIRECTORY | FileAttributes.HIDDEN, 10, 20, 30, 40, parent)
    asked = []

    def what_is_there(path: str) -> tuple[FileMetadata, list[DataStream]]:
        asked.append(path)
        return known, [DataStream("s", 1, (b"x",))]

    options = LayerOptions(epoch=None, below={"Data": True, "f": False}.get, directory=what_is_there)
    source = tar_of(file("Data/new/file", b"1"), file("Data/file", b"2"), directory("f"), file("f/x"))
    entries, _, _ = convert(source, options)
    found = {entry.path: entry.metadata for entry in entries}
    assert asked == ["", "Data"]
    assert found["Files"] == found["Files/Data"] == known
    inherited = [
        found[path] for path in ("Files/Data/new", "Files/Data/new/file", "Files/Data/file", "Files/f")
    ]
    assert [None if m is None or m.security is None else bytes_to_sddl(m.security) for m in inherited] == [
        "O:BAG:SYD:AI(A;OICIID;FA;;;WD)",
        *["O:BAG:SYD:AI(A;ID;FA;;;WD)"] * 2,
        "O:BAG:SYD:AI(A;OICIID;FA;;;WD)",
    ]
    assert found["Files/f"] is not None, "what takes the place of a file is new"


def test_descriptors_can_be_chosen_or_left_out() -> None:
    options = LayerOptions(
        epoch=None, file_sddl="O:BUG:BUD:(A;;FA;;;WD)", directory_sddl="O:SYG:SY", below=lambda path: None
    )
    entries, _, _ = convert(tar_of(file("d/f")), options)
    texts = [bytes_to_sddl(e.metadata.security) for e in entries[2:] if e.metadata and e.metadata.security]
    assert texts == ["O:SYG:SY", "O:BUG:BUD:(A;;FA;;;WD)"]
    entries, _, _ = convert(tar_of(file("f")), LayerOptions(epoch=None, inherit_from=None))
    assert entries[2].metadata is not None
    assert entries[2].metadata.security is None
    with pytest.raises(SddlError):
        convert(tar_of(file("f")), LayerOptions(file_sddl="nonsense"))
    assert DRIVE_SDDL.startswith("O:SYG:SY")


def test_creation_times_are_padded_and_exact() -> None:
    _, layer, _ = convert(tar_of(file("f", pax_headers={"mtime": "1686832496.0000001"})))
    [header] = [h for h in TarReader(io.BytesIO(layer)) if h.name == "Files/f"]
    assert header.pax["LIBARCHIVE.creationtime"] == "1686832496.0000001"
    assert header.mtime == (NOW, 100)
    created = {"LIBARCHIVE.creationtime": "12.5", "mtime": "20.25"}
    entries, _, _ = convert(tar_of(file("f", pax_headers=created)))
    metadata = entries[2].metadata
    assert metadata is not None
    assert metadata.creation_time == filetime_from_unix(12, 500_000_000)
    assert metadata.write_time == filetime_from_unix(20, 250_000_000)


def test_times_are_not_later_than_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000")
    members = (
        file("old", mtime=999),
        file("new", pax_headers={"LIBARCHIVE.creationtime": "5000"}),
        symlink("l", "old"),
    )
    entries, _, _ = convert(tar_of(*members), LayerOptions())
    times = {e.path: e.header.mtime for e in entries}
    assert times["Files/old"] == (999, 0)
    assert times["Files/new"] == times["Files/l"] == (1000, 0)
    metadata = entries[3].metadata
    assert metadata is not None
    assert metadata.creation_time == filetime_from_unix(1000)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(LayerContentError, match="SOURCE_DATE_EPOCH"):
        LayerOptions()


def test_an_empty_tar_is_an_empty_layer() -> None:
    assert paths(tar_of()) == ["Files", "Hives"]
    assert paths(b"") == ["Files", "Hives"]
    assert paths(tar_of(directory("./"))) == ["Files", "Hives"]


# -- links ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("x", "x"),
        ("../lib/./x/", r"..\lib\x"),
        ("/", "C:\\"),
        ("/usr/../../bin//sh", r"C:\bin\sh"),
        ("//server/share", r"C:\server\share"),
        ("C:/Program Files/x", r"C:\Program Files\x"),
        (r"d:\x\..\y", r"d:\y"),
        ("c:", "c:\\"),
        (".", "."),
        ("a/..", r"a\.."),
    ],
)
def test_posix_targets_in_windows_terms(target: str, expected: str) -> None:
    assert windows_target(target) == expected


@pytest.mark.parametrize("target", ["", "a:b", "a\\b", "C:x", "x/a?b", "/a/b*", "/C:/x", "nul\0"])
def test_targets_that_windows_can_t_have_are_refused(target: str) -> None:
    with pytest.raises(InvalidNameError):
        windows_target(target)


def test_links_come_last_and_know_what_they_lead_to() -> None:
    stream = tar_of(
        symlink("to-dir", "a/b"),
        symlink("to-file", "/a/b/f"),
        symlink("chain", "to-dir/../../to-dir/"),
        symlink("a/up", ".."),
        symlink("dangling", "nowhere"),
        symlink("says-so", "nowhere/"),
        symlink("loop", "loop"),
        symlink("below-dir", "/Windows/System32"),
        symlink("root", "/"),
        symlink("other-drive", "D:/a/b"),
        symlink("drive", "c:\\a"),
        file("a/b/f", b"1"),
    )
    options = LayerOptions(epoch=None, below=lambda path: path == "Windows/System32" or None)
    entries, _, _ = convert(stream, options)
    assert [e.path for e in entries][:5] == ["Files", "Hives", "Files/a", "Files/a/b", "Files/a/b/f"]
    links = {e.path.removeprefix("Files/"): target_of(e) for e in entries[5:]}
    assert links == {
        "to-dir": (r"a\b", True),
        "to-file": (r"C:\a\b\f", False),
        "chain": (r"to-dir\..\..\to-dir", True),
        "a/up": ("..", True),
        "dangling": ("nowhere", False),
        "says-so": ("nowhere", True),
        "loop": ("loop", False),
        "below-dir": (r"C:\Windows\System32", True),
        "root": ("C:\\", True),
        "other-drive": (r"D:\a\b", False),
        "drive": (r"c:\a", True),
    }
    for entry in entries[5:]:
        assert not entry.header.linkname.startswith("Files")


def test_hard_links_lead_to_names_in_the_layer() -> None:
    entries, _, _ = convert(
        tar_of(file("d/F", b"1"), hard_link("e/l", "./d/f"), hard_link("m", "/in/a/layer/below")), PLAIN
    )
    assert [(e.path, e.link_target) for e in entries if e.link_target] == [
        ("Files/e/l", "Files/d/F"),
        ("Files/m", "Files/in/a/layer/below"),
    ]
    with pytest.raises(LayerContentError, match="no file"):
        convert(tar_of(directory("d"), hard_link("l", "d")))
    entries, _, _ = convert(tar_of(symlink("s", "x"), hard_link("t", "s")))
    assert [target_of(e)[0] for e in entries[2:]] == ["x", "x"]


# -- whiteouts --------------------------------------------------------------------------------------


def test_whiteouts_of_all_styles_are_kept() -> None:
    entries, _, _ = convert(
        tar_of(
            file("d/.wh.gone"),
            file("d/.wh..wh..opq"),
            file(".wh..wh.plnk/1.2"),
            file(".wh..wh.plnk/.wh..wh..opq"),
            file(".wh..wh.aufs"),
            ("over", {"type": tarfile.CHRTYPE, "devmajor": 0, "devminor": 0}, b""),
            directory("hidden", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"}),
            file(".wh..wh..opq"),
        )
    )
    assert [(e.kind, e.path) for e in entries[2:]] == [
        (EntryKind.DIRECTORY, "Files/d"),
        (EntryKind.WHITEOUT, "Files/d/gone"),
        (EntryKind.OPAQUE, "Files/d"),
        (EntryKind.WHITEOUT, "Files/over"),
        (EntryKind.DIRECTORY, "Files/hidden"),
        (EntryKind.OPAQUE, "Files/hidden"),
        (EntryKind.OPAQUE, "Files"),
    ]
    assert all(e.header.pax == {} and e.size == 0 for e in entries if e.kind is EntryKind.WHITEOUT)


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([file("a/../b")], InvalidNameError, "is not a file name"),
        ([file("a:b")], InvalidNameError, "can't hold ':'"),
        ([file("x/a\\b")], InvalidNameError, "can't hold"),
        ([directory("what?")], InvalidNameError, "can't hold"),
        ([file("x" * 256)], InvalidNameError, "255"),
        ([file("\udcff")], InvalidNameError, "not UTF-8"),
        ([symlink("l", "\udcff")], InvalidNameError, "not UTF-8"),
        ([file(".wh.")], InvalidNameError, "without a name"),
        ([("./", {"type": tarfile.CHRTYPE}, b"")], InvalidNameError, "root of a layer"),
        ([file("f", mtime=1 << 60)], FormatError, "FILETIME"),
        ([file(".wh.x/y")], InvalidNameError, "marks a deletion"),
        ([file("d/" * 1100 + "f")], InvalidNameError, "deeper than"),
        ([file("README"), file("readme")], InvalidNameError, "same name as 'README'"),
        ([file("\u00e4"), file("\u00c4")], InvalidNameError, "same name"),
        ([file("Lib/a"), file("lib/b")], InvalidNameError, "same directory as 'Lib'"),
        ([file("a"), file("a")], InvalidNameError, "two entries"),
        ([file("a"), directory("a")], InvalidNameError, "two entries"),
        ([file("a"), file("a/b")], LayerContentError, "no directory"),
        ([symlink("a", "b"), file("a/b")], LayerContentError, "no directory"),
        ([("p", {"type": tarfile.FIFOTYPE}, b"")], LayerContentError, "can't be in a Windows layer"),
        (
            [("p", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")],
            LayerContentError,
            "can't be in",
        ),
        ([file("f", pax_headers={"MSWINDOWS.fileattr": "32"})], LayerContentError, "is a layer already"),
        ([file("f", pax_headers={"LIBARCHIVE.creationtime": "now"})], TarError, "PAX"),
    ],
)
def test_what_a_layer_can_t_hold_is_refused_by_name(
    members: list[Member], error: type[WinlayersError], message: str
) -> None:
    with pytest.raises(error, match=message):
        convert(tar_of(*members))


def test_a_sparse_file_larger_than_the_drive_is_refused() -> None:
    records = {"GNU.sparse.size": str(1 << 62), "GNU.sparse.numblocks": "0", "GNU.sparse.map": ""}
    records |= {"GNU.sparse.major": "0", "GNU.sparse.minor": "1"}
    with pytest.raises(LayerContentError, match="does not fit"):
        convert(tar_of(file("huge", pax_headers=records)))


def test_collisions_can_be_reported_instead() -> None:
    members: tuple[Member, ...] = (
        file("Lib/a", b"1"),
        file("lib/b", b"2"),
        file("LIB/A", b"3"),
        file("x"),
        file("X"),
    )
    members = (*members, symlink("s", "1"), symlink("S", "2"))
    entries, layer, result = convert(tar_of(*members), LayerOptions(epoch=None, report_collisions=True))
    assert result.collisions == (("Lib", "lib"), ("Lib", "LIB"), ("Lib/a", "LIB/A"), ("x", "X"), ("s", "S"))
    assert [target_of(entry)[0] for entry in entries[-2:]] == ["1", "2"]
    assert contents(layer)["Files/LIB/A"] == b"3"


def test_deep_paths_take_no_more_memory_than_their_parts() -> None:
    """Each of these files brings 300 directories, whose paths are 15 KB long on average."""

    class Nowhere:
        def write(self, data: Buffer, /) -> None:
            """Drop it."""

    deep = "/".join(["d" * 100] * 300)
    stream = tar_of(*(file(f"{number}/{deep}/f") for number in range(4)))
    tracemalloc.start()
    result = layer_from_tar(io.BytesIO(stream), Nowhere(), PLAIN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.entries == 2 + 4 * 302
    assert result.size > 18 << 20
    assert peak < 4 << 20


def test_links_are_followed_no_further_than_a_path_can_be_long() -> None:
    """Forty links that each lead on by a long way."""
    way = "a/../" * 500
    members = [symlink(f"l{number}", f"{way}l{number + 1}") for number in range(39)]
    members += [symlink("l39", "a"), symlink("near", "l38"), directory("a")]
    entries, _, _ = convert(tar_of(*members))
    kinds = {entry.path: entry.kind for entry in entries}
    assert kinds["Files/l39"] is kinds["Files/near"] is EntryKind.DIRECTORY
    assert kinds["Files/l0"] is EntryKind.FILE


def test_no_more_than_a_thousand_collisions_are_reported() -> None:
    deep = "/".join(["d"] * 900)
    members = [file(f"{top}/{deep}/{number}") for number, top in enumerate(("top", "Top", "TOP"))]
    result = convert(tar_of(*members), LayerOptions(epoch=None, report_collisions=True))[2]
    assert result.collisions[:2] == (("top", "Top"), ("top/d", "Top/d"))
    assert len(result.collisions) == 1000


# -- trees ------------------------------------------------------------------------------------------


def tree(root: Path, step: int = 1_000_000_100) -> None:
    """Files of many kinds; *step*: nanoseconds between their times."""
    (root / "b" / "sub").mkdir(parents=True)
    (root / "B2").mkdir()
    (root / "b" / "file.txt").write_bytes(b"content" * 1000)
    (root / "a.txt").write_bytes(b"")
    (root / "b" / "sub" / "\u00fc").write_bytes(b"u")
    os.link(root / "b" / "file.txt", root / "z-link")
    (root / "c-link").symlink_to("b/sub")
    (root / "d-link").symlink_to("/a.txt")
    (root / ".wh.deleted").write_bytes(b"")
    for index, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(0, NOW * 10**9 + index * step), follow_symlinks=False)
    os.utime(root, (NOW, NOW))


def test_a_tree_becomes_a_layer_in_ntfs_order(tmp_path: Path) -> None:
    tree(tmp_path)
    first, second = io.BytesIO(), io.BytesIO()
    result = layer_from_tree(str(tmp_path), first, PLAIN)
    layer_from_tree(str(tmp_path), second, PLAIN)
    assert first.getvalue() == second.getvalue()
    assert result.size == len(first.getvalue())
    entries = list(entries_from_tar(TarReader(io.BytesIO(first.getvalue()))))
    assert [e.path for e in entries] == [
        "Files", "Hives", "Files/deleted", "Files/a.txt", "Files/b", "Files/b/file.txt", "Files/b/sub",
        "Files/b/sub/\u00fc", "Files/B2", "Files/z-link", "Files/c-link", "Files/d-link",
    ]  # fmt: skip
    by_path = {e.path: e for e in entries}
    assert by_path["Files/deleted"].kind is EntryKind.WHITEOUT
    assert by_path["Files/z-link"].link_target == "Files/b/file.txt"
    assert target_of(by_path["Files/c-link"]) == (r"b\sub", True)
    assert target_of(by_path["Files/d-link"]) == (r"C:\a.txt", False)
    assert contents(first.getvalue())["Files/b/file.txt"] == b"content" * 1000
    metadata = by_path["Files/b/file.txt"].metadata
    assert metadata is not None
    assert metadata.write_time == filetime_from_unix(0, (tmp_path / "b" / "file.txt").stat().st_mtime_ns)
    assert by_path["Files"].header.mtime == (NOW, 0)


def test_a_tree_and_the_tar_of_it_hold_the_same(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tree(root, step=10**9)  # tarfile keeps times as floating point numbers
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root, ".")
    from_tree = io.BytesIO()
    layer_from_tree(str(root), from_tree, PLAIN)
    entries, _, _ = convert(buffer.getvalue())
    expected = list(entries_from_tar(TarReader(io.BytesIO(from_tree.getvalue()))))

    def facts(entry: LayerTarEntry) -> tuple[object, ...]:
        return entry.kind, entry.metadata, entry.size, entry.link_target

    assert {e.path: facts(e) for e in entries} == {e.path: facts(e) for e in expected}


def test_links_in_a_tree_are_never_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path / "secret")
    sink = io.BytesIO()
    layer_from_tree(str(root), sink, PLAIN)
    assert b"key" not in sink.getvalue()
    [link] = list(entries_from_tar(TarReader(io.BytesIO(sink.getvalue()))))[2:]
    assert target_of(link)[0] == "C:" + str(tmp_path / "secret").replace("/", "\\")


def test_a_file_swapped_for_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    victim = root / "victim"
    victim.write_bytes(b"")
    real_stat = os.stat

    def swap(name: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        status = real_stat(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        victim.unlink()
        victim.symlink_to(tmp_path / "secret")
        return status

    monkeypatch.setattr("winlayers.tar.linuxtree.os.stat", swap)
    sink = io.BytesIO()
    with pytest.raises(OSError, match="symbolic links"):
        layer_from_tree(str(root), sink, PLAIN)
    assert b"secret" not in sink.getvalue()


@pytest.mark.parametrize(
    ("make", "error", "path"),
    [
        (lambda root: os.mkfifo(root / "d" / "pipe"), LayerContentError, "d/pipe"),
        (lambda root: (root / "d" / "a:b").write_bytes(b""), InvalidNameError, "a:b"),
        (lambda root: (root / "D").mkdir(), InvalidNameError, "d"),
        (lambda root: open(os.fsencode(root) + b"/d/\xff", "wb").close(), InvalidNameError, "\\udcff"),
    ],
)
def test_what_a_tree_can_t_give_is_refused(
    tmp_path: Path, make: Callable[[Path], object], error: type[WinlayersError], path: str
) -> None:
    (tmp_path / "d").mkdir()
    make(tmp_path)
    with pytest.raises(error) as caught:
        layer_from_tree(str(tmp_path), io.BytesIO(), PLAIN)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_socket_is_refused_and_descriptors_do_not_leak(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "d" / "s"))
        with pytest.raises(LayerContentError, match=r"d/s: .*socket"):
            layer_from_tree(str(tmp_path), io.BytesIO(), PLAIN)
        assert open_below(tmp_path) == []


@pytest.mark.root
def test_overlay_s_own_marks_in_a_tree_are_kept(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "needs root to make device nodes")
    os.mknod(tmp_path / "gone", 0o20000, 0)
    (tmp_path / "opaque").mkdir()
    try:
        os.setxattr(tmp_path / "opaque", "trusted.overlay.opaque", b"y")
    except OSError:
        require(False, "the file system has no trusted attributes")
    sink = io.BytesIO()
    layer_from_tree(str(tmp_path), sink, PLAIN)
    entries = entries_from_tar(TarReader(io.BytesIO(sink.getvalue())))
    assert [(e.kind, e.path) for e in entries][2:] == [
        (EntryKind.WHITEOUT, "Files/gone"),
        (EntryKind.DIRECTORY, "Files/opaque"),
        (EntryKind.OPAQUE, "Files/opaque"),
    ]


# -- peers and properties ---------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_other_tars_read_the_layer(tool: str, tmp_path: Path) -> None:
    program = require_tool(tool)
    root = tmp_path / "root"
    root.mkdir()
    tree(root)
    layer = tmp_path / "layer.tar"
    with layer.open("wb") as sink:
        layer_from_tree(str(root), sink, PLAIN)
    listed = subprocess.run(
        [program, "-tf", str(layer)], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
    )
    names = [name.rstrip("/") for name in listed.stdout.decode().splitlines()]
    assert names[:5] == ["Files", "Hives", "Files/.wh.deleted", "Files/a.txt", "Files/b"]
    assert len(names) == 12


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["file", "dir", "link", "hard"]),
            st.lists(
                st.sampled_from(["a", "A", "b", "\u00e4", ".", "..", "c:d", ".wh.x", ""]), max_size=4
            ).map("/".join),
            st.sampled_from(["", "a", "/a/b", "../..", "b/", "C:/x", "?"]),
        ),
        max_size=8,
    ),
    st.booleans(),
)
@settings(deadline=None)
def test_any_tar_becomes_a_proper_layer_or_is_refused(
    members: list[tuple[str, str, str]], report: bool
) -> None:
    makers: dict[str, Callable[[str, str], Member]] = {
        "file": lambda name, target: file(name, target.encode()),
        "dir": lambda name, target: directory(name),
        "link": symlink,
        "hard": hard_link,
    }
    stream = tar_of(*(makers[kind](name, target) for kind, name, target in members))
    try:
        entries, layer, _ = convert(stream, LayerOptions(epoch=NOW, report_collisions=report))
    except WinlayersError:
        return
    assert convert(stream, LayerOptions(epoch=NOW, report_collisions=report))[1] == layer
    assert [e.path for e in entries[:2]] == ["Files", "Hives"]
    seen: set[str] = set()
    for entry in entries:
        parent = entry.path.rpartition("/")[0]
        assert not parent or parent.lower() in seen, entry.path
        if entry.kind in (EntryKind.FILE, EntryKind.DIRECTORY):
            assert report or entry.path.lower() not in seen
            seen.add(entry.path.lower())


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_raise_only_the_package_s_errors(data: bytes) -> None:
    try:
        layer_from_tar(io.BytesIO(data), io.BytesIO(), PLAIN)
    except WinlayersError:
        pass
