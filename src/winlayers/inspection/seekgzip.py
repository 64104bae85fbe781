"""Gzip read once, with points to begin at found on the way.  See :mod:`winlayers.inspection.seekpoints`.

The usual way (zlib's ``zran.c``) needs a decoder that stops at deflate blocks and tells its bit position.
The fast decoders that Python has (ISA-L, zlib) don't, but they give themselves away: while they read the
tables of a block (some 30 to 100 bytes) nothing comes out, and a stored block's header is some bytes that do
not come out one for one.  So where a point is due the decoder is fed 32 bytes at a time; a silent stretch is
the start of a block to within 34 bytes, and how much came out before it is exactly what the block begins
with.  Each bit position there is then tried: a raw decoder with the last 32 KiB as its dictionary must give
the very bytes that came out, 66,000 of them at least, or it is no point.  What is not found costs speed
later, never truth.

To begin inside a byte, empty deflate blocks of the right length in bits are put in front (RFC 1951, 3.2.6
and 3.2.7).  Sources: RFC 1951; RFC 1952; zlib ``examples/zran.c`` for the idea of points with windows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from winlayers.errors import ImageError
from winlayers.images.compression import (
    BUFFER,
    Inflater,
    Prefixed,
    Reader,
    decompress,
    gzip_inflaters,
    read_some,
)
from winlayers.inspection.seekpoints import SPACING, Point, PointWriter

_WINDOW = 32 << 10
_INPUT = 1 << 18
_STEP = 32
"""Bytes fed at a time while looking for a block: more than the longest symbol, less than most tables."""
_PATIENCE = 128 << 10
"""Compressed bytes after which half of that is fed."""
_STORED_STEP = 512
"""The same inside a stored block, whose end shows in any piece."""
_PENDING_STEP = 8 << 10
_PROOF = 66_000
"""Plain bytes that a point must reproduce: more than one stored block holds."""
_MAX_HUNT = 1 << 20
"""Compressed bytes after which looking is given up for a while, and plain ones times eight."""
_MAGIC = b"\x1f\x8b"
_TRAILER = 8


def _empty_blocks(bits: int) -> tuple[int, int]:
    """Empty deflate blocks whose length is *bits* modulo 8: the bits as a number, and how many."""
    value, count = 0, 0
    if bits % 2:
        # A block with dynamic tables and no data, 93 bits: code length code 1:1 0:2 18:2, 256 zero lengths,
        # 1 for the end of block, no distance codes.
        for number, width in (
            (0, 1),  # not the last block
            (2, 2),  # dynamic tables
            (0, 5),  # 257 literal codes
            (0, 5),  # 1 distance code
            (14, 4),  # 18 code length codes, in the order 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1
            *((length, 3) for length in (0, 0, 2, 2, *(0,) * 13, 1)),
            (3, 2),  # 18: 138 zeros
            (127, 7),
            (3, 2),  # 18: 118 zeros
            (107, 7),
            (0, 1),  # 1: the end of block has one bit
            (1, 2),  # 0: no distance code (the code 10, its first bit first)
            (0, 1),  # end of block
        ):
            value |= number << count
            count += width
    while count % 8 != bits:
        value |= 2 << count  # a block with fixed tables: 0, 1 0, and seven zeros for its end
        count += 10
    return value, count


_PREFIXES = [_empty_blocks(bits) for bits in range(8)]


def _aligned(data: bytes | bytearray, bit: int) -> bytes:
    """*data* from its bit *bit* (0 to 7) on, as a deflate stream of its own."""
    if bit == 0 or not data:
        return bytes(data)
    value, count = _PREFIXES[bit]
    value |= (data[0] >> bit) << count
    return value.to_bytes((count + 8 - bit) // 8, "little") + data[1:]


def resume_gzip(source: Reader, point: Point) -> Iterator[bytes]:
    """The plain data from *point* on; *source* gives the blob from the byte on in which the point lies.

    What follows the last member may be given, too: the caller knows how much data there is.

    Raises:
        ImageError: the data is malformed or cut short.
    """
    if point.window is None:
        yield from decompress(source)
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=point.window)
    data = _aligned(read_some(source, _INPUT), point.bit & 7)
    while True:
        try:
            plain = inflater.decompress(data, BUFFER)
        except zlib.error as error:
            raise ImageError(f"the gzip data is malformed: {error}") from error
        if plain:
            yield plain
        if inflater.eof:
            break
        data = inflater.unconsumed_tail or source.read(_INPUT)
        if not data and len(plain) < BUFFER:
            raise ImageError("the gzip data is cut short")
    rest = inflater.unused_data
    rest += read_some(source, max(0, _TRAILER - len(rest)))
    yield from decompress(Prefixed(rest[_TRAILER:], source))


class _Hunt:
    """The search for one block: what was fed and what came out since it began."""

    def __init__(self, window: bytes, plain: int, position: int) -> None:
        self.window = window
        self.start = plain
        """Plain bytes before the hunt."""
        self.comp_start = position
        """Where in the blob the fed bytes begin."""
        self.comp = bytearray()
        self.held = bytearray()
        self.candidates: list[tuple[int, int]] = []
        """Places that may be the start of a block: bits in the blob, plain bytes before."""
        self._spoke = False  # whether the last piece gave anything
        self._exact = 0  # how many pieces before it came out one for one, as in a stored block

    @property
    def hopeless(self) -> bool:
        return len(self.comp) > _MAX_HUNT or len(self.held) > 8 * _MAX_HUNT

    @property
    def decidable(self) -> bool:
        """Whether enough has come out behind the candidates."""
        return len(self.held) >= self.candidates[-1][1] - self.start + 2 * _PROOF

    def took(self, piece: memoryview, plain: bytes) -> None:
        """*piece* was fed and *plain* came out, with candidates at hand."""
        self.comp += piece
        self.held += plain

    def search(self, inflater: Inflater, data: memoryview) -> bytes:
        """Feed *data* in small pieces until there are candidates, or it ends, or the search is hopeless.

        Returns:
            The plain data; what was fed is added to :attr:`comp`.
        """
        inflate, held, begin = inflater.decompress, self.held, len(self.held)
        spoke, exact, at = self._spoke, self._exact, 0
        step = _STEP if len(self.comp) < _PATIENCE else _STEP // 2  # some encoders' tables are small
        left = _PATIENCE if step == _STEP else _MAX_HUNT + 1
        stop = min(len(data), left - len(self.comp))
        while at < stop and len(held) <= 8 * _MAX_HUNT:
            piece = data[at : at + (_STORED_STEP if exact > 1 else step)]
            fed = len(piece)
            plain = inflate(piece, BUFFER)
            given = len(plain)
            if inflater.eof:
                held += plain
                at += fed - len(inflater.unused_data)
                break
            if not given and spoke and fed == step:
                bit = (self.comp_start + len(self.comp) + at - fed) * 8
                out = self.start + len(held)
                self.candidates = [(bit + n, out) for n in range(step * 8 + 16)]
            elif exact > 1 and given < fed:
                self._note_headers(bytes(data[at : at + fed + 4]), at)
            held += plain
            at += fed
            spoke, exact = given > 0, exact + 1 if given == fed else 0
            if self.candidates:
                break
        self.comp += data[:at]
        self._spoke, self._exact = spoke, exact
        return bytes(held[begin:])

    def _note_headers(self, data: bytes, at: int) -> None:
        """Candidates behind a stored block: the next one begins where a byte does, with its length twice."""
        position, out = self.comp_start + len(self.comp) + at, self.start + len(self.held)
        size = len(data) - 3
        if size <= 0:
            return
        # Byte n of this is the header's second byte against its fourth: two bytes of ones are a length twice.
        pairs = int.from_bytes(data[1:-2], "little") ^ int.from_bytes(data[3:], "little")
        twice = pairs.to_bytes(size, "little")
        n = twice.find(b"\xff\xff")
        while n >= 0:
            self.candidates.append(((position + n) * 8, out + n))
            n = twice.find(b"\xff\xff", n + 1)

    def verdict(self) -> Point | None:
        """The candidate that proves to be a block's start."""
        for bit, plain in self.candidates:
            if self._plausible(bit):
                at = plain - self.start
                window = bytes(self.window + self.held[:at])[-_WINDOW:]
                if self._reproduces(bit, window, self.held[at:]):
                    return Point(plain, bit, window)
        return None

    def _plausible(self, bit: int) -> bool:
        """Whether the bits there can be the header of a block that is not the last."""
        at = (bit >> 3) - self.comp_start
        head = int.from_bytes(self.comp[at : at + 4], "little") >> (bit & 7)
        if head & 7 == 0b100:
            return head >> 3 & 31 < 30 and head >> 8 & 31 < 30
        return head & 7 == 0 and self._is_stored(bit)

    def _is_stored(self, bit: int) -> bool:
        """Whether a stored block with its header at *bit* would have its length twice, as it must."""
        at = ((bit + 10) >> 3) - self.comp_start
        length, complement = self.comp[at : at + 2], self.comp[at + 2 : at + 4]
        return len(complement) == 2 and all(a ^ b == 0xFF for a, b in zip(length, complement, strict=True))

    def _reproduces(self, bit: int, window: bytes, wanted: bytearray) -> bool:
        at = (bit >> 3) - self.comp_start
        for size in (4 << 10, len(self.comp)):
            inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=window)
            try:
                given = inflater.decompress(_aligned(self.comp[at : at + size], bit & 7), len(wanted))
            except zlib.error:
                return False
            if not wanted.startswith(given):
                return False
        return len(given) >= _PROOF


class GzipScanner:
    """Decompresses gzip and tells a :class:`PointWriter` where to begin again."""

    def __init__(self, source: Reader, points: PointWriter, spacing: int = SPACING) -> None:
        """Read *source*; points are *spacing* plain bytes apart at least."""
        self._source = source
        self._points = points
        self._spacing = spacing
        self._data = memoryview(b"")
        self._position = 0  # of _data in the blob
        self._window = b""
        self._plain = 0
        self._due = 0  # plain bytes at which the next point is due
        self._failures = 0
        self._hunt: _Hunt | None = None

    def chunks(self) -> Iterator[bytes]:
        """The plain data in pieces of up to 1 MiB, all members one after another.

        Raises:
            ImageError: the data is malformed or cut short.
        """
        self._data = memoryview(self._source.read(_INPUT))
        while True:
            if self._plain >= self._due:
                self._points.add(Point(self._plain, self._position * 8))
                self._due = self._plain + self._spacing
            yield from self._member()
            if not self._next_member():
                return

    def _next_member(self) -> bool:
        while True:
            data = bytes(self._data)
            stripped = data.lstrip(b"\0")
            self._position += len(data) - len(stripped)
            if stripped:
                break
            self._data = memoryview(self._source.read(_INPUT))
            if not self._data:
                return False
        if len(stripped) < len(_MAGIC):
            stripped += self._source.read(_INPUT)
        self._data = memoryview(stripped)
        if not stripped.startswith(_MAGIC):
            raise ImageError("there is something else behind the gzip data")
        return True

    def _member(self) -> Iterator[bytes]:
        make, failure = gzip_inflaters()
        inflater = make()
        full = False
        while not inflater.eof:
            if not self._data and not full:
                raise ImageError("the gzip data is cut short")
            try:
                plain = self._feed(inflater)
            except failure as error:
                raise ImageError(f"the gzip data is malformed: {error}") from error
            if plain:
                yield plain
            full = len(plain) == BUFFER and self._hunt is None
            if not full and not inflater.eof:  # all that was fed has come out
                if not self._data:
                    self._data = memoryview(self._source.read(_INPUT))
                if self._hunt is None and self._plain >= self._due:
                    self._hunt = _Hunt(self._window, self._plain, self._position)
        if self._hunt is not None:
            # The next member is a place to begin at.
            due, failures = self._due, self._failures
            self._end_hunt(None)
            self._due, self._failures = due, failures

    def _feed(self, inflater: Inflater) -> bytes:
        """Decompress some; return the plain data."""
        hunt = self._hunt
        if hunt is not None and not hunt.candidates:
            before = len(hunt.comp)
            plain = hunt.search(inflater, self._data)
            self._advance(len(hunt.comp) - before, plain)
        else:
            piece = self._data if hunt is None else self._data[:_PENDING_STEP]
            plain = inflater.decompress(piece, BUFFER)
            left = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            fed = len(piece) - len(left)
            if hunt is not None:
                hunt.took(piece[:fed], plain)
            self._advance(fed, plain)
        if hunt is None:
            self._points.feed(plain)
            self._window = (self._window + plain)[-_WINDOW:] if len(plain) < _WINDOW else plain[-_WINDOW:]
        else:
            self._decide(hunt)
        return plain

    def _advance(self, fed: int, plain: bytes) -> None:
        self._data = self._data[fed:]
        self._position += fed
        self._plain += len(plain)

    def _decide(self, hunt: _Hunt) -> None:
        """End the hunt if it has found a point or is not worth going on."""
        if hunt.candidates and hunt.decidable:
            point = hunt.verdict()
            if point is not None:
                self._end_hunt(point)
                return
            hunt.candidates = []
        if hunt.hopeless:
            self._end_hunt(None)

    def _end_hunt(self, point: Point | None) -> None:
        hunt = self._hunt
        if hunt is None:
            return
        at = 0
        if point is not None:
            at = point.plain - hunt.start
            self._points.feed(bytes(hunt.held[:at]))
            self._points.add(point)
            self._due = point.plain + self._spacing
            self._failures = 0
        else:
            # Data without any block to be found (fixed tables throughout) must not cost this again and again.
            self._due = self._plain + (self._spacing << min(self._failures, 16))
            self._failures += 1
        self._points.feed(bytes(hunt.held[at:]))
        self._window = bytes(hunt.window + hunt.held)[-_WINDOW:]
        self._hunt = None
