"""Reading and writing compressed layers, in bounded memory.

What a layer is compressed with is told from its first bytes, as dockerd and containerd do, not from its
media type: tools get the type wrong.  gzip goes through ISA-L where it is installed (twice as fast as zlib).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Protocol, runtime_checkable

from winlayers.errors import ImageError

if TYPE_CHECKING:
    import zstandard

BUFFER = 1 << 20
"""Bytes of plain data in one piece, at most."""
_INPUT = 1 << 18

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_UNSUPPORTED = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


class Reader(Protocol):
    """Anything that gives up to *n* bytes, b"" at the end."""

    def read(self, n: int, /) -> bytes: ...


@runtime_checkable
class Interruptible(Protocol):
    """What may wait for long, and can be told from another thread that nothing more is wanted."""

    def give_up(self) -> object: ...


class Prefixed:
    """A reader with bytes that were read too early put back in front."""

    def __init__(self, prefix: bytes, source: Reader) -> None:
        """Give *prefix* first, then what *source* gives."""
        self._prefix = prefix
        self._source = source

    def read(self, n: int, /) -> bytes:
        """Up to *n* bytes."""
        if self._prefix:
            data, self._prefix = self._prefix[:n], self._prefix[n:]
            return data
        return self._source.read(n)


def sniff(prefix: bytes) -> str:
    """``gzip``, ``zstd`` or ``none``, from a stream's first bytes.

    Raises:
        ImageError: it is compressed with what layers are never compressed with.
    """
    if prefix.startswith(_GZIP_MAGIC):
        return "gzip"
    if prefix.startswith(_ZSTD_MAGIC) or _is_skippable(prefix):
        return "zstd"
    for magic, name in _UNSUPPORTED.items():
        if prefix.startswith(magic):
            raise ImageError(f"{name} compression is not read here", hint="gzip, zstd and none are")
    return "none"


def _is_skippable(prefix: bytes) -> bool:
    return len(prefix) >= 4 and prefix[1:4] == b"\x2a\x4d\x18" and 0x50 <= prefix[0] <= 0x5F


def read_some(source: Reader, n: int) -> bytes:
    """*n* bytes, fewer only at the end."""
    data = source.read(n)
    while 0 < len(data) < n:
        more = source.read(n - len(data))
        if not more:
            break
        data += more
    return data


def decompress(source: Reader) -> Iterator[bytes]:
    """The plain data of *source* in pieces of up to :data:`BUFFER` bytes.

    Raises:
        ImageError: the compressed data is malformed or cut short.
    """
    prefix = read_some(source, 6)
    kind = sniff(prefix)
    whole = Prefixed(prefix, source)
    if kind == "gzip":
        yield from _gunzip(whole)
    elif kind == "zstd":
        yield from _unzstd(whole)
    else:
        while chunk := read_some(whole, BUFFER):
            yield chunk


class Inflater(Protocol):
    """A decoder of one gzip member."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int = 0, /) -> bytes: ...


def gzip_inflaters() -> tuple[Callable[[], Inflater], type[Exception]]:
    """What makes the fastest decoder of one gzip member, and the error that it raises."""
    try:
        from isal import isal_zlib
    except ImportError:  # not built for this processor
        return lambda: zlib.decompressobj(wbits=31), zlib.error
    failure: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # the stub says instance, not class
    return lambda: isal_zlib.decompressobj(wbits=31), failure


def _gunzip(source: Reader) -> Iterator[bytes]:
    """All members, one after another; zeroes after the last one are padding (source: RFC 1952, gzip(1))."""
    make, failure = gzip_inflaters()
    inflater = make()
    data = source.read(_INPUT)
    while True:
        try:
            plain = inflater.decompress(data, BUFFER)
        except failure as error:
            raise ImageError(f"the gzip data is malformed: {error}") from error
        if plain:
            yield plain
        if not inflater.eof:
            data = inflater.unconsumed_tail or (b"" if len(plain) == BUFFER else source.read(_INPUT))
            if not data and len(plain) < BUFFER:
                raise ImageError("the gzip data is cut short")
            continue
        data = inflater.unused_data.lstrip(b"\0")
        while not data and (more := source.read(_INPUT)):
            data = more.lstrip(b"\0")
        if not data:
            return
        if len(data) < 2:
            data += source.read(_INPUT)
        if not data.startswith(_GZIP_MAGIC):
            raise ImageError("there is something else behind the gzip data")
        inflater = make()


def _unzstd(source: Reader) -> Iterator[bytes]:
    """All frames; the window is bounded by the library's 128 MiB."""
    import zstandard

    readable: IO[bytes] = _Readable(source)  # type: ignore[assignment]  # only read() is ever called
    reader = zstandard.ZstdDecompressor().stream_reader(readable, read_across_frames=True)
    while True:
        try:
            chunk = reader.read(BUFFER)
        except zstandard.ZstdError as error:
            raise ImageError(f"the zstd data is malformed: {error}") from error
        if not chunk:
            return
        yield chunk


class _Readable:
    """What zstandard asks for: an object whose ``read`` takes a size."""

    def __init__(self, source: Reader) -> None:
        self._source = source

    def read(self, size: int = -1) -> bytes:
        return self._source.read(size if size > 0 else _INPUT)


class Compressor:
    """Compresses one stream, the same input always to the same output."""

    def __init__(self, kind: str, level: int | None = None) -> None:
        """Make a compressor.

        Args:
            kind: ``gzip``, ``zstd`` or ``none``.
            level: of the method; None: 6 for gzip, 3 for zstd.

        Raises:
            ImageError: *kind* is another.
        """
        self.kind = kind
        self._deflater = None
        self._zstd: zstandard.ZstdCompressionObj | None = None
        self._crc = 0
        self._size = 0
        self._head = b""
        if kind == "gzip":
            self._deflater = zlib.compressobj(
                6 if level is None else level, zlib.DEFLATED, -zlib.MAX_WBITS, 8
            )
            # No time, no name, operating system "unknown": nothing but the content decides the bytes.
            self._head = b"\x1f\x8b\x08\x00\0\0\0\0\x00\xff"
        elif kind == "zstd":
            import zstandard

            self._zstd = zstandard.ZstdCompressor(level=3 if level is None else level).compressobj()
        elif kind != "none":
            raise ImageError(f"unknown compression {kind!r}", hint="gzip, zstd and none are known")

    def compress(self, data: bytes) -> bytes:
        """Take in *data*; return what is ready."""
        if self._deflater is not None:
            self._crc = zlib.crc32(data, self._crc)
            self._size += len(data)
            head, self._head = self._head, b""
            return head + self._deflater.compress(data)
        if self._zstd is not None:
            return self._zstd.compress(data)
        return data

    def flush(self) -> bytes:
        """The rest, once all has been taken in."""
        if self._deflater is not None:
            trailer = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
            return self._head + self._deflater.flush() + trailer
        return self._zstd.flush() if self._zstd is not None else b""
