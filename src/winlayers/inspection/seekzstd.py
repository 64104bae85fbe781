"""Zstandard read once, with places to begin at found on the way.  See :mod:`winlayers.inspection.seekpoints`.

Layers made of many frames (zstd:chunked, the seekable format, pzstd) can be read from the start of each.  An
ordinary layer is one frame; a point inside it is the start of a block together with what a decoder knows
there, written as a zstd dictionary (:mod:`winlayers.inspection.zstdstate`), which is as large as the frame's
window: 2 to 8 MiB mostly.  So such points are some windows apart.  Each is proved: decoded from there, what
follows must be the very bytes that came out.  What can't be proved is no point: a miss costs speed later,
never truth.

Where frames end is told from their headers and those of their blocks.  Source: RFC 8878, 3.1.1 (frames),
3.1.1.2 (blocks), 3.1.2 (skippable frames).
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from winlayers.errors import ImageError
from winlayers.images.compression import Prefixed, Reader, decompress, read_some
from winlayers.inspection.seekpoints import SPACING, Point, PointWriter
from winlayers.inspection.zstdstate import COMPRESSED_BLOCK, FrameState

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
_INPUT = 1 << 18
_RLE_BLOCK, _RESERVED = 1, 3
_CHECKSUM = 4
_MAX_WINDOW = 16 << 20
"""Frames with a larger window have no points inside: those would take too much room."""
_WINDOWS_APART = 8
_PROOF = 512 << 10
"""Plain bytes that a point must reproduce, if the frame is that long."""
_MAX_PROOF = 1 << 20
"""Compressed bytes to do so from, at most."""
_MAX_SEQUENCES = 60_000
"""Sequences that may be decoded to learn the last offsets at one block's end."""
_TRIES = 16
"""Blocks whose ends are tried, one after another, before that is given up for a while."""


class _Block(NamedTuple):
    """A block: all its bytes, its kind, and whether it ends the frame."""

    data: bytes
    kind: int
    last: bool


def _blocks(source: _Input) -> Iterator[_Block]:
    """The blocks of a frame, from the next on to the last."""
    last = False
    while not last:
        raw = source.exactly(3)
        header = int.from_bytes(raw, "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind == _RESERVED:
            raise ImageError("the zstd data is malformed: a block of a reserved kind")
        yield _Block(raw + source.exactly(1 if kind == _RLE_BLOCK else size), kind, last)


def _inflate(decoder: ZstdDecompressionObj, data: bytes) -> bytes:
    import zstandard

    try:
        return decoder.decompress(data)
    except zstandard.ZstdError as error:
        raise ImageError(f"the zstd data is malformed: {error}") from error


def _decoder_with(dictionary: bytes) -> ZstdDecompressionObj:
    import zstandard

    known = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_FULLDICT)
    return zstandard.ZstdDecompressor(dict_data=known).decompressobj()


def _parts(point: Point) -> tuple[bool, bytes, bytes]:
    """Of a point inside a frame: whether it ends with a checksum, a header for the rest, a dictionary."""
    window = point.window or b""
    return bool(window[0]), window[1:7], window[7:]


def resume_zstd(source: Reader, point: Point) -> Iterator[bytes]:
    """The plain data from *point* on; *source* gives the blob from the frame or block on that begins there.

    Raises:
        ImageError: the data is malformed or cut short.
    """
    if point.window is None:
        yield from decompress(source)
        return
    checksum, header, dictionary = _parts(point)
    blocks = _Input(source)
    decoder = _decoder_with(dictionary)
    _inflate(decoder, header)
    for block in _blocks(blocks):
        yield _inflate(decoder, block.data)
    if checksum:
        blocks.exactly(_CHECKSUM)  # it is of the whole frame
    yield from decompress(Prefixed(blocks.rest(), source))


class _Input:
    """The blob, with its position."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._data = b""
        self._at = 0
        self.position = 0

    def take(self, size: int) -> bytes:
        """Up to *size* bytes, b"" at the end."""
        if self._at == len(self._data):
            self._data, self._at = self._source.read(_INPUT), 0
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        self.position += len(piece)
        return piece

    def read(self, size: int, /) -> bytes:
        return self.take(size)

    def rest(self) -> bytes:
        """What was read ahead."""
        return self._data[self._at :]

    def exactly(self, size: int) -> bytes:
        data = read_some(self, size)
        if len(data) != size:
            raise ImageError("the zstd data is cut short")
        return data


class _FrameHeader:
    """A frame's header, read from *source* behind its magic number *magic*."""

    def __init__(self, source: _Input, magic: bytes) -> None:
        first = source.exactly(1)
        descriptor = first[0]
        single_segment = descriptor >> 5 & 1
        before = (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
        rest = source.exactly(before + (single_segment, 2, 4, 8)[descriptor >> 6])
        self.raw = magic + first + rest
        self.checksum = descriptor >> 2 & 1
        # A single segment is its own window: its size stands there in 1, 2, 4 or 8 bytes.
        self.window = int.from_bytes(rest[before:], "little") if single_segment else _window(rest[0])

    @property
    def alone(self) -> bytes:
        """A header for the middle of the frame: a window of at least that size, no checksum, no size."""
        descriptor = next((d for d in range(256) if _window(d) >= self.window), 255)
        return _MAGIC + bytes([0, descriptor])


def _window(descriptor: int) -> int:
    base = 1 << 10 + (descriptor >> 3)
    return base + base // 8 * (descriptor & 7)


class _Proof:
    """A point that is to be proved by what follows it."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.comp = bytearray()
        self.held: list[bytes] = []
        self.size = 0  # of held

    def add(self, block: _Block, plain: bytes) -> bool:
        """Take one more block; return whether that is enough."""
        self.comp += block.data
        self.held.append(plain)
        self.size += len(plain)
        return block.last or self.size >= _PROOF or len(self.comp) >= _MAX_PROOF

    def verdict(self) -> bool:
        """Whether a decoder that begins at the point gives the very bytes."""
        header, dictionary = _parts(self.point)[1:]
        decoder = _decoder_with(dictionary)
        try:
            _inflate(decoder, header)
            given = _inflate(decoder, bytes(self.comp))
        except ImageError:
            return False
        return bool(given) and given == b"".join(self.held)


class _InsideFrame:
    """What is needed to make points inside one frame.

    Attributes:
        apart: plain bytes from point to point.
        due: plain bytes of the blob at which the next one is due.
        proof: the point under way.
    """

    def __init__(self, header: _FrameHeader, apart: int) -> None:
        self.apart = apart
        self.due = 0
        self.proof: _Proof | None = None
        self._header = header
        self._state = FrameState() if header.window <= _MAX_WINDOW else None
        self._recent: collections.deque[bytes] = collections.deque()
        self._recent_size = 0  # a window of plain data, and a little more
        self._tries = self._misses = 0

    def note(self, block: _Block, plain: bytes) -> None:
        """Take note of a block and what came out of it."""
        if self._state is None:
            return
        if plain:
            self._recent.append(plain)
            self._recent_size += len(plain)
            while self._recent_size - len(self._recent[0]) >= max(1, self._header.window):
                self._recent_size -= len(self._recent.popleft())
        if block.kind == COMPRESSED_BLOCK:
            try:
                self._state.note(block.data[3:])
            except (ValueError, IndexError):  # the decoder sees it otherwise: leave it at that
                self._state = None

    def begin_proof(self, plain: int, position: int) -> None:
        """Make a point of this place, if it can be one; else try again at the next block, some times."""
        if self._state is None:
            return
        content = b"".join(self._recent)[-self._header.window :]
        try:
            dictionary = self._state.dictionary(content, _MAX_SEQUENCES)
        except (ValueError, IndexError):
            self._state = None
            return
        self._tries += 1
        if dictionary is not None:
            self._tries = self._misses = 0
            window = bytes([self._header.checksum]) + self._header.alone + dictionary
            self.proof = _Proof(Point(plain, position * 8, window))
        elif self._tries >= _TRIES:
            self.missed(plain)

    def missed(self, plain: int) -> None:
        """Nothing was found in time: what costs this once must not cost it again and again."""
        self.due = plain + (self.apart << min(self._misses, 16))
        self._misses += 1
        self._tries = 0


class ZstdScanner:
    """Decompresses zstd and tells a :class:`PointWriter` where to begin again."""

    def __init__(self, source: Reader, points: PointWriter, spacing: int = SPACING) -> None:
        """Read *source*; points are *spacing* plain bytes apart at least."""
        self._source = _Input(source)
        self._points = points
        self._spacing = spacing
        self._plain = 0
        self._due = 0

    def chunks(self) -> Iterator[bytes]:
        """The plain data, block by block (up to 128 KiB), all frames one after another.

        Raises:
            ImageError: the data is malformed or cut short.
        """
        while True:
            start = self._source.position
            magic = read_some(self._source, 4)
            if not magic:
                return
            if magic[1:] == _SKIPPABLE and magic[0] >> 4 == 5:
                self._skip(int.from_bytes(self._source.exactly(4), "little"))
                continue
            if magic != _MAGIC:
                raise ImageError("the zstd data is malformed: there is something else between the frames")
            if self._plain >= self._due:
                self._points.add(Point(self._plain, start * 8))
                self._due = self._plain + self._spacing
            yield from self._frame(_FrameHeader(self._source, magic))

    def _skip(self, size: int) -> None:
        while size:
            piece = self._source.take(size)
            if not piece:
                raise ImageError("the zstd data is cut short")
            size -= len(piece)

    def _frame(self, header: _FrameHeader) -> Iterator[bytes]:
        import zstandard

        decoder = zstandard.ZstdDecompressor().decompressobj()
        inside = _InsideFrame(header, max(self._spacing, _WINDOWS_APART * header.window))
        inside.due = self._plain + inside.apart
        _inflate(decoder, header.raw)
        for block in _blocks(self._source):
            plain = _inflate(decoder, block.data)
            self._plain += len(plain)
            self._look(inside, block, plain)
            if plain:
                yield plain
        if header.checksum:
            _inflate(decoder, self._source.exactly(_CHECKSUM))
        if not decoder.eof:
            raise ImageError("the zstd data is malformed: a frame does not end where its blocks do")

    def _look(self, inside: _InsideFrame, block: _Block, plain: bytes) -> None:
        """Feed the points with what came out of *block*, and make one of its end if it is time to."""
        inside.note(block, plain)
        proof = inside.proof
        if proof is None:
            self._points.feed(plain)
            if self._plain >= inside.due and not block.last:
                inside.begin_proof(self._plain, self._source.position)
        elif proof.add(block, plain):
            if proof.verdict():
                self._points.add(proof.point)
                inside.due = proof.point.plain + inside.apart
                self._due = max(self._due, proof.point.plain + self._spacing)
            else:
                inside.missed(self._plain)
            inside.proof = None
            for piece in proof.held:
                self._points.feed(piece)
