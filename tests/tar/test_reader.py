"""The tar reader: offsets, chunks, ends, limits, sparse members."""

from __future__ import annotations

import io
import random
import tracemalloc

import pytest

from tests.tar.go_oracle import ChunkedSource, our_read
from tests.tar.mutations import old_gnu_sparse, padded, pax_member, raw_header, seeds, sparse_pax
from winlayers.errors import TarError, TarTruncatedError
from winlayers.tar import Format, TarHeader, TarReader, TarWriter
from winlayers.tar.fields import format_pax_record, format_pax_time

END = bytes(1024)
MEMBER = raw_header(b"a", b"0", 3) + padded(b"abc")


def read_all(stream: bytes) -> list[tuple[TarHeader, bytes]]:
    reader = TarReader(io.BytesIO(stream))
    return [(header, reader.read()) for header in reader]


@pytest.mark.parametrize("number", range(len(seeds())))
def test_chunk_sizes_of_the_source_make_no_difference(number: int) -> None:
    stream = seeds()[number]
    expected = our_read(stream)
    assert expected["Entries"]
    assert not expected["Kind"]
    for size in (1, 7, 511, 512, 513, 4096):
        assert our_read(stream, size) == expected


@pytest.mark.parametrize("number", range(len(seeds())))
def test_offsets(number: int) -> None:
    """Members lie end to end; their data are where the header says."""
    stream = seeds()[number]
    reader = TarReader(ChunkedSource(stream, 1000))
    position = 0
    for header in reader:
        assert header.header_offset == position
        assert header.header_offset < header.data_offset <= header.end_offset
        position = header.end_offset
        if header.typeflag == "g":
            continue
        stored = stream[header.data_offset : header.data_offset + header.stored_size]
        data = reader.read()
        if header.sparse is None:
            assert data == stored
        else:
            assert len(data) == header.size
            assert b"".join(data[at : at + size] for at, size in header.sparse) == stored
    assert not stream[position:].strip(b"\0")


def test_sources_may_reuse_their_buffer() -> None:
    class Ring:
        def __init__(self, data: bytes) -> None:
            self._file = io.BytesIO(data)
            self._buffer = bytearray(700)

        def read(self, size: int, /) -> memoryview:
            view = memoryview(self._buffer)
            return view[: self._file.readinto(view[: min(size, 700)])]

    for stream in seeds():
        reader = TarReader(Ring(stream))
        found = [(header, reader.read()) for header in reader]
        assert found == read_all(stream)


def test_a_source_may_skip() -> None:
    class Skipping(io.BytesIO):
        skipped = 0

        def skip(self, size: int, /) -> int:
            before = self.tell()
            after = min(before + size, len(self.getvalue()))
            self.seek(after)
            self.skipped += after - before
            return after - before

    stream = raw_header(b"big", b"0", 5_000_000) + padded(bytes(5_000_000)) + MEMBER + END
    source = Skipping(stream)
    reader = TarReader(source, buffer_size=2048)
    assert [header.name for header in reader] == ["big", "a"]
    assert source.skipped > 4_900_000
    assert reader.offset == len(stream)
    cut = TarReader(Skipping(stream[:3_000_000]), buffer_size=2048)
    assert next(cut).name == "big"
    with pytest.raises(TarTruncatedError):
        next(cut)


def test_reading_in_pieces() -> None:
    stream = raw_header(b"b", b"0", 1000) + padded(b"ab" * 500) + MEMBER + END
    reader = TarReader(ChunkedSource(stream, 300))
    assert next(reader).name == "b"
    assert reader.read(3) == b"aba"
    assert reader.read(0) == b""
    assert reader.read(700) == (b"ab" * 500)[3:703]
    assert b"".join(bytes(chunk) for chunk in reader.chunks(10)) == (b"ab" * 500)[703:]
    assert reader.read(5) == b""
    assert next(reader).name == "a"
    assert next(reader, None) is None
    assert reader.next() is None


def test_drain_counts_the_whole_stream() -> None:
    stream = raw_header(b"a", b"0", 0) + END + b"rubbish" * 1000
    reader = TarReader(ChunkedSource(stream, 999), buffer_size=100)
    assert [header.name for header in reader] == ["a"]
    assert reader.offset == 512 + 1024
    assert reader.drain() == len(stream)
    assert reader.next() is None


# -- where a stream may end -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [b"", bytes(512), END, END + b"anything", bytes(10240)],
    ids=["nothing", "one zero block", "two", "rubbish behind", "a record"],
)
def test_accepted_ends(end: bytes) -> None:
    assert [header.name for header, _ in read_all(MEMBER + end)] == ["a"]


def test_padding_may_be_cut() -> None:
    for cut in (1, 100, 509):
        (found,) = read_all(MEMBER[:-cut])
        assert found[1] == b"abc"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (bytes(100), TarTruncatedError),
        (bytes(512 + 100), TarTruncatedError),
        (bytes(512) + b"x" * 512, TarError),
        (raw_header(b"b", b"0", 5) + b"abc", TarTruncatedError),
        (raw_header(b"x", b"x", 600) + bytes(512), TarTruncatedError),
        (raw_header(b"b", b"0", 0).replace(b"b", b"c", 1), TarError),
    ],
    ids=["in a block", "in the second block", "zero block in the middle", "in data", "in PAX", "checksum"],
)
def test_refused_ends(end: bytes, error: type[TarError]) -> None:
    reader = TarReader(io.BytesIO(MEMBER + end))
    assert next(reader).name == "a"
    with pytest.raises(error) as first:
        for _ in reader:
            pass
    with pytest.raises(error) as second:  # it stays at its error
        next(reader)
    assert first.value is second.value


def test_cut_data_is_an_error_when_read() -> None:
    reader = TarReader(io.BytesIO(raw_header(b"a", b"0", 600) + bytes(512)))
    next(reader)
    with pytest.raises(TarTruncatedError):
        reader.read()
    with pytest.raises(TarTruncatedError):
        next(reader)


# -- headers ----------------------------------------------------------------------------------------


def test_signed_checksums() -> None:
    block = bytearray(raw_header(b"\xff\xfe", b"0", 0))
    unsigned = sum(block[:148]) + sum(block[156:]) + 256
    block[148:156] = b"%06o\0 " % (unsigned - 512)
    assert next(TarReader(io.BytesIO(bytes(block)))).name == "\udcff\udcfe"
    block[148:156] = b"%06o\0 " % (unsigned - 256)
    with pytest.raises(TarError, match="checksum"):
        next(TarReader(io.BytesIO(bytes(block))))


def test_checksums_do_not_wrap() -> None:
    """A sum that is right modulo 65,521 is wrong."""
    block = bytearray(raw_header(b"a", b"0", 0))
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 256 + 65521)
    with pytest.raises(TarError, match="checksum"):
        next(TarReader(io.BytesIO(bytes(block))))


@pytest.mark.parametrize(
    ("name", "found"), [(b"d/", "5"), (b"d", "0")], ids=["directory by its slash", "file"]
)
def test_old_type(name: bytes, found: str) -> None:
    assert next(TarReader(io.BytesIO(raw_header(name, b"\0", 0)))).typeflag == found


def test_a_regular_file_keeps_its_slash() -> None:
    header = next(TarReader(io.BytesIO(raw_header(b"f/", b"0", 0))))
    assert (header.name, header.typeflag) == ("f/", "0")


@pytest.mark.parametrize("typeflag", b"123456")
def test_header_only_types_have_no_data(typeflag: int) -> None:
    stream = raw_header(b"a", bytes((typeflag,)), 1000) + raw_header(b"b", b"0", 0) + END
    assert [(h.name, h.size, len(data)) for h, data in read_all(stream)] == [("a", 1000, 0), ("b", 0, 0)]


def test_formats() -> None:
    found = {header.name: header.format for stream in seeds() for header, _ in read_all(stream)}
    assert found["pre/star"] is Format.UNKNOWN
    assert found["sparse"] is Format.GNU
    assert found["file"] is Format.UNKNOWN
    assert found["big"] is Format.PAX
    assert found["a"] is Format.USTAR


def test_pax_records_keep_their_order() -> None:
    records = [("z", "1"), ("a", "2"), ("mtime", "1.5"), ("m", "with\nnewline"), ("a", "3")]
    header = next(TarReader(io.BytesIO(pax_member(records, MEMBER[:512], b"abc"))))
    assert list(header.pax.items()) == [("z", "1"), ("a", "3"), ("mtime", "1.5"), ("m", "with\nnewline")]
    assert header.mtime == (1, 500_000_000)


def test_special_headers_are_bounded() -> None:
    big = raw_header(b"x", b"x", 1 << 32)
    tracemalloc.start()
    with pytest.raises(TarError, match="too long"):
        next(TarReader(ChunkedSource(big + bytes(3 << 20), 1 << 16)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_header_caches_are_bounded() -> None:
    rng = random.Random(1)

    class Endless:
        left = 20_000

        def read(self, size: int, /) -> bytes:
            self.left -= 1
            owners = "".join(rng.choices("abcdefgh", k=64)).encode()
            return raw_header(b"f", b"0", 0, tail=owners) if self.left >= 0 else b""

    tracemalloc.start()
    assert sum(1 for _ in TarReader(Endless())) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


# -- sparse members ---------------------------------------------------------------------------------


def test_sparse_members() -> None:
    expected = bytearray(1000)
    for at in (0, 100, 990):
        expected[at : at + 10] = b"0123456789"
    for member in sparse_pax():
        ((header, data),) = read_all(member + END)
        assert header.sparse == ((0, 10), (100, 10), (990, 10))
        assert (header.size, header.stored_size) == (1000, 30)
        assert data == expected
    ((header, data), (_, after)) = read_all(old_gnu_sparse() + END)
    assert header.size == len(data) == 7000
    assert header.stored_size == 700
    assert header.sparse == tuple((at * 1000, 100) for at in range(7))
    assert data.count(b"s") == 700
    assert data[6000:6100] == b"s" * 100
    assert after == b"abc"


@pytest.mark.parametrize("fragments", [(), ((0, 512),), ((512, 512), (4096, 1024))], ids=["0", "512", "1536"])
@pytest.mark.parametrize("form", ["old", "0.1", "1.0"])
def test_members_behind_sparse_ones_of_whole_blocks(
    form: str, fragments: tuple[tuple[int, int], ...]
) -> None:
    """No padding lies between them, so nothing is passed over."""
    size, count, stored = 5120, len(fragments), b"s" * sum(length for _, length in fragments)
    if form == "old":
        fields = b"".join(b"%011o\0%011o\0" % fragment for fragment in fragments).ljust(97, b"\0")
        tail = bytes(386 - 265) + fields + b"%011o\0" % size
        member = raw_header(b"f", b"S", len(stored), b"ustar  \0", tail) + stored
    elif form == "0.1":
        numbers = ",".join(f"{at},{length}" for at, length in fragments)
        records = [("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1"), ("GNU.sparse.size", f"{size}")]
        records += [("GNU.sparse.numblocks", f"{count}"), ("GNU.sparse.map", numbers)]
        member = pax_member(records, raw_header(b"f", b"0", len(stored)), stored)
    else:
        lines = f"{count}\n" + "".join(f"{at}\n{length}\n" for at, length in fragments)
        content = padded(lines.encode()) + stored
        records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", f"{size}")]
        member = pax_member(records, raw_header(b"f", b"0", len(content)), content)
    found = read_all(member + MEMBER + END)
    assert [(header.size, len(data)) for header, data in found] == [(size, size), (3, 3)]
    assert (found[0][1].count(b"s"), found[1][1]) == (len(stored), b"abc")
    reader = TarReader(io.BytesIO(member + MEMBER + END))
    runs = {header.name: [(at, bytes(data)) for at, data in reader.runs()] for header in reader}
    assert runs["a"] == [(0, b"abc")]
    assert b"".join(data for _, data in runs["f"]) == stored


@pytest.mark.parametrize("stored", [20, 40], ids=["too little", "too much"])
def test_sparse_data_must_fit(stored: int) -> None:
    records = [
        ("GNU.sparse.size", "1000"),
        ("GNU.sparse.numblocks", "3"),
        ("GNU.sparse.map", "0,10,100,10,990,10"),
    ]
    stream = pax_member(records, raw_header(b"f", b"0", stored), bytes(stored)) + END
    reader = TarReader(io.BytesIO(stream))
    assert next(reader).size == 1000
    with pytest.raises(TarError):
        reader.read()
    skipped = TarReader(io.BytesIO(stream))
    assert [header.size for header in skipped] == [1000]


def test_a_time_below_64_bits_is_kept() -> None:
    """Go wraps it around, to the year 292,277,026,596."""
    text = f"{-(1 << 63)}.5"
    ((header, _),) = read_all(pax_member([("mtime", text)], MEMBER[:512], b"abc") + END)
    assert header.mtime == (-(1 << 63) - 1, 500_000_000)
    assert format_pax_time(header.mtime) == text


def test_a_global_header_with_a_malformed_number() -> None:
    """Go gives its path or not, in the order of a map: here it is the path all the same."""
    for records in (
        [("path", "p"), ("size", "x")],
        [("size", "x"), ("path", "p")],
        [("path", "p"), ("mtime", "x")],
        [("path", "p")],
    ):
        data = b"".join(format_pax_record(*record) for record in records)
        ((header, _),) = read_all(raw_header(b"g", b"g", len(data)) + padded(data) + END)
        assert (header.name, header.pax) == ("p", dict(records) if len(records) == 1 else {})


def test_huge_holes_cost_nothing_to_pass_over() -> None:
    size = str((1 << 62) - 1)
    records = [("GNU.sparse.size", size), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "5,1")]
    stream = pax_member(records, raw_header(b"f", b"0", 1), b"x") + MEMBER + END
    reader = TarReader(io.BytesIO(stream))
    assert next(reader).size == int(size)
    assert reader.read(10) == b"\0\0\0\0\0x\0\0\0\0"
    assert next(reader).name == "a"


def test_read_back_what_was_written() -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    writer.write_header(TarHeader("n" * 300, size=5, mtime=(1, 5), format=Format.PAX, pax={"VENDOR.x": "ü"}))
    writer.write(b"hello")
    writer.close()
    ((header, data),) = read_all(sink.getvalue())
    assert (header.name, header.mtime, header.pax["VENDOR.x"], data) == ("n" * 300, (1, 5), "ü", b"hello")
