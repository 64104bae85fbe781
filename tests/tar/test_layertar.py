"""Layers' tars as entries: a test for each thing that the reference loses or fails on and that is kept."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Iterable

import pytest

from tests.support import PYTHON_APP, require
from tests.tar.mutations import old_gnu_sparse, padded, raw_header
from winlayers.errors import (
    BackupStreamError,
    ExtendedAttributeError,
    InvalidNameError,
    ReparseError,
    SddlError,
    TarError,
    WinlayersError,
)
from winlayers.tar import (
    EntryKind,
    Format,
    LayerTarEntry,
    TarHeader,
    TarLayerWriter,
    TarReader,
    TarWriter,
    entries_from_tar,
    header_from_metadata,
    metadata_from_header,
    write_backup_stream,
    write_entry,
    write_from_backup_stream,
    write_from_backup_stream_once,
)
from winlayers.tar.backuptar import name_of_path, path_of_name
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.backupstream import BackupStreamWriter, StreamHeader, StreamId
from winlayers.win32.filetime import filetime_from_unix
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.reparse import MountPoint, RawReparse, SymbolicLink

NOW = filetime_from_unix(1686832496, 123456700)
FILE = FileMetadata(FileAttributes.ARCHIVE, NOW, NOW + 1, NOW + 2, NOW + 3)
FOLDER = FileMetadata(FileAttributes.DIRECTORY, NOW, NOW + 1, NOW + 2, NOW + 3)
DESCRIPTOR = bytes.fromhex("010004800000000000000000000000000000000014000000")

Streams = list[tuple[str, bytes]]


def streams(*pairs: tuple[str, bytes]) -> list[DataStream]:
    return [DataStream(name, len(data), (data,)) for name, data in pairs]


def tar_of(*members: tuple[TarHeader, bytes]) -> bytes:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    for header, data in members:
        writer.write_header(header)
        writer.write(data)
    writer.close()
    return sink.getvalue()


def content(found: Iterable[DataStream]) -> Streams:
    return [(stream.name, b"".join(bytes(chunk) for chunk in stream.chunks)) for stream in found]


def entries(tar: bytes) -> list[tuple[LayerTarEntry, Streams]]:
    return [(entry, content(entry.streams)) for entry in entries_from_tar(TarReader(io.BytesIO(tar)))]


def layer_of(*paths: str) -> bytes:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    for path in paths:
        writer.add(path, FILE, streams(("", b"data"), ("s", b"stream")))
    writer.close()
    return sink.getvalue()


def copy(tar: bytes) -> bytes:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    for entry in entries_from_tar(TarReader(io.BytesIO(tar))):
        writer.add_entry(entry)
    writer.close()
    return sink.getvalue()


# -- real layers ------------------------------------------------------------------------------------


def layer_blobs() -> list[bytes]:
    require(PYTHON_APP.is_dir(), "the python-app image is not at hand")
    blobs = sorted(PYTHON_APP.glob("blobs/sha256/*"))
    return [gzip.decompress(data) for data in (b.read_bytes() for b in blobs) if data[:2] == b"\x1f\x8b"]


def test_real_layers_come_out_as_they_were() -> None:
    """Two layers are the reference's own export; crane's third has neither its names nor its order."""
    kept = 0
    for tar in layer_blobs():
        again = copy(tar)
        if b"LIBARCHIVE.creationtime" in tar:
            assert again == tar
            kept += 1
        else:
            ours = [(e.kind, e.path.rstrip("/"), e.size, data) for e, data in entries(tar)]
            assert ours == [(e.kind, e.path, e.size, data) for e, data in entries(again)]
            assert len(ours) > 30
    assert kept == 2


# -- streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        (FILE, "Files/f"),
        (FOLDER, "Files/d"),
        (
            FileMetadata(
                FileAttributes.REPARSE_POINT, NOW, 0, NOW, 0, reparse=SymbolicLink.to("x").to_bytes()
            ),
            "l",
        ),
    ],
    ids=["file", "directory", "reparse point"],
)
@pytest.mark.parametrize("has_data", [True, False])
def test_streams_of_everything_are_kept(metadata: FileMetadata, name: str, has_data: bool) -> None:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    data = b"data" if metadata is FILE else b""
    named: Streams = [("one", b"1" * 600), ("zwei", b""), ("\ud800x", b"lone")]
    given = ([("", data)] if has_data and metadata is FILE else []) + named
    writer.add(name, metadata, streams(*given))
    writer.add("Files/next", FILE, streams(("", b"n")))
    writer.close()
    (first, found), (second, after) = entries(sink.getvalue())
    assert first.path == name
    assert [pair for pair in found if pair[0]] == named
    assert first.metadata == metadata
    assert (second.path, after) == ("Files/next", [("", b"n")])


def test_streams_of_links_are_kept() -> None:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    writer.add_link("Files/b", "Files/a", FILE, streams(("s", b"stream")))
    writer.close()
    ((entry, found),) = entries(sink.getvalue())
    assert (entry.kind, entry.path, entry.link_target) == (EntryKind.LINK, "Files/b", "Files/a")
    assert found == [("s", b"stream")]
    assert entry.metadata == FILE
    assert copy(sink.getvalue()) == sink.getvalue()


def test_streams_of_a_directory_with_a_slash() -> None:
    tar = tar_of(
        (TarHeader("d/", "5"), b""), (TarHeader("d:s", size=1), b"x"), (TarHeader("d/:t", size=1), b"y")
    )
    ((entry, found),) = entries(tar)
    assert (entry.kind, found) == (EntryKind.DIRECTORY, [("s", b"x"), ("t", b"y")])


def test_a_stream_belongs_to_the_file_just_before_it() -> None:
    """Another file between them, or another prefix, makes it a member of its own; the layer judges that."""
    tar = tar_of(
        (TarHeader("f", size=1), b"1"),
        (TarHeader("fg:s", size=1), b"2"),
        (TarHeader("f:s", size=1), b"3"),
        (TarHeader("f", size=1), b"4"),
        (TarHeader("f:s", "5"), b""),
    )
    assert [entry.path for entry, _ in entries(tar)] == ["f", "fg:s", "f:s", "f", "f:s"]


def test_a_stream_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        entries(tar_of((TarHeader("f", size=1), b"1"), (TarHeader("f:", size=1), b"2")))


def test_a_stream_name_longer_than_a_windows_string_has_no_backup_stream() -> None:
    """``:name:$DATA`` has 65,534 bytes at most; a tar's name may be longer."""
    for length, fits in ((32_760, True), (32_761, False)):
        tar = tar_of((TarHeader("f"), b""), (TarHeader("f:" + "s" * length, format=Format.PAX), b""))
        entry = next(entries_from_tar(TarReader(io.BytesIO(tar))))
        if fits:
            write_backup_stream(entry, io.BytesIO())
            continue
        with pytest.raises(BackupStreamError, match="name has 65536 bytes"):
            write_backup_stream(entry, io.BytesIO())


def test_unread_streams_are_passed_over() -> None:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    for number in range(5):
        writer.add(f"f{number}", FILE, streams(("", b"d" * 3000), ("a", b"a"), ("b", b"b" * 3000)))
    writer.close()
    for take in range(4):
        paths = []
        for entry in entries_from_tar(TarReader(io.BytesIO(sink.getvalue()))):
            paths.append(entry.path)
            for _, stream in zip(range(take), entry.streams, strict=False):
                next(iter(stream.chunks))
        assert paths == [f"f{number}" for number in range(5)]


def test_streams_that_were_passed_over_are_not_simply_gone() -> None:
    tar = layer_of("a", "b")
    first, _ = list(entries_from_tar(TarReader(io.BytesIO(tar))))
    with pytest.raises(TarError, match="after the tar had gone on"):
        write_backup_stream(first, io.BytesIO())
    found = [(list(entry.streams), entry) for entry in entries_from_tar(TarReader(io.BytesIO(tar)))]
    assert [list(entry.streams) for _, entry in found] == [[], []]


# -- kinds ------------------------------------------------------------------------------------------


def test_types_that_the_reference_takes_to_have_no_data() -> None:
    """Contiguous files, vendors' types and old GNU sparse files have their content here."""
    tar = tar_of((TarHeader("c", "7", size=3), b"abc"), (TarHeader("v", "A", size=2), b"xy"))
    assert [(entry.kind, found) for entry, found in entries(tar)] == [
        (EntryKind.FILE, [("", b"abc")]),
        (EntryKind.FILE, [("", b"xy")]),
    ]
    (sparse, found), _ = entries(old_gnu_sparse() + bytes(1024))
    assert sparse.size == len(found[0][1]) == 7000


@pytest.mark.parametrize("typeflag", "346")
def test_devices_are_files_without_data(typeflag: str) -> None:
    ((entry, found),) = entries(raw_header(b"dev", typeflag.encode(), 77) + bytes(1024))
    assert (entry.kind, entry.size, found) == (EntryKind.FILE, 0, [])


def test_sizes_of_types_without_data_mean_nothing() -> None:
    tar = raw_header(b"d", b"5", 1000) + raw_header(b"l", b"2", 77) + raw_header(b"f", b"0", 1) + padded(b"x")
    assert [(entry.path, entry.size, found) for entry, found in entries(tar)] == [
        ("d", 0, []),
        ("l", 0, []),
        ("f", 1, [("", b"x")]),
    ]


def test_the_type_wins_over_the_attributes() -> None:
    tar = tar_of(
        (TarHeader("d", "5", pax={"MSWINDOWS.fileattr": "1024"}), b""),
        (TarHeader("f", size=1, pax={"MSWINDOWS.fileattr": "16"}), b"x"),
    )
    (directory, _), (file, found) = entries(tar)
    assert (directory.kind, file.kind, found) == (EntryKind.DIRECTORY, EntryKind.FILE, [("", b"x")])
    assert directory.metadata is not None
    assert directory.metadata.attributes == FileAttributes.REPARSE_POINT
    again = [(header.name, header.typeflag, header.size) for header in TarReader(io.BytesIO(copy(tar)))]
    assert again == [("d", "5", 0), ("f", "0", 1)]


def test_global_headers_are_no_files() -> None:
    tar = padded(tar_of((TarHeader("pax_global_header", "g", pax={"MSWINDOWS.fileattr": "2"}), b""))[:-1024])
    ((entry, _),) = entries(tar + tar_of((TarHeader("f"), b"")))
    assert entry.path == "f"
    assert entry.metadata is not None
    assert entry.metadata.attributes == 0


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("Files/.wh.gone", EntryKind.WHITEOUT, "Files/gone"),
        ("Files/.wh.gone/", EntryKind.WHITEOUT, "Files/gone"),
        (".wh.top", EntryKind.WHITEOUT, "top"),
        ("Files/x/../.wh.y", EntryKind.WHITEOUT, "Files/y"),
        ("Files/.wh.", EntryKind.WHITEOUT, "Files"),
        ("Files/d/.wh..wh..opq", EntryKind.OPAQUE, "Files/d"),
        ("./Files/.wh..wh..opq", EntryKind.OPAQUE, "Files"),
        (".wh..wh..opq", EntryKind.OPAQUE, ""),
        ("Files/.wh..wh.aufs", EntryKind.WHITEOUT, "Files/.wh.aufs"),
        ("Files/.wh.d/inner", EntryKind.FILE, "Files/.wh.d/inner"),
    ],
)
@pytest.mark.parametrize("typeflag", "0125")
def test_whiteouts(name: str, kind: EntryKind, path: str, typeflag: str) -> None:
    if name.endswith("/") and typeflag == "0":
        typeflag = "7"
    tar = tar_of((TarHeader(name, typeflag, linkname="x", pax={"MSWINDOWS.fileattr": "32"}), b""))
    ((entry, found),) = entries(tar)
    if kind is EntryKind.FILE:
        assert entry.kind not in (EntryKind.WHITEOUT, EntryKind.OPAQUE)
    else:
        assert (entry.kind, found) == (kind, [])
    assert entry.path == path


def test_whiteouts_and_opaque_markers_are_written() -> None:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    writer.remove("Files/a/ü")
    writer.remove("top")
    writer.hide("Files/d")
    writer.close()
    headers = list(TarReader(io.BytesIO(sink.getvalue())))
    assert [header.name for header in headers] == ["Files/a/.wh.ü", ".wh.top", "Files/d/.wh..wh..opq"]
    assert all((header.typeflag, header.mode, header.mtime) == ("0", 0, (0, 0)) for header in headers)
    assert [(e.kind, e.path) for e, _ in entries(sink.getvalue())] == [
        (EntryKind.WHITEOUT, "Files/a/ü"),
        (EntryKind.WHITEOUT, "top"),
        (EntryKind.OPAQUE, "Files/d"),
    ]


def test_bad_records_of_links_and_whiteouts_do_not_matter() -> None:
    bad = {"MSWINDOWS.fileattr": "x", "MSWINDOWS.rawsd": "?"}
    tar = tar_of((TarHeader("l", "1", linkname="f", pax=bad), b""), (TarHeader(".wh.x", pax=bad), b""))
    assert [entry.metadata for entry, _ in entries(tar)] == [None, None]
    once = copy(tar)
    assert copy(once) == once
    assert [header.linkname for header in TarReader(io.BytesIO(once))] == ["f", ""]


def test_dockerd_has_no_links() -> None:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink, hard_links=False)
    writer.add("Files/a", FILE, streams(("", b"data")))
    writer.add_link("Files/b", "Files/a", FILE, content=lambda: (FILE, streams(("", b"data"))))
    with pytest.raises(TarError, match="content is not at hand"):
        writer.add_link("Files/c", "Files/a", FILE)
    writer.close()
    (first, data), (second, again) = entries(sink.getvalue())
    assert (first.kind, second.kind) == (EntryKind.FILE, EntryKind.FILE)
    assert data == again == [("", b"data")]
    assert first.metadata == second.metadata


# -- metadata ---------------------------------------------------------------------------------------


def test_times_that_a_header_does_not_have_are_unset() -> None:
    metadata = metadata_from_header(TarHeader("f", mtime=(5, 0)))
    assert (metadata.access_time, metadata.change_time) == (0, 0)
    assert metadata.creation_time == metadata.write_time == filetime_from_unix(5)
    header = header_from_metadata("f", metadata)
    assert (header.mtime, header.atime, header.ctime) == ((5, 0), None, None)


@pytest.mark.parametrize("seconds", [-11644473600, -11644473599, -9300000000, 9300000000, 253402300800])
def test_times_beyond_64_bits_of_nanoseconds_are_exact(seconds: int) -> None:
    header = TarHeader("f", mtime=(seconds, 100), format=Format.PAX)
    assert metadata_from_header(header).write_time == (seconds + 11644473600) * 10_000_000 + 1
    assert header_from_metadata("f", metadata_from_header(header)).mtime == (seconds, 100)


def test_times_beyond_a_filetime_end_at_its_limits() -> None:
    assert metadata_from_header(TarHeader("f", mtime=((1 << 63) - 1, 0))).write_time == (1 << 63) - 1
    assert metadata_from_header(TarHeader("f", mtime=(-(1 << 63), 0))).write_time == -(1 << 63)


def test_extended_attributes_keep_their_order() -> None:
    names = ["Z", "a", "M", "b.c", "ü", ""]
    pax = {f"MSWINDOWS.xattr.{name}": "dg==" for name in names}
    assert [ea.name for ea in metadata_from_header(TarHeader("f", pax=pax)).eas] == names


@pytest.mark.parametrize(
    ("pax", "error"),
    [
        ({"MSWINDOWS.fileattr": "+32"}, TarError),
        ({"MSWINDOWS.fileattr": "-1"}, TarError),
        ({"MSWINDOWS.fileattr": "3_2"}, TarError),
        ({"MSWINDOWS.fileattr": "٣"}, TarError),
        ({"MSWINDOWS.fileattr": "9" * 10_000}, TarError),
        ({"MSWINDOWS.rawsd": "QQ"}, TarError),
        ({"MSWINDOWS.rawsd": "QQ==QQ=="}, TarError),
        ({"MSWINDOWS.rawsd": "QQ= ="}, TarError),
        ({"MSWINDOWS.rawsd": "===="}, TarError),
        ({"MSWINDOWS.rawsd": "QUJD="}, TarError),
        ({"MSWINDOWS.rawsd": "QU-_"}, TarError),
        ({"MSWINDOWS.sd": "nonsense"}, SddlError),
        ({"MSWINDOWS.xattr.A": "="}, TarError),
        ({"MSWINDOWS.xattr." + "N" * 256: "QQ=="}, ExtendedAttributeError),
        ({"LIBARCHIVE.creationtime": "1e5"}, TarError),
        ({"LIBARCHIVE.creationtime": " 1"}, TarError),
        ({"LIBARCHIVE.creationtime": "9223372036854775808"}, TarError),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_malformed_records(pax: dict[str, str], error: type[WinlayersError]) -> None:
    with pytest.raises(error) as raised:
        metadata_from_header(TarHeader("Files/f", pax=pax))
    assert raised.value.path == "Files/f"


@pytest.mark.parametrize(
    ("text", "data"),
    [("", None), ("QQ==", b"A"), ("QR==", b"A"), ("QU\nJD\r\n", b"ABC"), ("Q\nQ=\n=\n", b"A")],
)
def test_base64_that_go_takes(text: str, data: bytes | None) -> None:
    assert metadata_from_header(TarHeader("f", pax={"MSWINDOWS.rawsd": text})).security == data


def test_attributes_with_zeroes_in_front() -> None:
    pax = {"MSWINDOWS.fileattr": "0" * 5000 + "32"}
    assert metadata_from_header(TarHeader("f", pax=pax)).attributes == FileAttributes.ARCHIVE


def test_old_descriptors_are_read_as_sddl() -> None:
    sddl = metadata_from_header(TarHeader("f", pax={"MSWINDOWS.sd": "O:BAG:SYD:(A;;FA;;;BA)"})).security
    assert sddl is not None
    assert sddl[0] == 1
    header = header_from_metadata("f", FileMetadata(security=sddl))
    assert "MSWINDOWS.rawsd" in header.pax
    assert "MSWINDOWS.sd" not in header.pax


# -- reparse points ---------------------------------------------------------------------------------


def test_an_empty_print_name_does_not_lose_the_target() -> None:
    """As PowerShell makes junctions."""
    reparse = MountPoint("\\??\\C:\\there", "").to_bytes()
    header = header_from_metadata("j", FileMetadata(FileAttributes(0x410), reparse=reparse), has_data=False)
    assert (header.typeflag, header.linkname, header.pax["MSWINDOWS.mountpoint"]) == ("2", "C:\\there", "1")
    assert metadata_from_header(header).reparse == MountPoint.to("C:\\there").to_bytes()


def test_a_reparse_buffer_whose_print_name_alone_is_right() -> None:
    """The reference reads nothing else of it."""
    reparse = bytearray(SymbolicLink.to("..\\x").to_bytes())
    reparse[4:6] = b"\0\0"  # the length
    reparse[10:12] = b"\xff\xff"  # the substitute name's
    header = header_from_metadata("l", FileMetadata(reparse=bytes(reparse) + b"more"), has_data=False)
    assert header.linkname == "..\\x"


@pytest.mark.parametrize("once", [False, True])
def test_reparse_buffers_that_do_not_hold_their_print_name(once: bool) -> None:
    whole = SymbolicLink.to("..\\x").to_bytes()
    outside = bytearray(whole)
    outside[12:14] = b"\xff\xff"  # the print name's offset, which the reference adds up in 16 bits
    for data in (whole[:1], whole[:19], whole[:-3], bytes(outside)):
        with pytest.raises(ReparseError, match=r"^Files/f: "):
            written(backup_stream((StreamHeader(StreamId.REPARSE_DATA, len(data)), data)), once=once)
    nothing = backup_stream((StreamHeader(StreamId.REPARSE_DATA, 0), b""), DATA)
    assert written(nothing, once=once)[0].header.typeflag == "0"


def test_a_lone_surrogate_in_a_target() -> None:
    reparse = SymbolicLink.to("\ud800a").to_bytes()
    header = header_from_metadata("l", FileMetadata(reparse=reparse), has_data=False)
    assert metadata_from_header(header).reparse == reparse


@pytest.mark.parametrize("tag", [0x80000023, 0x8000001B, 0xA000001F, 0xA000001D, 0x90001018])
def test_other_reparse_points_are_refused_by_name(tag: int) -> None:
    metadata = FileMetadata(reparse=RawReparse(tag, b"data").to_bytes())
    with pytest.raises(ReparseError, match=r"AF_UNIX|APPEXECLINK|WCI_TOMBSTONE|LX_SYMLINK|WCI_1"):
        header_from_metadata("r", metadata)


def test_data_of_a_directory_or_link_is_refused() -> None:
    link = FileMetadata(reparse=SymbolicLink.to("x").to_bytes())
    for metadata in (FOLDER, link):
        with pytest.raises(TarError, match="has 1 bytes of data"):
            write_entry(TarWriter(io.BytesIO()), "x", metadata, streams(("", b"1")))


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["a/b", "ü/😀", "\ud800", "a\udc80b", "\udfff/x", "CON", "a:b", "dot.", "back\\slash"]
)
def test_names_round_trip(path: str) -> None:
    assert path_of_name(name_of_path(path)) == path
    tar = tar_of((TarHeader(name_of_path(path), format=Format.PAX), b""))
    ((entry, _),) = entries(tar)
    assert entry.path == path


def test_a_name_that_is_not_utf8_is_copied_as_it_is() -> None:
    tar = tar_of((TarHeader("Files/latin1-\udcfc", format=Format.GNU), b""))
    assert entries(tar)[0][0].path == "Files/latin1-\ufffd"
    assert entries(copy(tar))[0][0].header.name == "Files/latin1-\udcfc"


# -- backup streams ---------------------------------------------------------------------------------


def backup_stream(*pieces: tuple[StreamHeader, bytes]) -> bytes:
    sink = io.BytesIO()
    writer = BackupStreamWriter(sink)
    for header, data in pieces:
        writer.write_header(header)
        writer.write(data)
    writer.finish()
    return sink.getvalue()


DATA = (StreamHeader(StreamId.DATA, 4), b"data")
SECURITY = (StreamHeader(StreamId.SECURITY_DATA, len(DESCRIPTOR)), DESCRIPTOR)
STREAM = (StreamHeader(StreamId.ALTERNATE_DATA, 6, name=":s:$DATA"), b"stream")
EAS = (StreamHeader(StreamId.EA_DATA, 12), bytes.fromhex("0000000000010100") + b"A\0v\0")
OBJECT = (StreamHeader(StreamId.OBJECT_ID, 16), bytes(16))


def written(stream: bytes, *, once: bool, size: int | None = 4) -> tuple[LayerTarEntry, Streams]:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    write = write_from_backup_stream_once if once else write_from_backup_stream
    write(writer, "Files/f", io.BytesIO(stream), FILE, size=size)
    writer.close()
    (found,) = entries(sink.getvalue())
    return found


@pytest.mark.parametrize("once", [False, True])
def test_streams_before_the_data_are_kept(once: bool) -> None:
    entry, found = written(backup_stream(STREAM, SECURITY, OBJECT, EAS, DATA), once=once)
    assert found == [("", b"data"), ("s", b"stream")]
    assert entry.metadata is not None
    assert entry.metadata.security == DESCRIPTOR
    assert entry.metadata.eas == (ExtendedAttribute("A", b"v"),)


@pytest.mark.parametrize("once", [False, True])
def test_two_streams_of_one_name_are_refused(once: bool) -> None:
    again = (StreamHeader(StreamId.ALTERNATE_DATA, 1, name=":S:$DATA"), b"x")
    for pieces in ((STREAM, DATA, again), (STREAM, again, DATA), (DATA, DATA)):
        with pytest.raises(BackupStreamError):
            written(backup_stream(*pieces), once=once)


@pytest.mark.parametrize("once", [False, True])
def test_the_name_of_a_stream_ends_at_a_null_character(once: bool) -> None:
    ended = StreamHeader(StreamId.ALTERNATE_DATA, 1, name=":s:$DATA\0\0")
    assert written(backup_stream(DATA, (ended, b"x")), once=once)[1] == [("", b"data"), ("s", b"x")]


@pytest.mark.parametrize(
    "name", ["", "s:$DATA", "::$DATA", ":a:b:$DATA", ":a/b:$DATA", ":s:$INDEX_ALLOCATION"]
)
@pytest.mark.parametrize("once", [False, True])
def test_names_that_no_stream_can_have_are_refused(name: str, once: bool) -> None:
    """The reference makes members of them that are other files', or other streams'."""
    stream = (StreamHeader(StreamId.ALTERNATE_DATA, 1, name=name), b"x")
    with pytest.raises(BackupStreamError, match="does not name"):
        written(backup_stream(DATA, stream), once=once)


def test_the_type_of_a_stream_is_not_part_of_its_name_in_any_case() -> None:
    stream = (StreamHeader(StreamId.ALTERNATE_DATA, 1, name=":s:$data"), b"x")
    assert written(backup_stream(DATA, stream), once=True)[1] == [("", b"data"), ("s", b"x")]


@pytest.mark.parametrize("cut", [OBJECT, STREAM, SECURITY], ids=["ignored", "alternate", "descriptor"])
def test_a_stream_that_is_cut_off_is_refused(cut: tuple[StreamHeader, bytes]) -> None:
    """The reference does not notice it in streams that it passes over by seeking."""
    for once in (False, True):
        with pytest.raises(BackupStreamError, match="cut off"):
            written(backup_stream(cut, DATA)[: 20 + 2 * len(cut[0].name) + 3], once=once)


def test_an_empty_descriptor_is_none() -> None:
    entry, _ = written(backup_stream((StreamHeader(StreamId.SECURITY_DATA, 0), b""), DATA), once=True)
    assert "MSWINDOWS.rawsd" not in entry.header.pax


def test_a_link_has_no_size() -> None:
    reparse = SymbolicLink.to("x").to_bytes()
    sink = io.BytesIO()
    stream = backup_stream((StreamHeader(StreamId.REPARSE_DATA, len(reparse)), reparse))
    write_from_backup_stream(TarWriter(sink), "Files/l", io.BytesIO(stream), FILE, size=4)
    member = sink.getvalue()[-512:]
    assert (member[156:157], member[124:136]) == (b"2", b"00000000000\0")


@pytest.mark.parametrize("late", [SECURITY, EAS], ids=["descriptor", "extended attributes"])
def test_what_comes_after_the_data_needs_a_second_reading(late: tuple[StreamHeader, bytes]) -> None:
    stream = backup_stream(DATA, STREAM, late)
    entry, found = written(stream, once=False)
    assert found == [("", b"data"), ("s", b"stream")]
    assert entry.metadata is not None
    assert bool(entry.metadata.security) == (late is SECURITY)
    assert bool(entry.metadata.eas) == (late is EAS)
    with pytest.raises(BackupStreamError, match="too late for a source that is read once"):
        written(stream, once=True)


def sparse_stream(size: int) -> bytes:
    return backup_stream(
        (StreamHeader(StreamId.DATA, 0, 8), b""),
        (StreamHeader(StreamId.SPARSE_BLOCK, 3, offset=100), b"abc"),
        (StreamHeader(StreamId.SPARSE_BLOCK, 0, offset=size), b""),
        STREAM,
    )


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("size", [103, 5000])
def test_sparse_blocks_become_data(once: bool, size: int) -> None:
    _, found = written(sparse_stream(size), once=once, size=size)
    assert found == [("", bytes(100) + b"abc" + bytes(size - 103)), ("s", b"stream")]


def test_the_size_of_a_sparse_file_must_be_known() -> None:
    assert written(sparse_stream(200), once=False, size=None)[0].size == 200
    with pytest.raises(BackupStreamError, match="must be told"):
        written(sparse_stream(200), once=True, size=None)
    for size in (150, 250):
        for once in (False, True):
            with pytest.raises(BackupStreamError):
                written(sparse_stream(200), once=once, size=size)


def test_too_much_before_the_data_is_refused() -> None:
    huge = StreamHeader(StreamId.ALTERNATE_DATA, 1 << 40, name=":s:$DATA")
    sink = io.BytesIO()
    BackupStreamWriter(sink).write_header(huge)
    with pytest.raises(BackupStreamError, match="over the limit"):
        written(sink.getvalue(), once=True)


@pytest.mark.parametrize("once", [False, True])
def test_spoilt_streams_raise_package_errors(once: bool) -> None:
    rng = random.Random(9)
    originals = [backup_stream(STREAM, SECURITY, EAS, DATA), sparse_stream(300)]
    for _ in range(500):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 4, 9, 255))
        del data[rng.choice((len(data), rng.randrange(len(data)))) :]
        try:
            written(bytes(data), once=once, size=rng.choice((4, 300)))
        except WinlayersError:
            pass


def test_only_files_have_backup_streams() -> None:
    ((entry, _),) = entries(tar_of((TarHeader(".wh.x"), b"")))
    with pytest.raises(TarError, match="no backup stream"):
        write_backup_stream(entry, io.BytesIO())


def test_a_stream_must_have_what_it_says() -> None:
    for size, match in ((3, "more than announced"), (5, "less than announced")):
        with pytest.raises(TarError, match=match):
            write_entry(TarWriter(io.BytesIO()), "f", FILE, [DataStream("", size, (b"data",))])
    with pytest.raises(TarError, match="must come first"):
        write_entry(TarWriter(io.BytesIO()), "f", FILE, streams(("s", b"x"), ("", b"data")))
