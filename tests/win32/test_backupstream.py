"""Single backup streams."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import require_vectors
from tests.win32.strategies import any_text
from winlayers.errors import BackupStreamError
from winlayers.win32.backupstream import BackupStreamReader, BackupStreamWriter, StreamHeader, StreamId
from winlayers.win32.names import join_surrogates


class Trickle:
    """A source that gives few bytes at a time and can't seek."""

    def __init__(self, data: bytes, most: int = 3) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        """At most three bytes, whatever is asked for."""
        return self._file.read(min(size, self._most))


def raw(stream_id: int, data: bytes = b"", *, name: bytes = b"", attributes: int = 0) -> bytes:
    """One stream, put together by hand."""
    return struct.pack("<IIQI", stream_id, attributes, len(data), len(name)) + name + data


def read_all(data: bytes) -> list[tuple[StreamHeader, bytes]]:
    """All the streams in *data*."""
    reader = BackupStreamReader(Trickle(data))
    return [(header, b"".join(reader.chunks())) for header in reader]


def write_all(streams: Sequence[tuple[StreamHeader, bytes]]) -> bytes:
    """The serialised form of *streams*."""
    sink = io.BytesIO()
    writer = BackupStreamWriter(sink)
    for header, data in streams:
        writer.write_header(header)
        writer.write(memoryview(data))
    writer.finish()
    return sink.getvalue()


def test_streams_of_every_kind_are_read_in_their_order() -> None:
    name = ":s:$DATA".encode("utf-16-le")
    data = (
        raw(StreamId.SECURITY_DATA, b"sd")
        + raw(StreamId.DATA, b"", attributes=8)
        + raw(StreamId.SPARSE_BLOCK, struct.pack("<q", 65536) + b"block")
        + raw(StreamId.ALTERNATE_DATA, b"content", name=name, attributes=1)
        + raw(StreamId.LINK, b"l")
        + raw(77, b"unknown")
    )
    streams = read_all(data)
    assert streams == [
        (StreamHeader(StreamId.SECURITY_DATA, 2), b"sd"),
        (StreamHeader(StreamId.DATA, 0, 8), b""),
        (StreamHeader(StreamId.SPARSE_BLOCK, 5, offset=65536), b"block"),
        (StreamHeader(StreamId.ALTERNATE_DATA, 7, 1, ":s:$DATA"), b"content"),
        (StreamHeader(StreamId.LINK, 1), b"l"),
        (StreamHeader(77, 7), b"unknown"),
    ]
    assert write_all(streams) == data


def test_what_is_not_read_is_skipped() -> None:
    data = raw(1, b"x" * 3_000_000) + raw(7, b"end")
    for source, seek in ((Trickle(data, 70_000), None), (file := io.BytesIO(data), file.seek)):
        reader = BackupStreamReader(source, seek=seek)
        assert reader.next() == StreamHeader(1, 3_000_000)
        assert reader.read(5)
        assert reader.peek() == StreamHeader(7, 3)
        assert reader.next() == StreamHeader(7, 3)
        assert reader.header_position == 3_000_020
        assert b"".join(reader.chunks()) == b"end"
        assert reader.read() == b""
        assert reader.next() is None
        assert reader.next() is None


def test_skipping_by_seeking_notices_a_cut() -> None:
    file = io.BytesIO(raw(1, b"x" * 3_000_000)[:-1])
    reader = BackupStreamReader(file, seek=file.seek, path="Files/f")
    reader.next()
    with pytest.raises(BackupStreamError, match="Files/f: a DATA stream is cut off"):
        reader.next()


def test_a_size_that_no_file_has_is_not_sought() -> None:
    # found by fuzzing: seeking that far is an OverflowError, or an OSError on a file
    file = io.BytesIO(struct.pack("<IIQI", 1, 0, 2**63 - 1, 0) + b"x" * 100)
    reader = BackupStreamReader(file, seek=file.seek)
    reader.next()
    with pytest.raises(
        BackupStreamError, match=f"a DATA stream is cut off, {2**63 - 101} bytes before its end"
    ):
        reader.next()


def test_every_cut_is_noticed_but_one_between_streams() -> None:
    streams = [raw(1, b"data"), raw(4, b"more", name=b":\0s\0"), raw(9, bytes(8) + b"sparse")]
    data = b"".join(streams)
    ends = {0, len(streams[0]), len(streams[0] + streams[1]), len(data)}
    for cut in range(len(data) + 1):
        if cut in ends:
            read_all(data[:cut])
        else:
            with pytest.raises(BackupStreamError):
                read_all(data[:cut])


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IIQI", 1, 0, 2**63, 0),
        struct.pack("<IIQI", 4, 0, 0, 3) + b"abc",
        struct.pack("<IIQI", 4, 0, 0, 0xFFFF_FFFE) + b"abc",
        raw(9, b"short"),
        raw(9, struct.pack("<q", -1)),
        struct.pack("<IIQIq", 9, 0, 100 + 8, 0, 2**63 - 50),
    ],
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(BackupStreamError):
        read_all(data)


def test_a_stream_can_not_be_read_on_after_the_next_has_begun() -> None:
    reader = BackupStreamReader(io.BytesIO(raw(1, b"abcdef") + raw(1, b"ghijkl")))
    reader.next()
    chunks = reader.chunks(2)
    assert next(chunks) == b"ab"
    reader.next()
    with pytest.raises(BackupStreamError):
        next(chunks)


@pytest.mark.parametrize("asked_for", [20, 16, 3])
def test_a_source_that_gives_more_than_it_was_asked_for_is_refused(asked_for: int) -> None:
    class Generous:
        def __init__(self) -> None:
            name = ":s:$DATA".encode("utf-16-le")
            self.file = io.BytesIO(raw(StreamId.ALTERNATE_DATA, b"abc", name=name) + b"more")

        def read(self, size: int, /) -> bytes:
            return self.file.read(size + 1 if size == asked_for else size)

    reader = BackupStreamReader(Generous())
    with pytest.raises(BackupStreamError, match="when asked for"):
        _ = [list(reader.chunks()) for _ in reader]


def test_too_much_is_not_read_into_memory() -> None:
    reader = BackupStreamReader(io.BytesIO(raw(3, b"x" * 11)))
    reader.next()
    with pytest.raises(BackupStreamError):
        reader.read_all(10)


def test_the_writer_holds_data_against_its_header() -> None:
    writer = BackupStreamWriter(io.BytesIO())
    writer.write_header(StreamHeader(1, 3))
    with pytest.raises(BackupStreamError, match="more"):
        writer.write(b"four")
    writer.write(b"ab")
    with pytest.raises(BackupStreamError, match="1 bytes less"):
        writer.write_header(StreamHeader(1, 0))
    with pytest.raises(BackupStreamError, match="1 bytes less"):
        writer.finish()


@pytest.mark.parametrize(
    "header",
    [
        StreamHeader(1, -1),
        StreamHeader(1, 2**63),
        StreamHeader(9, 2**63 - 4),
        StreamHeader(9, 0, offset=-1),
        StreamHeader(4, 0, name="x" * 40000),
    ],
)
def test_the_writer_refuses_what_can_not_be_written(header: StreamHeader) -> None:
    with pytest.raises(BackupStreamError):
        BackupStreamWriter(io.BytesIO()).write_header(header)


_STREAMS = st.lists(
    st.builds(
        lambda stream_id, attributes, name, offset, data: (
            StreamHeader(
                stream_id, len(data), attributes, join_surrogates(name), offset if stream_id == 9 else 0
            ),
            data,
        ),
        st.one_of(st.integers(1, 10), st.integers(0, 2**32 - 1)),
        st.integers(0, 2**32 - 1),
        any_text,
        st.integers(0, 2**62),
        st.binary(max_size=50),
    ),
    max_size=6,
)


@given(_STREAMS)
def test_streams_survive_their_bytes(streams: list[tuple[StreamHeader, bytes]]) -> None:
    assert read_all(write_all(streams)) == streams


@given(
    st.one_of(
        st.binary(), st.builds(lambda s, cut: write_all(s)[: -cut or None], _STREAMS, st.integers(0, 9))
    )
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        streams = read_all(data)
    except BackupStreamError:
        return
    assert write_all(streams) == data


def test_vectors_are_read_and_written_again() -> None:
    checked = 0
    for index in sorted(require_vectors("backuptar").rglob("index.json")):
        for entry in json.loads(index.read_text())["entries"]:
            if "bs" not in entry or "error" in entry or "57-src-truncated-header" in index.parts:
                continue
            data = (index.parent / entry["bs"]).read_bytes()
            assert write_all(read_all(data)) == data, (index, entry["name"])
            checked += 1
    assert checked > 150
