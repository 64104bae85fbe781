"""Layer blobs on their way: compression, both digests, errors from other threads, bounded memory."""

from __future__ import annotations

import gzip
import io
import lzma
import resource
import subprocess
import threading
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import require_tool
from winlayers.errors import DigestMismatchError, ImageError
from winlayers.images import compression
from winlayers.images.blobstream import LayerStream
from winlayers.images.compression import Compressor, decompress
from winlayers.images.digest import digest_of
from winlayers.images.documents import Descriptor

DATA = b"".join(bytes([i % 251]) * (i % 400) for i in range(20_000))
ZSTD_SKIPPABLE = bytes.fromhex("502a4d18") + (5).to_bytes(4, "little") + b"hello"


def plain(blob: bytes) -> bytes:
    """All that *blob* decompresses to."""
    return b"".join(decompress(io.BytesIO(blob)))


def compressed(data: bytes, kind: str, piece: int = 1 << 16) -> bytes:
    """*data*, compressed in pieces."""
    compressor = Compressor(kind)
    parts = [compressor.compress(data[i : i + piece]) for i in range(0, len(data), piece)]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.parametrize("inflater", ["isal", "zlib"])
@pytest.mark.parametrize("data", [b"", b"x", DATA, bytes(5 << 20)], ids=["empty", "one", "mixed", "zeroes"])
def test_gzip_members_and_padding(data: bytes, inflater: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if inflater == "zlib":
        monkeypatch.setattr(
            compression, "gzip_inflaters", lambda: (lambda: zlib.decompressobj(wbits=31), zlib.error)
        )
    blob = gzip.compress(data)
    assert plain(blob) == data
    assert plain(blob + blob + bytes(1 << 19)) == data * 2
    assert plain(blob + bytes(3)) == data
    for damaged in (blob[:-1], blob[:-9], blob[:11], blob + b"zz", blob + b"\0\0q", blob + blob[:1]):
        with pytest.raises(ImageError):
            plain(damaged)


def test_zstd_frames_and_skippable_frames() -> None:
    frame = zstandard.ZstdCompressor().compress(DATA)
    assert plain(frame + ZSTD_SKIPPABLE + frame) == DATA * 2
    assert plain(ZSTD_SKIPPABLE + frame) == DATA
    with pytest.raises(ImageError, match="zstd"):
        plain(frame[:4] + b"\xff" * 200)


def test_a_zstd_frame_that_is_cut_short_has_another_diff_id() -> None:
    """The decompressor itself takes the end of the input for the end of the frame."""
    frame = zstandard.ZstdCompressor().compress(DATA)[:-20]
    with stream_of(frame, diff_id=digest_of(DATA)) as stream, pytest.raises(DigestMismatchError):
        stream.drain()


def test_other_compressions_are_named() -> None:
    with pytest.raises(ImageError, match="xz"):
        plain(b"\xfd7zXZ\x00rest")
    with pytest.raises(ImageError, match="bzip2"):
        plain(b"BZh91AY")


@settings(deadline=None)
@given(st.binary(max_size=5000), st.sampled_from(["gzip", "zstd", "none"]), st.integers(1, 600))
def test_what_is_compressed_is_decompressed(data: bytes, kind: str, piece: int) -> None:
    if kind == "none":
        data = b"F" + data  # as a tar begins; a stream that begins like a compressed one is taken for one
    assert plain(compressed(data, kind, piece)) == data


def test_gzip_output_is_reproducible_and_read_by_gzip() -> None:
    blob = compressed(DATA, "gzip")
    assert blob == compressed(DATA, "gzip")
    assert blob[:10] == bytes.fromhex("1f8b08000000000000ff")
    done = subprocess.run([require_tool("gzip"), "-dc"], input=blob, capture_output=True, check=True)
    assert done.stdout == DATA


def stream_of(
    blob: bytes, *, digest: str | None = None, size: int | None = None, diff_id: str | None = None
) -> LayerStream:
    """A stream of *blob*; by default the descriptor is right."""
    descriptor = Descriptor("x", digest or digest_of(blob), len(blob) if size is None else size)
    return LayerStream(io.BytesIO(blob), descriptor, diff_id)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_a_correct_layer_is_read_and_copied(kind: str) -> None:
    blob = compressed(DATA, kind)
    copy = bytearray()
    with LayerStream(
        io.BytesIO(blob), Descriptor("x", digest_of(blob), len(blob)), digest_of(DATA), tee=copy.extend
    ) as stream:
        assert stream.read(10) == DATA[:10]
        assert stream.read(0) == b""
        assert stream.read() == DATA[10:]
        assert stream.read(10) == b""
        assert stream.size == len(DATA)
    assert bytes(copy) == blob


BLOB = compressed(DATA, "gzip")


@pytest.mark.parametrize(
    ("blob", "arguments", "message"),
    [
        (BLOB, {"diff_id": digest_of(b"other")}, "has the diff id"),
        (BLOB, {"digest": digest_of(b"other")}, "has other content"),
        (BLOB, {"size": len(BLOB) + 1}, "is truncated"),
        (BLOB, {"size": len(BLOB) - 1}, "is longer than"),
        (BLOB[:1000], {"digest": digest_of(BLOB), "size": len(BLOB)}, "is truncated: 1000 of"),
        (BLOB[:500] + b"\0" + BLOB[501:], {"digest": digest_of(BLOB)}, "has other content"),
    ],
)
def test_a_wrong_layer_never_ends(blob: bytes, arguments: dict[str, object], message: str) -> None:
    """Its data may come, but the end is an error; so a consumer that has seen the end has seen the layer."""
    before = threading.enumerate()
    with stream_of(blob, **arguments) as stream, pytest.raises(DigestMismatchError, match=message):  # type: ignore[arg-type]
        stream.drain()
    assert not set(threading.enumerate()).difference(before)


def test_a_layer_that_is_damaged_but_has_the_right_digest_is_reported_as_damaged() -> None:
    with stream_of(BLOB[:-20]) as stream, pytest.raises(ImageError, match="cut short"):
        stream.drain()


class Failing(io.RawIOBase):
    """A source whose disk fails."""

    def read(self, n: int = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_layer_that_can_t_be_decompressed_is_named() -> None:
    for blob in (gzip.compress(b"tar") + b"junk", lzma.compress(b"tar")):
        descriptor = Descriptor("x", digest_of(blob), len(blob))
        with (
            LayerStream(io.BytesIO(blob), descriptor, None) as stream,
            pytest.raises(ImageError, match=descriptor.digest),
        ):
            stream.drain()


def test_an_error_of_the_reading_thread_reaches_the_caller() -> None:
    with LayerStream(Failing(), Descriptor("x", digest_of(b""), 9), None) as stream:
        with pytest.raises(OSError, match="Input/output"):
            stream.read(1)
        with pytest.raises(OSError, match="Input/output"):
            stream.read(1)


def test_closing_early_stops_the_threads() -> None:
    before = threading.enumerate()
    stream = stream_of(gzip.compress(bytes(64 << 20)))
    assert stream.read(1) == b"\0"
    stream.close()
    stream.close()
    assert not set(threading.enumerate()).difference(before)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_takes_no_memory(kind: str) -> None:
    blob = compressed(bytes(1 << 20), kind) * 1500
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with stream_of(blob) as stream:
        stream.drain()
        assert stream.size == 1500 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 << 10  # kilobytes
