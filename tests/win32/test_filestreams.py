"""Files as backup streams."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import require_vectors
from tests.win32.strategies import extended_attributes, stream_names
from winlayers.errors import BackupStreamError, ExtendedAttributeError, FormatError
from winlayers.win32 import filestreams
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.backupstream import BackupStreamWriter, StreamHeader, StreamId
from winlayers.win32.ea import build_eas
from winlayers.win32.filestreams import (
    FileContent,
    iter_data_streams,
    read_file_streams,
    read_transport_file,
    scan_file_streams,
    write_file_streams,
    write_transport_file,
)
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.names import fold_key

SPARSE = 8
EAS = (ExtendedAttribute("ABC", b"value", 0x80),)


def stream(
    stream_id: int, data: bytes = b"", *, name: str = "", attributes: int = 0, offset: int = 0
) -> bytes:
    """One serialised stream."""
    sink = io.BytesIO()
    writer = BackupStreamWriter(sink)
    writer.write_header(StreamHeader(stream_id, len(data), attributes, name, offset))
    writer.write(data)
    return sink.getvalue()


def block(offset: int, data: bytes = b"") -> bytes:
    """One sparse block."""
    return stream(StreamId.SPARSE_BLOCK, data, offset=offset)


def contents(content: FileContent) -> dict[str, bytes]:
    """The data of each stream."""
    return {s.name: b"".join(s.chunks) for s in content.streams}


def data_of(raw: bytes) -> bytes:
    """The unnamed stream in *raw*, whose size must be as told beforehand."""
    (unnamed,) = read_file_streams(io.BytesIO(raw)).streams
    data = b"".join(unnamed.chunks)
    assert (unnamed.name, unnamed.size) == ("", len(data))
    return data


def written(metadata: FileMetadata, streams: dict[str, bytes]) -> bytes:
    """The serialised form of a file."""
    sink = io.BytesIO()
    write_file_streams(metadata, (DataStream(n, len(d), [d]) for n, d in streams.items()), sink)
    return sink.getvalue()


class TestOrder:
    def test_streams_are_written_in_the_order_of_the_reference(self) -> None:
        metadata = FileMetadata(security=b"sd", eas=EAS, reparse=b"reparse!")
        assert written(metadata, {"": b"data", "s": b"more"}) == (
            stream(StreamId.SECURITY_DATA, b"sd")
            + stream(StreamId.EA_DATA, build_eas(EAS))
            + stream(StreamId.REPARSE_DATA, b"reparse!")
            + stream(StreamId.DATA, b"data")
            + stream(StreamId.ALTERNATE_DATA, b"more", name=":s:$DATA")
        )

    def test_nothing_is_written_for_what_is_not_there(self) -> None:
        assert written(FileMetadata(), {}) == b""
        assert written(FileMetadata(security=b"", reparse=b""), {"": b""}) == stream(StreamId.DATA)

    def test_streams_are_read_in_any_order(self) -> None:
        content = read_file_streams(
            io.BytesIO(
                stream(StreamId.ALTERNATE_DATA, b"early", name=":e:$data")
                + stream(StreamId.DATA, b"data")
                + stream(StreamId.LINK, b"link")
                + stream(StreamId.OBJECT_ID, b"id")
                + stream(StreamId.LINK, b"link")
                + stream(StreamId.EA_DATA, build_eas(EAS))
                + stream(StreamId.SECURITY_DATA, b"sd")
                + stream(StreamId.TXFS_DATA)
                + stream(StreamId.PROPERTY_DATA)
            ),
            metadata=FileMetadata(FileAttributes.HIDDEN, write_time=5),
        )
        assert content.metadata == FileMetadata(FileAttributes.HIDDEN, write_time=5, security=b"sd", eas=EAS)
        assert [s.name for s in content.streams] == ["", "e"]
        assert contents(content) == {"": b"data", "e": b"early"}
        assert content.ignored == (
            StreamId.LINK,
            StreamId.OBJECT_ID,
            StreamId.TXFS_DATA,
            StreamId.PROPERTY_DATA,
        )

    def test_the_unnamed_stream_must_be_written_first(self) -> None:
        with pytest.raises(BackupStreamError, match="first"):
            written(FileMetadata(), {"s": b"", "": b""})

    @pytest.mark.parametrize("size", [3, 5])
    def test_data_must_have_the_size_that_was_told(self, size: int) -> None:
        with pytest.raises(BackupStreamError):
            write_file_streams(FileMetadata(), [DataStream("", size, [b"four"])], io.BytesIO())

    def test_a_source_may_begin_anywhere(self) -> None:
        file = io.BytesIO(b"before" + stream(StreamId.DATA, b"data"))
        file.seek(6)
        assert contents(read_file_streams(file)) == {"": b"data"}


class TestSparse:
    def test_no_stream_at_all(self) -> None:
        assert read_file_streams(io.BytesIO(b""), file_size=0).streams == ()

    def test_an_empty_data_stream_alone(self) -> None:
        assert data_of(stream(StreamId.DATA, attributes=SPARSE)) == b""
        after = stream(StreamId.ALTERNATE_DATA, b"x", name=":s:$DATA")
        content = read_file_streams(io.BytesIO(stream(StreamId.DATA, attributes=SPARSE) + after))
        assert contents(content) == {"": b"", "s": b"x"}

    def test_a_data_stream_with_everything(self) -> None:
        assert data_of(stream(StreamId.DATA, b"all of it", attributes=SPARSE)) == b"all of it"

    def test_blocks(self) -> None:
        raw = stream(StreamId.DATA, attributes=SPARSE) + block(2, b"ab") + block(4, b"c") + block(2_500_000)
        assert data_of(raw) == b"\0\0abc" + bytes(2_499_995)

    def test_a_hole_alone(self) -> None:
        assert data_of(stream(StreamId.DATA, attributes=SPARSE) + block(1000)) == bytes(1000)
        assert data_of(stream(StreamId.DATA, attributes=SPARSE) + block(0)) == b""

    def test_streams_after_the_blocks(self) -> None:
        raw = (
            stream(StreamId.DATA, attributes=SPARSE)
            + block(1, b"x")
            + block(3)
            + stream(StreamId.ALTERNATE_DATA, b"ads", name=":s:$DATA")
            + stream(StreamId.SECURITY_DATA, b"sd")
        )
        content = read_file_streams(io.BytesIO(raw))
        assert contents(content) == {"": b"\0x\0", "s": b"ads"}
        assert content.metadata.security == b"sd"

    def test_a_huge_hole_costs_nothing_until_it_is_read(self) -> None:
        raw = stream(StreamId.DATA, attributes=SPARSE) + block(2**62)
        (unnamed,) = read_file_streams(io.BytesIO(raw)).streams
        assert unnamed.size == 2**62
        assert next(iter(unnamed.chunks)) == bytes(1 << 20)

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (block(0), "does not follow"),
            (stream(StreamId.DATA) + block(0), "does not follow"),
            (stream(StreamId.DATA, b"x", attributes=SPARSE) + block(1), "does not follow"),
            (stream(StreamId.DATA, attributes=SPARSE) + block(1) + block(1), "does not follow"),
            (stream(StreamId.DATA, attributes=SPARSE) + block(9, b"x"), "before its last block"),
            (stream(StreamId.DATA, attributes=SPARSE) + block(9, b"x") + block(9), "goes back from 10 to 9"),
            (stream(StreamId.DATA, attributes=SPARSE) + block(9, b"x") + stream(3), "between sparse blocks"),
            (stream(StreamId.ALTERNATE_DATA, b"x", name=":s:$DATA", attributes=SPARSE), "sparse"),
        ],
    )
    def test_what_is_malformed_is_refused(self, raw: bytes, message: str) -> None:
        with pytest.raises(BackupStreamError, match=message):
            read_file_streams(io.BytesIO(raw), path="Files/f")


class TestRefusals:
    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (stream(11), "unknown stream id 11"),
            (stream(0), "unknown stream id 0"),
            (stream(1) + stream(1), "two data streams"),
            (stream(4, name=":s:$DATA") + stream(4, name=":S"), "two data streams"),
            (stream(4, name="s:$DATA"), "does not name"),
            (stream(4), "does not name"),
            (stream(4, name="::$DATA"), "does not name"),
            (stream(4, name=":s:$INDEX_ALLOCATION"), "does not name"),
            (stream(4, name=":a/b:$DATA"), "does not name"),
            (stream(3, bytes(filestreams.MAX_METADATA_SIZE + 1)), "over the limit"),
            (2 * stream(3, bytes(filestreams.MAX_METADATA_SIZE - 1)), "over the limit"),
            (stream(1, b"data")[:-1], "cut off"),
            (stream(3, b"sd")[:-1], "cut off"),
        ],
    )
    def test_what_is_malformed_is_refused_by_name(self, raw: bytes, message: str) -> None:
        with pytest.raises(BackupStreamError, match=f"^Files/f: .*{message}"):
            read_file_streams(io.BytesIO(raw), path="Files/f")

    def test_malformed_extended_attributes_are_refused(self) -> None:
        with pytest.raises(ExtendedAttributeError):
            read_file_streams(io.BytesIO(stream(StreamId.EA_DATA, b"junk")))

    def test_too_many_streams_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(filestreams, "MAX_STREAMS", 2)
        raw = b"".join(stream(4, name=f":{n}:$DATA") for n in range(3))
        with pytest.raises(BackupStreamError, match="more than 2"):
            read_file_streams(io.BytesIO(raw))

    def test_names_of_streams_take_bounded_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(filestreams, "MAX_STREAM_NAMES", 1000)
        raw = b"".join(stream(4, name=f":{n:0250}:$DATA") for n in range(4))
        assert len(read_file_streams(io.BytesIO(raw)).streams) == 4
        with pytest.raises(BackupStreamError, match="names of over 1000 characters"):
            read_file_streams(io.BytesIO(raw + stream(4, name=":x:$DATA")))

    @pytest.mark.parametrize("raw", [stream(1, b"abc"), b"", stream(1, attributes=SPARSE) + block(5)])
    def test_another_size_than_was_told_is_refused(self, raw: bytes) -> None:
        with pytest.raises(BackupStreamError, match="where 4 were told"):
            read_file_streams(io.BytesIO(raw), file_size=4)

    def test_a_link_without_data_may_have_any_size(self) -> None:
        assert read_file_streams(io.BytesIO(stream(StreamId.REPARSE_DATA, b"r")), file_size=4).streams == ()


class TestTwoPasses:
    RAW = (
        stream(StreamId.ALTERNATE_DATA, b"first", name=":a:$DATA")
        + stream(StreamId.LINK, b"skipped")
        + stream(StreamId.DATA, attributes=SPARSE)
        + block(2, b"xy")
        + block(6)
        + stream(StreamId.ALTERNATE_DATA, b"last", name=":b:$DATA")
    )

    def test_a_source_that_can_only_be_opened_twice(self) -> None:
        found = scan_file_streams(io.BytesIO(self.RAW))
        passed = [
            (s.name, s.size, b"".join(s.chunks)) for s in iter_data_streams(io.BytesIO(self.RAW), found)
        ]
        assert passed == [("a", 5, b"first"), ("", 6, b"\0\0xy\0\0"), ("b", 4, b"last")]

    def test_streams_that_are_not_wanted_are_skipped(self) -> None:
        found = scan_file_streams(io.BytesIO(self.RAW))
        last = [s for s in iter_data_streams(io.BytesIO(self.RAW), found) if s.name == "b"]
        assert len(last) == 1

    def test_a_stream_that_was_left_behind_can_not_be_read(self) -> None:
        found = scan_file_streams(io.BytesIO(self.RAW))
        streams = list(iter_data_streams(io.BytesIO(self.RAW), found))
        with pytest.raises(BackupStreamError, match="gone to the next"):
            b"".join(streams[0].chunks)

    @pytest.mark.parametrize(
        "other",
        [
            b"",
            RAW[:-30],
            RAW.replace(block(6), block(7)),
            stream(StreamId.LINK, b"long enough to reach beyond the first stream that was found"),
        ],
    )
    def test_a_source_that_changes_in_between_is_noticed(self, other: bytes) -> None:
        found = scan_file_streams(io.BytesIO(self.RAW))
        with pytest.raises(BackupStreamError):
            _ = [b"".join(s.chunks) for s in iter_data_streams(io.BytesIO(other), found)]

    def test_a_file_that_is_cut_in_between_is_noticed(self) -> None:
        file = io.BytesIO(stream(StreamId.DATA, b"data"))
        (unnamed,) = read_file_streams(file).streams
        file.truncate(0)
        with pytest.raises(BackupStreamError):
            b"".join(unnamed.chunks)


class TestTransport:
    def test_attributes_stand_in_front(self) -> None:
        metadata = FileMetadata(FileAttributes(0x80000021), security=b"sd")
        sink = io.BytesIO()
        write_transport_file(metadata, [DataStream("", 1, [b"x"])], sink)
        assert sink.getvalue() == b"\x21\0\0\x80" + stream(3, b"sd") + stream(1, b"x")
        sink.seek(0)
        content = read_transport_file(sink)
        assert content.metadata == metadata
        assert contents(content) == {"": b"x"}

    def test_a_file_without_attributes_is_refused(self) -> None:
        with pytest.raises(BackupStreamError, match="Files/f"):
            read_transport_file(io.BytesIO(b"\0\0\0"), path="Files/f")


_METADATA = st.builds(
    FileMetadata,
    attributes=st.integers(0, 2**32 - 1).map(FileAttributes),
    security=st.one_of(st.none(), st.binary(min_size=1, max_size=40)),
    eas=st.lists(extended_attributes, max_size=3).map(tuple),
    reparse=st.one_of(st.none(), st.binary(min_size=1, max_size=40)),
)
_NAMED = st.lists(
    st.tuples(stream_names, st.binary(max_size=60)), max_size=3, unique_by=lambda s: fold_key(s[0])
)
_UNNAMED = st.lists(st.binary(max_size=60).map(lambda data: ("", data)), max_size=1)
_STREAMS = st.builds(lambda unnamed, named: dict(unnamed + named), _UNNAMED, _NAMED)


@given(_METADATA, _STREAMS)
def test_a_file_survives_the_transport_format(metadata: FileMetadata, streams: dict[str, bytes]) -> None:
    sink = io.BytesIO()
    write_transport_file(metadata, (DataStream(n, len(d), [d]) for n, d in streams.items()), sink)
    sink.seek(0)
    content = read_transport_file(sink)
    assert content.metadata == metadata
    assert contents(content) == streams
    again = io.BytesIO()
    write_transport_file(content.metadata, content.streams, again)
    assert again.getvalue() == sink.getvalue()


@given(
    st.lists(st.tuples(st.integers(0, 50), st.binary(min_size=1, max_size=50)), max_size=5),
    st.integers(0, 50),
)
def test_blocks_with_any_holes_are_the_content(holes: list[tuple[int, bytes]], tail: int) -> None:
    raw, expected = stream(StreamId.DATA, attributes=SPARSE), b""
    for hole, data in holes:
        raw += block(len(expected) + hole, data)
        expected += bytes(hole) + data
    expected += bytes(tail)
    assert data_of(raw + block(len(expected))) == expected


_PIECES: Callable[..., st.SearchStrategy[bytes]] = st.builds
_ANY = st.lists(
    st.one_of(
        st.binary(max_size=30),
        _PIECES(
            lambda i, d, a, n, o: stream(i, d, attributes=a, name=n, offset=o if i == 9 else 0),
            st.integers(0, 11),
            st.binary(max_size=20),
            st.sampled_from([0, SPARSE]),
            st.sampled_from(["", ":s:$DATA", ":t:$DATA", "s"]),
            st.integers(0, 100),
        ),
    ),
    max_size=6,
).map(b"".join)


@given(_ANY)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        content = read_file_streams(io.BytesIO(raw))
        streams = contents(content)
    except FormatError:
        return
    again = read_file_streams(io.BytesIO(written(content.metadata, streams)))
    assert again.metadata == content.metadata
    assert contents(again) == streams


def vector_files(root: Path, pattern: str) -> Iterator[tuple[str, dict[str, object], bytes]]:
    """(case and name, entry, stream) of each recorded file."""
    for index in sorted(root.glob(pattern)):
        for entry in json.loads(index.read_text())["entries"]:
            if "bs" in entry and "error" not in entry:
                case = index.relative_to(root).parts[0]
                yield f"{case}: {entry['name']}", entry, (index.parent / entry["bs"]).read_bytes()


class TestVectors:
    def test_every_stream_that_the_reference_writes_comes_back_identical(self) -> None:
        checked = 0
        for label, entry, raw in vector_files(require_vectors("backuptar"), "*/index.json"):
            assert hashlib.sha256(raw).hexdigest() == entry["bs_sha256"], label
            content = read_file_streams(io.BytesIO(raw), path=label)
            assert written(content.metadata, contents(content)) == raw, label
            checked += 1
        assert checked > 150

    REFUSED: ClassVar[dict[str, str]] = {
        "47-src-sparse-backwards": "goes back from 69632 to 100",
        "49-src-sparse-short": "100000 bytes where 150000 were told",
        "53-src-size-mismatch": "300 bytes where 301 were told",
        "55-src-unknown-stream": "unknown stream id 11",
        "57-src-truncated-header": "cut off in a stream's header",
    }

    def test_sources_are_accepted_or_refused_like_the_reference_or_better(self) -> None:
        refused = {}
        accepted = set()
        for label, entry, raw in vector_files(require_vectors("backuptar"), "*/src/index.json"):
            case = label.split(":")[0]
            size = entry["size"]
            assert isinstance(size, int)
            try:
                content = read_file_streams(io.BytesIO(raw), file_size=size, path=str(entry["name"]))
            except BackupStreamError as error:
                refused[case] = str(error)
                continue
            accepted.add(case)
            for s in content.streams:
                assert sum(len(chunk) for chunk in s.chunks) == s.size, label
        assert set(refused) == set(self.REFUSED)
        assert all(message in refused[case] for case, message in self.REFUSED.items())
        # go-winio fails on both of these with a source that it can seek in
        assert {"45-src-sparse4", "51-src-sec-after-data"} <= accepted

    def test_the_sparse_file_of_the_vectors_has_the_content_that_the_reference_reads_from_it(self) -> None:
        root = require_vectors("backuptar") / "45-src-sparse4"
        sparse = read_file_streams(io.BytesIO((root / "src" / "000000.bs").read_bytes()))
        plain = read_file_streams(io.BytesIO((root / "000000.bs").read_bytes()))
        assert contents(sparse) == contents(plain)
        assert contents(sparse)[""] != bytes(200_000)
