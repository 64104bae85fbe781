"""Identities that hold for everything that the formats can carry, and for arbitrary bytes: no surprises."""

from __future__ import annotations

import io

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tar.go_oracle import ChunkedSource
from tests.tar.mutations import raw_header, with_checksum
from winlayers.errors import WinlayersError
from winlayers.tar import (
    EntryKind,
    Format,
    TarHeader,
    TarLayerWriter,
    TarReader,
    TarWriter,
    entries_from_tar,
    write_backup_stream,
    write_from_backup_stream,
    write_from_backup_stream_once,
)
from winlayers.tar.backuptar import name_of_path, path_of_name
from winlayers.tar.fields import (
    format_pax_record,
    format_pax_records,
    format_pax_time,
    parse_pax_records,
    parse_pax_time,
)
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.names import fold_key, join_surrogates
from winlayers.win32.reparse import MountPoint, SymbolicLink

# A name as bytes of a header: no NUL; what is no UTF-8 stands as surrogates.
raw_names = st.binary(min_size=1, max_size=200).map(
    lambda data: data.replace(b"\0", b"0").decode("utf-8", "surrogateescape")
)
windows_names = st.text(
    st.characters(codec=None, exclude_characters='\0/\\:*?"<>|', min_codepoint=32), min_size=1, max_size=40
).map(join_surrogates)
paths = (
    st.lists(windows_names, min_size=1, max_size=5)
    .map("/".join)
    .filter(lambda path: not path.rpartition("/")[2].startswith(".wh.") and path not in (".", ".."))
)
pax_times = st.tuples(st.integers(-(1 << 62), 1 << 62), st.integers(0, 999_999_999))
filetimes = st.integers(1, (1 << 63) - 1)
record_keys = st.text(st.characters(exclude_characters="=\0", codec="utf-8"), min_size=1, max_size=20)
records = st.dictionaries(
    record_keys, st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=5
)

FIELDS = ("name", "typeflag", "size", "mode", "uid", "gid", "mtime", "atime", "ctime", "linkname", "uname")
BASIC = {"path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime"}


@st.composite
def headers(draw: st.DrawFn) -> TarHeader:
    """Headers that PAX can hold in full."""
    typeflag = draw(st.sampled_from("01234567"))
    name = draw(raw_names).rstrip("/") or "x"
    return TarHeader(
        name,
        typeflag,
        draw(st.integers(0, 300)) if typeflag in "07" else 0,
        draw(st.integers(0, 0o7777777)),
        draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        draw(pax_times),
        draw(raw_names) if typeflag in "12" else "",
        draw(st.just("") | raw_names),
        "",
        draw(st.integers(0, 0o7777777)),
        draw(st.integers(0, 0o7777777)),
        draw(st.none() | pax_times),
        draw(st.none() | pax_times),
        Format.PAX,
        {k: v for k, v in draw(records).items() if k not in BASIC and not k.startswith("GNU.sparse.")},
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(headers(), max_size=4), st.integers(1, 2000))
def test_headers_survive(written: list[TarHeader], chunk: int) -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    for header in written:
        writer.write_header(header)
        writer.write(b"d" * header.size)
    writer.close()
    reader = TarReader(ChunkedSource(sink.getvalue(), chunk))
    for header in written:
        found = next(reader)
        for field in FIELDS:
            assert getattr(found, field) == getattr(header, field), field
        assert {key: value for key, value in found.pax.items() if key not in BASIC} == header.pax
        assert reader.read() == b"d" * header.size
    assert reader.next() is None


@given(records)
def test_pax_records_survive(found: dict[str, str]) -> None:
    data = format_pax_records(found)
    if not any(key.startswith("GNU.sparse.") for key in found):
        assert parse_pax_records(data) == found
    assert data == b"".join(format_pax_record(key, found[key]) for key in sorted(found, key=str.encode))


@given(pax_times)
def test_pax_times_survive(time: tuple[int, int]) -> None:
    assert parse_pax_time(format_pax_time(time)) == time


@given(windows_names)
@example("\ud83d\ude00")
@example("\ude00\ud83d")
def test_windows_names_survive(name: str) -> None:
    assert path_of_name(name_of_path(name)) == join_surrogates(name)


# -- tar -> metadata -> tar -------------------------------------------------------------------------

targets = st.text(st.characters(codec=None, exclude_characters="\0/"), min_size=1, max_size=60).map(
    join_surrogates
)
ea_names = st.text(st.characters(exclude_characters="=\0", codec="utf-8"), max_size=30)
eas = st.lists(
    st.builds(ExtendedAttribute, ea_names, st.binary(max_size=50)), max_size=3, unique_by=lambda ea: ea.name
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, FileMetadata, list[tuple[str, bytes]], bool]:
    """A path, metadata, streams, and whether it is a directory."""
    kind = draw(st.sampled_from(("file", "directory", "link", "junction")))
    attributes = draw(st.integers(0, (1 << 32) - 1)) & ~0x10
    is_directory = kind in ("directory", "junction")
    target = draw(targets)
    reparse = {"link": SymbolicLink.to(target), "junction": MountPoint.to(target)}.get(kind)
    metadata = FileMetadata(
        FileAttributes(attributes | (0x10 if is_directory else 0)),
        draw(filetimes),
        draw(st.just(0) | filetimes),
        draw(filetimes),
        draw(st.just(0) | filetimes),
        draw(st.none() | st.binary(min_size=1, max_size=200)),
        tuple(sorted(draw(eas), key=lambda ea: ea.name.encode())),
        None if reparse is None else reparse.to_bytes(),
    )
    streams = [("", draw(st.binary(max_size=1500)))] if kind == "file" else []
    streams += draw(
        st.lists(
            st.tuples(windows_names, st.binary(max_size=600)), max_size=3, unique_by=lambda s: fold_key(s[0])
        )
    )
    return draw(paths), metadata, streams, is_directory


Files = list[tuple[str, FileMetadata, list[tuple[str, bytes]], bool]]


def layer(found: Files) -> bytes:
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    for path, metadata, streams, is_directory in found:
        data = [DataStream(name, len(content), (content,)) for name, content in streams]
        writer.add(path, metadata, data, is_directory=is_directory)
    writer.close()
    return sink.getvalue()


@settings(max_examples=200, deadline=None)
@given(st.lists(files(), max_size=3))
def test_metadata_survive(found: Files) -> None:
    """metadata -> tar -> metadata -> tar, and what was read is what was written."""
    tar = layer(found)
    again: Files = []
    for entry in entries_from_tar(TarReader(io.BytesIO(tar))):
        assert entry.metadata is not None
        streams = [(s.name, b"".join(bytes(c) for c in s.chunks)) for s in entry.streams]
        again.append((entry.path, entry.metadata, streams, entry.kind is EntryKind.DIRECTORY))
    assert again == [(join_surrogates(path), *rest) for path, *rest in found]
    assert layer(again) == tar


@settings(max_examples=100, deadline=None)
@given(files(), st.booleans())
def test_streams_survive(found: tuple[str, FileMetadata, list[tuple[str, bytes]], bool], once: bool) -> None:
    """tar -> backup stream -> tar, from sources read twice and once."""
    tar = layer([found])
    entry = next(entries_from_tar(TarReader(io.BytesIO(tar))))
    stream = io.BytesIO()
    write_backup_stream(entry, stream)
    stream.seek(0)
    sink = io.BytesIO()
    writer = TarWriter(sink)
    assert entry.metadata is not None
    basic = FileMetadata(
        entry.metadata.attributes,
        entry.metadata.creation_time,
        entry.metadata.access_time,
        entry.metadata.write_time,
        entry.metadata.change_time,
    )
    (write_from_backup_stream_once if once else write_from_backup_stream)(writer, entry.path, stream, basic)
    writer.close()
    assert sink.getvalue() == tar


# -- arbitrary bytes --------------------------------------------------------------------------------


def read_everything(data: bytes) -> None:
    reader = TarReader(io.BytesIO(data))
    for entry in entries_from_tar(reader):
        for stream in entry.streams:
            for _ in zip(range(20), stream.chunks, strict=False):
                pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=300), st.integers(0, 511))
def test_arbitrary_bytes(data: bytes, patch: bytes, at: int) -> None:
    """As they come, and laid over a real header with its checksum set right."""
    block = bytearray(raw_header(b"name", b"0", 10))
    block[at : at + len(patch)] = patch
    for stream in (data, with_checksum(bytes(block[:512].ljust(512, b"\0"))) + data):
        try:
            read_everything(stream)
        except WinlayersError:
            pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_pax_data(data: bytes) -> None:
    try:
        parse_pax_records(data)
    except WinlayersError:
        pass
