"""tar-split's rules, limits and errors, on streams made here."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import random
import tarfile
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tar.mutations import (
    mutate,
    old_gnu_sparse,
    padded,
    pax_member,
    raw_header,
    seeds,
    sparse_pax,
    with_checksum,
)
from tests.tar.tarsplit_support import Files, entries_of, take_apart
from winlayers.errors import TarError, TarSplitError, TarTruncatedError, WinlayersError
from winlayers.tar.crc64 import crc64
from winlayers.tar.reader import TarReader
from winlayers.tar.tarsplit import (
    Disassembler,
    Entry,
    EntryWriter,
    FileEntry,
    Segment,
    disassemble,
    read_entries,
    reassemble,
)
from winlayers.tar.tarsplit.entries import encode_entry
from winlayers.tar.tarsplit.names import clean

END = bytes(1024)
HELLO = raw_header(b"hello", b"0", 5) + padded(b"hello")


def _lines(entries: list[Entry]) -> io.BytesIO:
    return io.BytesIO(b"".join(encode_entry(entry) for entry in entries))


# -- what the format looks like ---------------------------------------------------------------------


def test_the_lines_are_go_s_json() -> None:
    entries: list[Entry] = [
        Segment(b"\0\1\2", 0),
        FileEntry('a<b>&c\u2028\u00fc"\\\n\t\b\x01\x7f', 3, bytes(range(8)), 1),
        FileEntry("\udcff\udcfe", 0, None, 2),
        FileEntry("", -1, None, 3),
    ]
    assert b"".join(encode_entry(entry) for entry in entries).decode().splitlines() == [
        '{"type":2,"payload":"AAEC","position":0}',
        '{"type":1,"name":"a\\u003cb\\u003e\\u0026c\\u2028\u00fc\\"\\\\\\n\\t\\b\\u0001\x7f","size":3,'
        '"payload":"AAECAwQFBgc=","position":1}',
        '{"type":1,"name_raw":"//4=","payload":null,"position":2}',
        '{"type":1,"size":-1,"payload":null,"position":3}',
    ]
    assert list(read_entries(_lines(entries))) == entries


@given(
    st.lists(
        st.one_of(
            st.builds(Segment, st.binary(max_size=40), st.just(0)),
            st.builds(
                FileEntry,
                st.binary(max_size=20).map(lambda name: name.decode("utf-8", "surrogateescape")),
                st.integers(1, 2**63 - 1),
                st.binary(min_size=8, max_size=8),
                st.just(0),
            ),
            st.builds(
                FileEntry,
                st.text("a\u00fc\u2029</\0\U0001f600", max_size=9),
                st.just(0),
                st.none(),
                st.just(0),
            ),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_entries_survive_the_disk(entries: list[Entry], compress: bool) -> None:
    numbered = [dataclasses.replace(entry, position=i) for i, entry in enumerate(entries)]
    disk = io.BytesIO()
    with EntryWriter(disk, compress=compress) as writer:
        for entry in numbered:
            writer.add(entry)
    disk.seek(0)
    assert list(read_entries(disk)) == numbered


def test_equal_entries_give_equal_bytes() -> None:
    def stored() -> bytes:
        disk = io.BytesIO()
        with EntryWriter(disk) as writer:
            writer.add(Segment(b"x" * 512, 0))
        return disk.getvalue()

    assert stored() == stored()
    assert gzip.decompress(stored()) == encode_entry(Segment(b"x" * 512, 0))


def test_what_go_s_decoder_tolerates_is_read() -> None:
    lines = (
        b'\n  {"TYPE":2,"Payload":"AA\\r\\n==","extra":[1,{}],"position":0}  \r\n'
        b'{"type":1,"name":"\\ud83d","payload":null,"position":1}\n'
        b'{"type":1,"name":"\xff\xfe","name_raw":null,"payload":null,"position":2}\n'
        b'{"type":1,"name":"both","name_raw":"cmF3","size":2,"payload":"AAAAAAAAAAA=","position":3}'
    )
    assert list(read_entries(io.BytesIO(lines))) == [
        Segment(b"\0", 0),
        FileEntry("\ufffd", 0, None, 1),
        FileEntry("\ufffd\ufffd", 0, None, 2),
        FileEntry("raw", 2, bytes(8), 3),
    ]
    assert list(read_entries(io.BytesIO(b'{"type":2,"payload":""}\n' * 2))) == [Segment(b"", 0)] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense", "not JSON"),
        (b'{"type":2', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"type":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"type":2} {"type":2}', "not JSON"),
        (b'{"type":2,"position":0,"other":NaN}', "not JSON"),
        (b'\f\n{"type":2,"position":0}', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"type":3,"position":0}', "unknown type 3"),
        (b"{}", "unknown type 0"),
        (b'{"type":1.0}', "type is not a 64-bit integer"),
        (b'{"type":true}', "type is not a 64-bit integer"),
        (b'{"type":1,"size":9223372036854775808}', "size is not a 64-bit integer"),
        (b'{"type":1,"name":7}', "name is not a string"),
        (b'{"type":2,"payload":7}', "payload is not a string"),
        (b'{"type":2,"payload":"?"}', "not base64"),
        (b'{"type":2,"payload":"AAA"}', "not base64"),
        ('{"type":2,"payload":"\u00fc"}'.encode(), "not base64"),
        (b'{"type":1,"name":"x","size":1,"payload":"AAAA","position":0}', "no valid checksum"),
        (b'{"type":2,"position":1}', "entry 0 is missing"),
        (b'{"type":2,"position":0}\n{"type":2,"position":0}', "entry 1 is missing"),
        (b"\x1f\x8bnot gzip", "broken gzip"),
        (gzip.compress(b'{"type":2,"position":0}\n', mtime=0)[:-9], "broken gzip"),
    ],
)
def test_malformed_metadata_have_a_named_error(line: bytes, message: str) -> None:
    with pytest.raises(TarSplitError, match=message):
        list(read_entries(io.BytesIO(line)))


def test_a_line_without_end_is_given_up() -> None:
    class Endless:
        def read(self, size: int = -1) -> bytes:
            return b"x" * size

    tracemalloc.start()
    try:
        with pytest.raises(TarSplitError, match="longer than 64 MiB"):
            list(read_entries(Endless()))  # type: ignore[arg-type]  # read is all that is used
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


# -- taking apart -----------------------------------------------------------------------------------


def test_a_bad_number_in_a_global_header_is_refused_as_the_reference_does() -> None:
    stream = pax_member([("uid", "me")], b"", b"")
    header = bytearray(stream[:512])
    header[156:157] = b"g"
    stream = with_checksum(bytes(header)) + stream[512:]
    assert [header.typeflag for header in TarReader(io.BytesIO(stream + END))] == ["g"]
    assert isinstance(take_apart(stream + END).error, TarError)


def test_a_pax_record_that_ends_inside_its_own_length_is_malformed() -> None:
    # The reference's program crashes.
    records = padded(b"000000005 a=b\n")
    stream = raw_header(b"x", b"x", 14) + records + HELLO + END
    assert isinstance(take_apart(stream).error, TarError)


def test_a_sparse_map_is_read_no_further_than_its_first_error() -> None:
    fields = b"not a number" + bytes(84) + b"\1" + b"%011o\0" % 5
    header = raw_header(b"s", b"S", 0, b"ustar  \0", bytes(386 - 265) + fields)
    taken = take_apart(HELLO + header + bytes(512) + END)
    assert isinstance(taken.error, TarError)
    assert taken.passed == HELLO + header


def test_the_padding_of_a_cut_stream_is_kept() -> None:
    stream = HELLO[:600]
    taken = take_apart(stream)
    assert taken.error is None
    entries = list(read_entries(io.BytesIO(taken.lines)))
    assert entries[-1] == Segment(bytes(600 - 517), 2)
    assert taken.rebuild() == stream


def test_directories_and_links_that_claim_a_size_come_out_exact() -> None:
    stream = (
        raw_header(b"d/", b"5", 1 << 20)
        + raw_header(b"l", b"1", 77)
        + raw_header(b"old/", b"\0", 5)
        + HELLO
        + END
    )
    taken = take_apart(stream)
    sizes = [e.size for e in read_entries(io.BytesIO(taken.lines)) if isinstance(e, FileEntry)]
    assert sizes == [1 << 20, 77, 5, 5]
    assert taken.rebuild() == stream
    assert taken.files.opened == ["hello"]
    lines = taken.lines.replace(b'"size":77,"payload":"AAAAAAAAAAA="', b'"size":77,"payload":"AAAAAAAAAAE="')
    with pytest.raises(TarSplitError, match="as if it had content"):
        reassemble(io.BytesIO(lines), taken.files.get, io.BytesIO())


@pytest.mark.parametrize("stream", [old_gnu_sparse(), *sparse_pax()[:2]], ids=["old", "0.0", "0.1"])
def test_sparse_members_whose_map_is_in_a_header_come_out_exact(stream: bytes) -> None:
    taken = take_apart(stream + END)
    reader = TarReader(io.BytesIO(stream))
    header = reader.next()
    assert header is not None
    assert taken.files.contents[header.name] == reader.read()
    assert taken.rebuild() == stream + END


def test_a_sparse_map_in_the_data_is_reported_and_its_reassembly_refused() -> None:
    stream = sparse_pax()[2] + END
    entries, result = entries_of(stream)
    assert (result.exact, result.inexact, result.inexact_names) == (False, 1, ("big",))
    with pytest.raises(TarSplitError, match="big: can't be put together exactly"):
        reassemble(entries, Files().get, io.BytesIO())
    with pytest.raises(TarSplitError, match="gets lost"):
        Disassembler(entries.append, require_exact=True).feed(stream)


def test_a_hole_of_exabytes_costs_nothing() -> None:
    size = (1 << 63) - 1
    records = [
        ("GNU.sparse.size", str(size)),
        ("GNU.sparse.numblocks", "1"),
        ("GNU.sparse.map", f"{size - 3},3"),
    ]
    entries, result = entries_of(pax_member(records, raw_header(b"huge", b"0", 3), b"end") + END)
    assert result.exact
    [entry] = [entry for entry in entries if isinstance(entry, FileEntry)]
    assert (entry.size, len(entry.checksum or b"")) == (size, 8)


def test_two_members_of_one_name_are_refused() -> None:
    for name in (b"hello", b"./hello", b"x/../hello", b"hello/"):
        taken = take_apart(HELLO + raw_header(name, b"0", 1) + padded(b"!") + END)
        assert isinstance(taken.error, TarSplitError), name
        assert len(taken.passed) == len(HELLO) + 513
    duplicate = [FileEntry("a", 0, None, 0), FileEntry("a/", 0, None, 1)]
    with pytest.raises(TarSplitError, match="two members"):
        reassemble(duplicate, Files().get, io.BytesIO())


def test_names_are_cleaned_as_go_does() -> None:
    # From the table in the documentation of path.Clean, and its edge cases.
    for name, expected in {
        b"": b".", b".": b".", b"./": b".", b"a/": b"a", b"a//b": b"a/b", b"a/./b": b"a/b", b"a/../b": b"b",
        b"..": b"..", b"../a": b"../a", b"a/../..": b"..", b"../../a/../b": b"../../b", b"/..": b"/",
        b"//a": b"/a", b"/../a": b"/a", b"/": b"/", b"a/b/../../..": b"..", b"...": b"...", b".a": b".a",
    }.items():  # fmt: skip
        assert clean(name) == expected, name


def test_what_follows_the_archive_is_kept_in_bounded_segments() -> None:
    trailer = bytes(1 << 20) + b"not zero" + bytes(1 << 19)
    entries, _ = entries_of(HELLO + END + trailer, 100_000)
    tail = [entry for entry in entries if isinstance(entry, Segment)][2:]
    assert [len(segment.payload) for segment in tail] == [1 << 20, len(trailer) - (1 << 20)]
    assert b"".join(segment.payload for segment in tail) == trailer


def test_headers_without_end_take_bounded_memory() -> None:
    header = pax_member([("comment", "x" * 900_000)], b"", b"")
    sizes: list[int] = []

    def note(entry: Entry) -> None:
        if isinstance(entry, Segment):
            sizes.append(len(entry.payload))

    machine = Disassembler(note)
    for _ in range(3):
        machine.feed(header)
    tracemalloc.start()
    try:
        for _ in range(60):
            machine.feed(header)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()
    machine.feed(HELLO)
    machine.finish()
    assert max(sizes) == 16 << 20
    assert sum(sizes) == 63 * len(header) + 512 + 507


def test_a_broken_machine_stays_broken() -> None:
    def fail(entry: Entry) -> None:
        raise OSError("disk full")

    machine = Disassembler(fail)
    with pytest.raises(OSError, match="disk full"):
        machine.feed(HELLO)
    with pytest.raises(TarSplitError, match="given up"):
        machine.feed(HELLO)
    with pytest.raises(TarSplitError, match="given up"):
        machine.finish()


def test_the_stream_passes_through_as_it_is_read() -> None:
    class Source:
        def __init__(self) -> None:
            self.chunks: Iterator[bytes] = iter([HELLO[:100], HELLO[100:700], HELLO[700:] + END])
            self.read_so_far = 0

        def read(self, size: int, /) -> bytes:
            chunk = next(self.chunks, b"")
            self.read_so_far += len(chunk)
            return chunk

    source = Source()
    stream = disassemble(source, lambda entry: None)
    assert next(stream) == HELLO[:100]
    assert source.read_so_far == 100
    assert b"".join(bytes(chunk) for chunk in stream) == HELLO[100:] + END


# -- putting together -------------------------------------------------------------------------------


def test_content_that_is_not_what_was_recorded_is_refused() -> None:
    taken = take_apart(HELLO + END)
    for content, message in (
        (b"hallo", "checksum"),
        (b"hell", "has 4 bytes, not 5"),
        (b"hello!", "longer than the 5 bytes"),
        (b"", "has 0 bytes"),
    ):
        taken.files.contents["hello"] = content
        with pytest.raises(TarSplitError, match=f"^hello: .*{message}"):
            taken.rebuild()
    assert taken.files.closed == len(taken.files.opened) == 4


def test_metadata_that_make_no_tar_are_put_together_all_the_same() -> None:
    content = b"content"
    entries: list[Entry] = [
        Segment(b"not a header", 0),
        FileEntry("a", 7, crc64(content).to_bytes(8, "big"), 1),
        Segment(b"tail", 2),
        FileEntry("b", 0, None, 3),
    ]
    files = Files()
    files.contents["a"] = content
    out = io.BytesIO()
    assert reassemble(iter(entries), files.get, out) == 23
    assert out.getvalue() == b"not a headercontenttail"


@given(st.integers(0, 2**32), st.integers(1, 5000))
@settings(max_examples=150, deadline=None)
def test_any_tar_comes_back_exactly_or_is_refused(seed: int, chunk_size: int) -> None:
    rng = random.Random(seed)
    archives = seeds()
    stream = mutate(rng.choice(archives), rng, archives) if rng.random() < 0.8 else rng.choice(archives)
    files = Files()
    hole = files.hole
    files.hole = lambda size: hole(min(size, 1 << 20))  # type: ignore[method-assign]  # no exabytes in memory
    entries: list[Entry] = []
    machine = Disassembler(entries.append, files)
    try:
        for start in range(0, len(stream), chunk_size):
            machine.feed(stream[start : start + chunk_size])
        result = machine.finish()
    except (TarError, TarSplitError):
        assert machine.consumed <= len(stream)
        return
    assert result.size == len(stream)
    out = io.BytesIO()
    try:
        reassemble(_lines(entries), files.get, out)
    except TarSplitError:
        assert not result.exact or any(isinstance(e, FileEntry) and e.size > 1 << 20 for e in entries)
    else:
        assert out.getvalue() == stream


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_acceptance_is_the_reader_s(seed: int) -> None:
    rng = random.Random(seed)
    archives = seeds()
    stream = mutate(rng.choice(archives), rng, archives)
    try:
        names = [header.name for header in TarReader(io.BytesIO(stream))]
    except TarError:
        names = None
    taken = take_apart_quickly(stream)
    if names is None:
        assert isinstance(taken, WinlayersError)
    elif not isinstance(taken, WinlayersError):
        assert taken == names
    else:
        # What the reader does not mind: names twice, unread data of sparse members, global headers' numbers.
        assert isinstance(taken, TarSplitError) or "sparse" in taken.message or "PAX" in taken.message


def take_apart_quickly(stream: bytes) -> list[str] | WinlayersError:
    entries: list[Entry] = []
    machine = Disassembler(entries.append)
    try:
        machine.feed(stream)
        machine.finish()
    except WinlayersError as error:
        return error
    return [entry.name for entry in entries if isinstance(entry, FileEntry)]


@given(st.binary(max_size=3000))
def test_arbitrary_metadata_raise_only_the_package_s_errors(data: bytes) -> None:
    try:
        reassemble(io.BytesIO(data), lambda name: io.BytesIO(b""), io.BytesIO())
    except TarSplitError:
        pass


def test_truncated_streams_are_told_apart() -> None:
    assert isinstance(take_apart(HELLO[:515]).error, TarTruncatedError)
    assert isinstance(take_apart(HELLO[:300]).error, TarTruncatedError)
    assert take_apart(b"").error is None


def test_tarfile_s_archives_come_back() -> None:
    buffer = io.BytesIO()
    rng = random.Random(1)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index in range(200):
            info = tarfile.TarInfo("Files/" + "d\u00e4" * (index % 70) + f"/{index}")
            info.size = rng.choice((0, 1, 511, 512, 513, 5000))
            tar.addfile(info, io.BytesIO(rng.randbytes(info.size)))
    taken = take_apart(buffer.getvalue())
    assert taken.rebuild() == buffer.getvalue()
    first = json.loads(taken.lines.splitlines()[0])
    assert base64.b64decode(first["payload"]) == buffer.getvalue()[:512]
