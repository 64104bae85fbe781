"""Random access into compressed layers: right whatever compressed them, and touching little."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from winlayers.errors import ImageError, LayerCorruptError
from winlayers.inspection.seekable import SeekableBlob, scan
from winlayers.inspection.seekpoints import Points, PointWriter

_SPACING = 1 << 20


def lines(count: int) -> bytes:
    """Text that compresses, but not to nothing."""
    randomness = random.Random(1)
    return b"".join(b"%d %x\n" % (n, randomness.getrandbits(40)) for n in range(count))


TEXT = lines(300_000)
NOISE = random.Random(2).randbytes(4_000_000)
MIXED = TEXT[:3_000_000] + NOISE[:2_000_000] + bytes(4_000_000) + TEXT[3_000_000:]


def deflated(data: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY, flush: int = 0) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, 31, 8, strategy)
    if not flush:
        return compressor.compress(data) + compressor.flush()
    parts = [
        compressor.compress(data[at : at + flush]) + compressor.flush(zlib.Z_FULL_FLUSH)
        for at in range(0, len(data), flush)
    ]
    return b"".join(parts) + compressor.flush()


def frames(data: bytes, size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    skippable = b"\x52\x2a\x4d\x18\x05\x00\x00\x00hello"
    whole = b"".join(compressor.compress(data[at : at + size]) for at in range(0, len(data), size))
    return skippable + whole + skippable


def one_frame(data: bytes, level: int = 3, window_log: int = 17) -> bytes:
    """One zstd frame, made without knowing how long it will be, as layers are compressed."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window_log, write_checksum=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    parts = [compressor.compress(data[at : at + 100_000]) for at in range(0, len(data), 100_000)]
    return b"".join(parts) + compressor.flush()


class Scanned:
    """A blob that was read once, and can now be read from anywhere."""

    def __init__(self, folder: Path, blob: bytes, spacing: int = _SPACING) -> None:
        path = os.fspath(folder / "points.db")
        if os.path.exists(path):
            os.unlink(path)
        self.opened: list[int] = []
        self._blob = blob
        writer = PointWriter(path)
        try:
            self.plain = b"".join(scan(io.BytesIO(blob), writer, spacing))
        finally:
            writer.close()
        self.points = Points(path, "test")
        self.blob = SeekableBlob(self.points, self.open_at, "test")

    def open_at(self, offset: int) -> BinaryIO:
        self.opened.append(offset)
        file = io.BytesIO(self._blob)
        file.seek(offset)
        return file


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "zlib-1": lambda d: deflated(d, 1),
    "zlib-6": deflated,
    "zlib-9": lambda d: deflated(d, 9),
    "stored": lambda d: deflated(d, 0),
    "fixed": lambda d: deflated(d[:3_000_000], 6, zlib.Z_FIXED),
    "huffman": lambda d: deflated(d, 6, zlib.Z_HUFFMAN_ONLY),
    "flushed": lambda d: deflated(d, 6, flush=128 << 10),
    "members": lambda d: b"".join(deflated(d[at : at + 700_001]) for at in range(0, len(d), 700_001)),
    "padded": lambda d: deflated(d) + bytes(1000),
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd-one": one_frame,
    "zstd-frames": lambda d: frames(d, 500_000),
    "none": lambda d: d,
}
SEEKABLE = {
    "zlib-1",
    "zlib-6",
    "zlib-9",
    "stored",
    "huffman",
    "flushed",
    "members",
    "padded",
    "zstd-one",
    "zstd-frames",
    "none",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("data", [TEXT, NOISE, MIXED], ids=["text", "noise", "mixed"])
def test_any_range_of_any_compression(tmp_path: Path, kind: str, data: bytes) -> None:
    scanned = Scanned(tmp_path, KINDS[kind](data))
    plain = data[:3_000_000] if kind == "fixed" else data
    assert scanned.plain == plain
    assert scanned.points.size == len(plain)
    randomness = random.Random(kind)
    ranges = [(0, 0), (0, len(plain)), (len(plain) - 1, 1), (_SPACING - 1, 2)]
    for _ in range(12):
        offset = randomness.randrange(len(plain))
        ranges.append((offset, min(randomness.choice([1, 513, 70_000, 3_000_000]), len(plain) - offset)))
    for offset, size in ranges:
        assert scanned.blob.read(offset, size) == plain[offset : offset + size]


@pytest.mark.parametrize("kind", sorted(SEEKABLE))
@pytest.mark.parametrize("data", [TEXT, NOISE, MIXED], ids=["text", "noise", "mixed"])
def test_a_small_read_inflates_little(tmp_path: Path, kind: str, data: bytes) -> None:
    scanned = Scanned(tmp_path, KINDS[kind](data))
    scanned.blob.read(len(data) - 100, 50)
    # Zeros leave few blocks to begin at; they cost next to nothing, too.
    assert scanned.blob.bytes_inflated <= (5 * _SPACING if data is MIXED else 2 * _SPACING)
    assert len(scanned.opened) == 1


@pytest.mark.parametrize("level", [-5, 1, 3, 7, 12, 19])
def test_points_inside_zstd_frames(tmp_path: Path, level: int) -> None:
    """With every strategy of the encoder, among other frames, at the distance that the window asks for."""
    randomness = random.Random(level)
    words = [randomness.randbytes(randomness.randrange(1, 30)) for _ in range(3000)]
    text = b"".join(randomness.choices(words, k=250_000))
    noise = randomness.randbytes(2_500_000)
    plain = text + noise + text[:100_000]
    blob = one_frame(text, level) + one_frame(noise, level) + zstandard.compress(text[:100_000])
    scanned = Scanned(tmp_path, blob)
    assert scanned.plain == plain
    assert len(scanned.points) >= 1 + (len(text) >> 20) + 1 + (len(noise) >> 20) - 1
    for offset in range(0, len(plain) - 5000, 211_953):
        assert scanned.blob.read(offset, 5000) == plain[offset : offset + 5000]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=60), st.integers(1, 3000)), min_size=1, max_size=30),
    st.integers(-3, 22),
    st.integers(10, 13),
    st.integers(0, 2**32),
)
def test_zstd_frames_of_any_content(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[bytes, int]],
    level: int,
    window_log: int,
    seed: int,
) -> None:
    """Small windows, so that there are points; runs, words in any order and noise: all modes occur."""
    randomness = random.Random(seed)
    words = [randomness.randbytes(randomness.randrange(1, 30)) for _ in range(randomness.randrange(2, 300))]
    plain = b"".join(
        content * count
        + b"".join(randomness.choices(words, k=count))
        + randomness.randbytes(randomness.choice([0, 10, 2000]))
        for content, count in runs
    )
    blob = one_frame(plain, level, window_log)
    scanned = Scanned(tmp_path_factory.mktemp("blob"), blob, spacing=1000)
    assert scanned.plain == plain
    for _ in range(5):
        offset = randomness.randrange(len(plain) + 1)
        size = min(randomness.choice([1, 100, 50_000]), len(plain) - offset)
        assert scanned.blob.read(offset, size) == plain[offset : offset + size]


def test_a_span_is_inflated_once(tmp_path: Path) -> None:
    scanned = Scanned(tmp_path, deflated(TEXT))
    for offset in range(5_000_000, 5_050_000, 1000):
        scanned.blob.read(offset, 10)
    assert len(scanned.opened) <= 2


def test_reading_forwards_in_one_large_span_is_one_pass(tmp_path: Path) -> None:
    data = TEXT * 4  # more than is ever kept
    scanned = Scanned(tmp_path, one_frame(data, window_log=25))  # more than is kept for a point
    assert len(scanned.points) == 1
    for offset in range(0, len(data), 2_000_000):
        assert scanned.blob.read(offset, 1000) == data[offset : offset + 1000]
    assert len(scanned.opened) == 1
    assert scanned.blob.read(5, 5) == data[5:10]
    assert len(scanned.opened) == 2


@pytest.mark.parametrize("kind", ["zlib-6", "stored", "members", "zstd-one", "zstd-frames", "none"])
def test_a_blob_that_changed_is_told(tmp_path: Path, kind: str) -> None:
    blob = bytearray(KINDS[kind](TEXT))
    scanned = Scanned(tmp_path, bytes(blob))
    blob[len(blob) // 2] ^= 0x10
    scanned._blob = bytes(blob)
    with pytest.raises(LayerCorruptError, match="not what it was"):
        scanned.blob.read(0, len(TEXT))


def test_a_blob_that_became_shorter_is_told(tmp_path: Path) -> None:
    scanned = Scanned(tmp_path, deflated(TEXT))
    scanned._blob = scanned._blob[: len(scanned._blob) // 2]
    with pytest.raises(LayerCorruptError):
        scanned.blob.read(len(TEXT) - 10, 10)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none", "padded"}))
def test_cut_short_while_scanned(tmp_path: Path, kind: str) -> None:
    blob = KINDS[kind](TEXT)
    with pytest.raises(ImageError):
        Scanned(tmp_path, blob[: len(blob) - len(blob) // 3])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 4000)), max_size=30),
    st.integers(0, 9),
    st.integers(1, 3),
    st.data(),
)
def test_small_blobs_of_any_content(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[bytes, int]],
    level: int,
    members: int,
    data: st.DataObject,
) -> None:
    plain = b"".join(content * count for content, count in runs)
    at = [len(plain) * n // members for n in range(members + 1)]
    blob = b"".join(gzip.compress(plain[a:b], level) for a, b in itertools.pairwise(at))
    scanned = Scanned(tmp_path_factory.mktemp("blob"), blob, spacing=1000)
    assert scanned.plain == plain
    if plain:
        offset = data.draw(st.integers(0, len(plain) - 1))
        size = data.draw(st.integers(0, len(plain) - offset))
        assert scanned.blob.read(offset, size) == plain[offset : offset + size]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(set(KINDS) - {"none", "fixed"})), st.integers(0, 200), st.integers(0, 255))
def test_damage_is_an_error_of_ours_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, kind: str, position: int, value: int
) -> None:
    blob = bytearray(KINDS[kind](TEXT[:2000]))
    blob[position % len(blob)] = value
    try:
        Scanned(tmp_path_factory.mktemp("blob"), bytes(blob))
    except ImageError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 255))
def test_damage_among_points_inside_zstd_frames(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    blob = bytearray(one_frame(TEXT[:60_000], window_log=10))
    blob[position % len(blob)] = value
    try:
        Scanned(tmp_path_factory.mktemp("blob"), bytes(blob), spacing=1000)
    except ImageError:
        pass


def test_without_isal_all_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from winlayers.inspection import seekgzip, seekpoints

    monkeypatch.setattr(
        seekgzip, "gzip_inflaters", lambda: (lambda: zlib.decompressobj(wbits=31), zlib.error)
    )
    monkeypatch.setattr(seekpoints, "crc32_function", lambda: zlib.crc32)
    for data in (TEXT, NOISE):
        scanned = Scanned(tmp_path, deflated(data))
        assert scanned.plain == data
        assert len(scanned.points) >= len(data) // (2 * _SPACING)
        assert scanned.blob.read(len(data) - 1000, 1000) == data[-1000:]


def test_points_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "points.db"
    path.write_bytes(b"not a database at all")
    with pytest.raises(LayerCorruptError):
        Points(os.fspath(path), "test")
    with pytest.raises(LayerCorruptError):
        Points(os.fspath(tmp_path / "missing.db"), "test")
