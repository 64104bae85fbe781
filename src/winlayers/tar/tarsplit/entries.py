r"""tar-split's entries and their form on disk.

Each entry is one line of JSON, with the keys in this order (tar-split ``tar/storage/entry.go``)::

    type      2: a segment of raw bytes, 1: a file
    name      a file's name as the tar has it; left out if empty
    name_raw  base64 of the name, instead of ``name``, where the name is not UTF-8
    size      a file's size in bytes; left out if 0
    payload   base64: the segment's bytes, or the CRC-64 (ISO, big endian) of the file's content; null for
        no content
    position  counts the entries from 0

The file is called ``tar-data.json.gz`` or ``tar-split.json.gz`` and is gzipped; the lines as they are can
be read too.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Self, cast

from winlayers.errors import TarSplitError
from winlayers.tar.fields import to_bytes

SEGMENT_TYPE = 2
FILE_TYPE = 1
MAX_LINE_BYTES = 64 << 20
"""The longest line that is read.  Segments over 16 MiB are never written here, and by tar-split only for
headers that large."""

_INT64 = 1 << 63
_SEGMENT_LINE = re.compile(rb'\{"type":2,"payload":"([A-Za-z0-9+/=]*)","position":([0-9]{1,18})\}')
_SURROGATE = re.compile("[\ud800-\udfff]")
_GZIP_MAGIC = b"\x1f\x8b"
_KEYS = frozenset(("type", "name", "name_raw", "size", "payload", "position"))
# What Go's encoding/json escapes beyond what JSON demands.
_GO_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Raw bytes of the stream.

    Attributes:
        payload: the bytes.
        position: counts entries from 0.
    """

    payload: bytes
    position: int


@dataclasses.dataclass(frozen=True, slots=True)
class FileEntry:
    """One member of the stream, of whatever type.

    Attributes:
        name: bytes decoded as UTF-8 with ``surrogateescape``, so that nothing is lost.
        size: the size in bytes, of a sparse file with its holes.  Links and directories may claim one as
            well.
        checksum: the 8 bytes of the content's CRC-64; None where *size* is not positive.
        position: counts entries from 0.
    """

    name: str
    size: int
    checksum: bytes | None
    position: int


Entry = Segment | FileEntry


def encode_entry(entry: Entry) -> bytes:
    """*entry* as a line of JSON, byte for byte what Go's encoder writes."""
    if isinstance(entry, Segment):
        payload = base64.b64encode(entry.payload).decode("ascii")
        return f'{{"type":2,"payload":"{payload}","position":{entry.position}}}\n'.encode("ascii")
    name = ""
    if entry.name:
        try:
            entry.name.encode("utf-8")
        except UnicodeEncodeError:
            raw = base64.b64encode(to_bytes(entry.name)).decode("ascii")
            name = f'"name_raw":"{raw}",'
        else:
            name = f'"name":{json.dumps(entry.name, ensure_ascii=False).translate(_GO_ESCAPES)},'
    size = f'"size":{entry.size},' if entry.size else ""
    checksum = "null"
    if entry.checksum is not None:
        checksum = f'"{base64.b64encode(entry.checksum).decode("ascii")}"'
    return f'{{"type":1,{name}{size}"payload":{checksum},"position":{entry.position}}}\n'.encode()


def decode_entry(line: bytes) -> Entry:
    """The entry on *line*, read as Go's decoder reads it.

    A name that is not UTF-8 although it stands in ``name`` gets U+FFFD for what can't be read.

    Raises:
        TarSplitError: not JSON, not an object, a value of the wrong type or range, or an unknown type of
            entry.
    """
    match = _SEGMENT_LINE.fullmatch(line)
    if match is not None:  # as encoders write it: most of the bytes of most files
        return Segment(_decode_base64(match[1]), int(match[2]))
    try:
        # Go puts one U+FFFD for each byte that can't be decoded, and for each escape of a lone surrogate.
        value = json.loads(line.decode("utf-8", "surrogateescape"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TarSplitError(f"tar-split metadata: a line is not JSON: {_summary(error)}") from None
    if not isinstance(value, dict):
        raise TarSplitError("tar-split metadata: a line is not a JSON object")
    fields = cast("dict[str, object]", value)
    if not fields.keys() <= _KEYS:  # encoding/json does not mind case, or keys that it does not know
        fields = {key.lower(): item for key, item in fields.items()}
    kind = _integer(fields, "type")
    position = _integer(fields, "position")
    payload = _base64(fields, "payload")
    if kind == SEGMENT_TYPE:
        return Segment(payload or b"", position)
    if kind != FILE_TYPE:
        raise TarSplitError(f"tar-split metadata: entry {position} is of unknown type {kind}")
    raw = _base64(fields, "name_raw")
    if raw:
        name = raw.decode("utf-8", "surrogateescape")
    else:
        text = fields.get("name")
        if text is not None and not isinstance(text, str):
            raise TarSplitError("tar-split metadata: name is not a string")
        name = _SURROGATE.sub("\ufffd", text or "")
    size = _integer(fields, "size")
    if payload is not None and len(payload) != 8 and size != 0:
        raise TarSplitError(f"tar-split metadata: entry {position} has no valid checksum", path=name)
    return FileEntry(name, size, payload, position)


def _refuse_constant(name: str) -> object:
    """Python's parser knows NaN and Infinity, JSON does not."""
    raise ValueError(f"{name} is no value")


def _summary(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _integer(fields: dict[str, object], key: str) -> int:
    value = fields.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT64 <= value < _INT64:
        raise TarSplitError(f"tar-split metadata: {key} is not a 64-bit integer")
    return value


def _base64(fields: dict[str, object], key: str) -> bytes | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise TarSplitError(f"tar-split metadata: {key} is not a string")
    return _decode_base64(value.replace("\r", "").replace("\n", ""))


def _decode_base64(text: str | bytes) -> bytes:
    """Base64 as Go's ``StdEncoding`` takes it, with all of its padding and nothing else."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        data = None
    padding = text.count("=") if isinstance(text, str) else text.count(b"=")
    if data is None or len(text) % 4 or len(data) != len(text) // 4 * 3 - padding:
        raise TarSplitError("tar-split metadata: payload or name is not base64")
    return data


class EntryWriter:
    """Writes entries to a binary file; an instance's :meth:`add` is the metadata sink of a disassembly.

    Args:
        sink: where to write; it stays open.
        compress: gzip the lines, as the tool and dockerd keep them.  Equal entries give equal bytes.
    """

    def __init__(self, sink: IO[bytes], *, compress: bool = True) -> None:
        self._gzip = (
            gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=sink, mtime=0)
            if compress
            else None
        )
        self._sink: IO[bytes] = cast("IO[bytes]", self._gzip) if self._gzip is not None else sink

    def add(self, entry: Entry) -> None:
        """Write *entry*."""
        self._sink.write(encode_entry(entry))

    def close(self) -> None:
        """Write what is outstanding.  Without this a gzipped file is incomplete."""
        if self._gzip is not None:
            self._gzip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Peeked:
    """A binary file whose first bytes have been read already."""

    def __init__(self, head: bytes, source: IO[bytes]) -> None:
        self._head = head
        self._source = source

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._source.read(size)
        head, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
        return head + self._source.read() if size < 0 else head


def read_entries(source: IO[bytes]) -> Iterator[Entry]:
    """The entries in *source*, gzipped or not, one at a time.

    Raises:
        TarSplitError: what is there can't be read as entries, or entries are missing between others.
    """
    head = b""
    while len(head) < 2 and (more := source.read(2 - len(head))):
        head += more
    peeked = cast("IO[bytes]", _Peeked(head, source))
    stream = cast("IO[bytes]", gzip.GzipFile(fileobj=peeked, mode="rb")) if head == _GZIP_MAGIC else peeked
    for expected, line in enumerate(_lines(stream)):
        entry = decode_entry(line)
        # Metadata without positions exist in nobody's store, but the reference reads them.
        if entry.position != expected and b'"position"' in line:
            raise TarSplitError(
                f"tar-split metadata: entry {expected} is missing or out of order: {entry.position} follows"
            )
        yield entry


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of *stream* that are not blank, each of bounded length."""
    parts: list[bytes] = []
    length = 0
    while True:
        try:
            chunk = stream.read(1 << 16)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TarSplitError(f"tar-split metadata: broken gzip: {_summary(error)}") from None
        first, *others = chunk.split(b"\n") if chunk else (b"", b"")
        parts.append(first)
        length += len(first)
        if length > MAX_LINE_BYTES:
            raise TarSplitError(f"tar-split metadata: a line is longer than {MAX_LINE_BYTES >> 20} MiB")
        if others:
            *whole, last = [b"".join(parts), *others]
            parts, length = [last], len(last)
            yield from (line for line in whole if line.strip(b" \t\r"))
        if not chunk:
            return
