"""Windows metadata in tar headers, both ways, and members written from it: go-winio's ``backuptar``.

PAX records (all optional)::

    MSWINDOWS.fileattr        attribute bits, decimal, 32 bits
    MSWINDOWS.rawsd           security descriptor, self-relative, base64
    MSWINDOWS.sd              the same as SDDL (old writers; read, never written)
    MSWINDOWS.mountpoint      on a symbolic link: it is a junction, whatever the value ("1" is written)
    MSWINDOWS.xattr.<NAME>    an extended attribute, base64
    LIBARCHIVE.creationtime   creation time as PAX writes times
    mtime, atime, ctime       last write, last access, change

Alternate data streams are members of their own, ``file:stream``, right behind their file.  The mode's type
bits are the sum of what is there: 0o040000 a directory, 0o100000 an unnamed data stream, 0o120000 a reparse
point.

Sources: go-winio ``backuptar/tar.go``; hcsshim ``pkg/ociwclayer`` and moby ``daemon/graphdriver/windows`` for
links and whiteouts.  Where they lose data this module keeps it; ``docs/compatibility.md`` has the table.
"""

from __future__ import annotations

import binascii
import enum
import functools
import posixpath
from collections.abc import Iterable, Iterator
from typing import Protocol

from winlayers.errors import FormatError, ReparseError, TarError
from winlayers.tar.fields import format_pax_time, parse_pax_time, to_bytes
from winlayers.tar.header import DIRECTORY, LINK, REGULAR, SYMLINK, Format, TarHeader, Time
from winlayers.tar.writer import TarWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.ea import build_eas
from winlayers.win32.filetime import MAX_FILETIME, MIN_FILETIME, UNSET, filetime_from_unix, unix_from_filetime
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.names import decode_wtf8, encode_wtf8
from winlayers.win32.reparse import MountPoint, RawReparse, SymbolicLink, parse_reparse, tag_name

FILE_ATTRIBUTES = "MSWINDOWS.fileattr"
RAW_SECURITY = "MSWINDOWS.rawsd"
SDDL_SECURITY = "MSWINDOWS.sd"
MOUNT_POINT = "MSWINDOWS.mountpoint"
EA_PREFIX = "MSWINDOWS.xattr."
CREATION_TIME = "LIBARCHIVE.creationtime"

WHITEOUT_PREFIX = ".wh."
OPAQUE_MARKER = ".wh..wh..opq"

MODE_DIRECTORY = 0o040000
MODE_FILE = 0o100000
MODE_LINK = 0o120000
HARD_LINK_MODE = 0o644

_CACHED_TEXT = 4096


# -- names ------------------------------------------------------------------------------------------


def path_of_name(name: str) -> str:
    """The Windows path, ``/``-separated, of a member's name: its bytes as WTF-8, otherwise unchanged.

    What is not UTF-8 becomes U+FFFD, as it does where the reference runs.
    """
    return name if name.isascii() else decode_wtf8(to_bytes(name))


def name_of_path(path: str) -> str:
    """The member name for a Windows path: ``path_of_name`` backwards, without a slash at the end."""
    return _text_of(path.rstrip("/"))


def _text_of(name: str) -> str:
    """A Windows name as a header holds it: its bytes in WTF-8."""
    return name if name.isascii() else encode_wtf8(name).decode("utf-8", "surrogateescape")


def whiteout_name(path: str) -> str:
    """The name of the member that says that *path* is deleted."""
    parent, _, base = path.rstrip("/").rpartition("/")
    return name_of_path(posixpath.join(parent, WHITEOUT_PREFIX + base))


def opaque_name(path: str) -> str:
    """The name of the member that says that the directory *path* hides all that lies below."""
    return name_of_path(posixpath.join(path.rstrip("/"), OPAQUE_MARKER))


# -- values -----------------------------------------------------------------------------------------


def _decode_base64(text: str) -> bytes:
    """Base64 as Go's ``StdEncoding`` takes it: padding required, line ends ignored, nothing else.

    Raises:
        ValueError: anything else.
    """
    if "\n" in text or "\r" in text:
        text = text.replace("\n", "").replace("\r", "")
    if len(text) % 4 or not text.isascii():
        raise ValueError("not base64")
    data = binascii.a2b_base64(text, strict_mode=True)
    if len(data) != len(text) // 4 * 3 - text.count("="):
        raise ValueError("not base64")
    return data


_decode_shared = functools.lru_cache(maxsize=1024)(_decode_base64)


def _decode(text: str, record: str, name: str) -> bytes:
    """The bytes of a record; the few descriptors that most files share are decoded once."""
    try:
        return _decode_shared(text) if len(text) <= _CACHED_TEXT else _decode_base64(text)
    except ValueError:
        raise TarError(f"the record {record} is not base64", path=name) from None


def _encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


_encode_shared = functools.lru_cache(maxsize=1024)(_encode_base64)


def _encode(data: bytes) -> str:
    return _encode_shared(data) if len(data) <= _CACHED_TEXT else _encode_base64(data)


def _filetime(time: Time | None) -> int:
    """The FILETIME of a header's time; 0 ("unset") where there is none; out of range: the nearest end."""
    if time is None:
        return UNSET
    try:
        return filetime_from_unix(*time)
    except FormatError:
        return MAX_FILETIME if time[0] > 0 else MIN_FILETIME


def _time(filetime: int) -> Time | None:
    return None if filetime == UNSET else unix_from_filetime(filetime)


# -- header to metadata -----------------------------------------------------------------------------


def _attributes(header: TarHeader) -> FileAttributes:
    text = header.pax.get(FILE_ATTRIBUTES)
    if text is None:
        return FileAttributes.DIRECTORY if header.typeflag == DIRECTORY else FileAttributes(0)
    digits = text.lstrip("0") if text.isascii() and text.isdigit() else ""
    value = int(digits or "0") if len(digits) <= 10 else 1 << 32
    if not (text.isascii() and text.isdigit()) or value >= 1 << 32:
        raise TarError(f"{FILE_ATTRIBUTES} is not a 32-bit number", path=header.name)
    return FileAttributes(value)


def _security(header: TarHeader) -> bytes | None:
    raw = header.pax.get(RAW_SECURITY)
    if raw is not None:
        return _decode(raw, RAW_SECURITY, header.name) or None
    sddl = header.pax.get(SDDL_SECURITY)
    if sddl is None:
        return None
    from winlayers.win32.security.sddl import sddl_to_bytes  # old layers alone need it

    return sddl_to_bytes(sddl) or None


def _extended_attributes(header: TarHeader) -> tuple[ExtendedAttribute, ...]:
    start = len(EA_PREFIX)
    found = tuple(
        ExtendedAttribute(key[start:], _decode(value, key, header.name))
        for key, value in header.pax.items()
        if key.startswith(EA_PREFIX)
    )
    if found:
        build_eas(found)  # refuses what no file can have, before anything is written
    return found


def _reparse(header: TarHeader) -> bytes:
    target = path_of_name(header.linkname).replace("/", "\\")
    if MOUNT_POINT in header.pax:
        return MountPoint.to(target).to_bytes()
    return SymbolicLink.to(target).to_bytes()


def metadata_from_header(header: TarHeader) -> FileMetadata:
    """The metadata that *header* tells of.

    Without records: no attributes (DIRECTORY for a directory), creation as last write, times that the header
    does not have unset.  The attribute bits are as recorded, whatever the member's type.

    Raises:
        TarError: a record is malformed.
        SddlError, ExtendedAttributeError, ReparseError: its content is.
    """
    try:
        return _metadata(header)
    except FormatError as error:
        if error.path is None:
            error.path = header.name
        raise


def _metadata(header: TarHeader) -> FileMetadata:
    pax = header.pax
    write_time = _filetime(header.mtime)
    creation = pax.get(CREATION_TIME)
    return FileMetadata(
        _attributes(header),
        write_time if creation is None else _filetime(parse_pax_time(creation)),
        _filetime(header.atime),
        write_time,
        _filetime(header.ctime),
        _security(header) if pax else None,
        _extended_attributes(header) if pax else (),
        _reparse(header) if header.typeflag == SYMLINK else None,
    )


# -- metadata to header -----------------------------------------------------------------------------


def _basic_header(name: str, metadata: FileMetadata) -> TarHeader:
    """A header with attributes and times."""
    return TarHeader(
        name,
        format=Format.PAX,
        mtime=unix_from_filetime(metadata.write_time),
        atime=_time(metadata.access_time),
        ctime=_time(metadata.change_time),
        pax={
            FILE_ATTRIBUTES: str(int(metadata.attributes) & 0xFFFFFFFF),
            CREATION_TIME: format_pax_time(unix_from_filetime(metadata.creation_time)),
        },
    )


def header_from_metadata(
    path: str,
    metadata: FileMetadata,
    size: int = 0,
    *,
    has_data: bool = True,
    is_directory: bool | None = None,
) -> TarHeader:
    """The header of a file's member.

    Args:
        path: the Windows path, ``/``-separated.
        metadata: what is recorded.
        size: bytes in the unnamed data stream.
        has_data: whether there is an unnamed data stream, be it empty.
        is_directory: whether it is a directory; None: as the attributes say.

    Raises:
        ReparseError: the reparse point is of a kind that tar has no form for, or malformed.
    """
    header = _basic_header(name_of_path(path), metadata)
    pax = header.pax
    if metadata.is_directory if is_directory is None else is_directory:
        header.typeflag = DIRECTORY
        header.mode = MODE_DIRECTORY
    else:
        header.size = size
    if has_data:
        header.mode |= MODE_FILE
    if metadata.security:
        pax[RAW_SECURITY] = _encode(metadata.security)
    for ea in metadata.eas:
        pax[EA_PREFIX + ea.name] = _encode(ea.value)
    if metadata.reparse is not None:
        _set_reparse(header, metadata.reparse, path)
    return header


def _set_reparse(header: TarHeader, buffer: bytes, path: str) -> None:
    header.mode |= MODE_LINK
    header.typeflag = SYMLINK
    header.size = 0
    try:
        point = parse_reparse(buffer, strict=False)
    except ReparseError as error:
        error.path = path
        raise
    if isinstance(point, RawReparse):
        raise ReparseError(f"a tar can't hold a reparse point of the kind {tag_name(point.tag)}", path=path)
    if isinstance(point, MountPoint):
        header.pax[MOUNT_POINT] = "1"
    header.linkname = _text_of(point.target)


def link_header(path: str, target: str, metadata: FileMetadata | None) -> TarHeader:
    """The header of a hard link's member; *metadata*: of the file, whose attributes and times go along."""
    header = (
        _basic_header(name_of_path(path), metadata) if metadata is not None else TarHeader(name_of_path(path))
    )
    header.typeflag = LINK
    header.mode = HARD_LINK_MODE
    header.linkname = name_of_path(target)
    return header


def stream_header(owner: TarHeader, stream: str, size: int) -> TarHeader:
    """The header of an alternate stream's member, behind its file's (or link's) member *owner*."""
    return TarHeader(
        f"{owner.name}:{_text_of(stream)}",
        REGULAR,
        size,
        owner.mode,
        mtime=owner.mtime,
        atime=owner.atime,
        ctime=owner.ctime,
        format=owner.format,
    )


# -- members ----------------------------------------------------------------------------------------


class EntryKind(enum.Enum):
    """What a layer's entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    """A hard link to another entry of this layer or of a parent."""
    WHITEOUT = "whiteout"
    """The path is deleted: it hides what the parents have there."""
    OPAQUE = "opaque"
    """The directory at this path hides all that the parents have in it."""


class Entry(Protocol):
    """What :func:`write_layer_entry` needs to know of an entry."""

    @property
    def path(self) -> str: ...
    @property
    def kind(self) -> EntryKind: ...
    @property
    def metadata(self) -> FileMetadata | None: ...
    @property
    def link_target(self) -> str | None: ...


def write_layer_entry(
    writer: TarWriter, entry: Entry, streams: Iterable[DataStream] = (), *, name: str | None = None
) -> Iterator[None]:
    """Write the members of one entry, a piece at a time: nothing happens until the result is iterated.

    Each step writes a header or a chunk of data, so that whoever makes a tar on demand can stop in between.

    Args:
        writer: where to.
        entry: the entry; a link's metadata may be None.
        streams: the unnamed stream first where there is one, then alternate ones.
        name: the member's name, where it is known and may be more than the path (not UTF-8); else it is that
            of the entry's path.

    Raises:
        TarError: a stream has not as much data as it says, a directory or reparse point has data, an extended
            attribute's name holds ``=``.
        ReparseError: the reparse point is of a kind that tar has no form for.
    """
    kind = entry.kind
    if kind is EntryKind.WHITEOUT:
        writer.write_header(TarHeader(name or whiteout_name(entry.path)))
        yield
        return
    if kind is EntryKind.OPAQUE:
        writer.write_header(TarHeader(name or opaque_name(entry.path)))
        yield
        return
    metadata = entry.metadata
    if kind is EntryKind.LINK:
        if entry.link_target is None:
            raise TarError("a hard link without a target", path=entry.path)
        header = link_header(entry.path, entry.link_target, metadata)
        header.name = name or header.name
        writer.write_header(header)
        yield
        yield from _write_streams(writer, header, streams)
        return
    if metadata is None:
        raise TarError("a file without metadata", path=entry.path)
    is_directory = kind is EntryKind.DIRECTORY
    yield from _write_file(writer, entry.path, metadata, streams, is_directory, name)


def write_entry(
    writer: TarWriter,
    path: str,
    metadata: FileMetadata,
    streams: Iterable[DataStream] = (),
    *,
    is_directory: bool | None = None,
) -> None:
    """Write a file's or directory's members.

    Args: as :func:`header_from_metadata` and :func:`write_layer_entry`, whose errors are raised.
    """
    for _ in _write_file(writer, path, metadata, streams, is_directory):
        pass


def _write_file(
    writer: TarWriter,
    path: str,
    metadata: FileMetadata,
    streams: Iterable[DataStream],
    is_directory: bool | None,
    name: str | None = None,
) -> Iterator[None]:
    remaining = iter(streams)
    first = next(remaining, None)
    data = first if first is not None and not first.name else None
    size = 0 if data is None else data.size
    header = header_from_metadata(path, metadata, size, has_data=data is not None, is_directory=is_directory)
    header.name = name or header.name
    if size and header.typeflag != REGULAR:
        raise TarError(
            f"a directory or reparse point has {size} bytes of data, which a tar can't hold", path=path
        )
    writer.write_header(header)
    yield
    if data is not None:
        yield from _write_chunks(writer, data, path)
    elif first is not None:
        yield from _write_streams(writer, header, (first,))
    yield from _write_streams(writer, header, remaining)


def _write_streams(writer: TarWriter, owner: TarHeader, streams: Iterable[DataStream]) -> Iterator[None]:
    for stream in streams:
        if not stream.name:
            raise TarError("the unnamed data stream must come first, and a link has none", path=owner.name)
        writer.write_header(stream_header(owner, stream.name, stream.size))
        yield
        yield from _write_chunks(writer, stream, owner.name)


def _write_chunks(writer: TarWriter, stream: DataStream, path: str) -> Iterator[None]:
    left = stream.size
    for chunk in stream.chunks:
        left -= len(chunk)
        if left < 0:
            raise TarError(f"a data stream has {-left} bytes more than announced", path=path)
        writer.write(chunk)
        yield
    if left:
        raise TarError(f"a data stream has {left} bytes less than announced", path=path)
