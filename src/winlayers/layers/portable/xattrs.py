"""NTFS metadata as extended attributes of POSIX files, and back.

What a mount shows beside the data, under the names that ntfs-3g uses in its ``system.`` namespace, here in
``user.`` (symbolic links can't have ``user.`` attributes: theirs are in ``trusted.``, for root alone):

==================  ============================================================================
``ntfs_acl``        the self-relative security descriptor
``ntfs_attrib``     the attribute bits, u32
``ntfs_times``      FILETIMEs, 4 x u64: creation, last write, last access, change
``ntfs_crtime``     the creation time alone, u64
``ntfs_ea``         the extended attributes, FILE_FULL_EA_INFORMATION
``ntfs_reparse_data``  the reparse buffer: tag, length, reserved, data
``ntfs_streams``    JSON: the alternate streams that are not shown as attributes; only to be read
any other           an alternate data stream of that name
==================  ============================================================================

All numbers are little endian.  Sources: ntfs-3g, ``xattrs.c`` (names), ``inode.c`` (the order of times) and
its mount option ``streams_interface=xattr`` (streams as attributes); Linux ``xattr(7)`` for the limits.

A stream's name is written as UTF-8 with `host_safe`'s escapes; one that would be taken for a name above, or
for overlayfs's own (``overlay.``), has ``stream.`` before it.

Attributes are shown as long as there is *room*.  Linux takes values of 64 KiB, but a file that is changed is
copied to the scratch layer with all its attributes, and ext4 holds no more than a block of them: see
`WRITABLE_ROOM`.  What finds no room is not lost, only not shown.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from winlayers.errors import FormatError, InvalidNameError, SecurityDescriptorError
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.ea import build_eas, parse_eas
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata
from winlayers.win32.names import host_original, host_safe, validate_component
from winlayers.win32.reparse import parse_reparse

USER = "user."
TRUSTED = "trusted."

ACL = b"ntfs_acl"
ATTRIB = b"ntfs_attrib"
TIMES = b"ntfs_times"
CRTIME = b"ntfs_crtime"
EA = b"ntfs_ea"
REPARSE = b"ntfs_reparse_data"
STREAMS = b"ntfs_streams"

MAX_VALUE = 0xFFFF
"""The largest value shown, in bytes: Linux's own limit is one more, EROFS stores sizes in 16 bits."""

MAX_NAME = 255 - len(USER)
"""The longest name, in bytes, without the name space."""

READ_ONLY_ROOM = 200_000
"""What the attributes of one file may take where nothing is copied: within EROFS's limit of 262,144."""

WRITABLE_ROOM = 3_000
"""The same where they must fit into one ext4 block, with 1 KiB left to overlayfs's own attributes."""

_NAMES_ROOM = 32_768  # listxattr(2) gives no more than 64 KiB
_LIST_ROOM = 400  # kept for ntfs_streams where streams may not fit
_ENTRY_COST = 16  # ext4's struct ext4_xattr_entry; EROFS's is smaller
_RESERVED = ("ntfs_", "overlay.")
_PREFIX = "stream."
_U32 = struct.Struct("<I")
_TIME = struct.Struct("<q")
_TIMES = struct.Struct("<4q")


def cost(name: bytes, value_size: int) -> int:
    """The bytes that one attribute takes, by the larger of ext4's and EROFS's rules."""
    return _ENTRY_COST + (len(name) + 3 & ~3) + (value_size + 3 & ~3)


# -- streams ----------------------------------------------------------------------------------------


def attribute_of_stream(stream: str) -> bytes | None:
    """The name, without name space, of the attribute that shows the stream; None: its name is too long."""
    name = host_safe(stream)
    if host_original(name) != stream:
        return None
    data = (_PREFIX + name if name.startswith((*_RESERVED, _PREFIX)) else name).encode("utf-8")
    return data if len(data) <= MAX_NAME else None


def stream_of_attribute(name: bytes) -> str | None:
    """The stream that the attribute *name* (without name space) stands for; None: it is metadata.

    Raises:
        InvalidNameError: no stream can have that name.
    """
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidNameError(f"the attribute user.{name!r} is not UTF-8, so it can't be a stream") from None
    if text.startswith(_RESERVED):
        return None
    stream = host_original(text.removeprefix(_PREFIX))
    if stream is None or not stream:
        raise InvalidNameError(f"the attribute user.{text} can't be a stream")
    return validate_component(stream)


# -- metadata to attributes -------------------------------------------------------------------------


def times_value(metadata: FileMetadata) -> bytes:
    """The value of ``ntfs_times``."""
    return _TIMES.pack(
        metadata.creation_time, metadata.write_time, metadata.access_time, metadata.change_time
    )


@dataclasses.dataclass(slots=True)
class StreamSource:
    """An alternate stream that might be shown: its name, its size and what reads it."""

    name: str
    size: int
    read: Callable[[], bytes]


def shown_attributes(
    metadata: FileMetadata, streams: Sequence[StreamSource] = (), room: int = READ_ONLY_ROOM
) -> tuple[dict[bytes, bytes], bool]:
    """The attributes of a file, by name without name space, and whether all found room.

    The same arguments give the same attributes, so that a mount can tell later what a user has changed.
    """
    wanted = [
        (ATTRIB, _U32.pack(int(metadata.attributes) & 0xFFFFFFFF)),
        (TIMES, times_value(metadata)),
        (CRTIME, _TIME.pack(metadata.creation_time)),
    ]
    if metadata.security is not None:
        wanted.append((ACL, metadata.security))
    if metadata.eas:
        wanted.append((EA, build_eas(metadata.eas)))
    if metadata.reparse is not None:
        wanted.append((REPARSE, metadata.reparse))
    shown: dict[bytes, bytes] = {}
    left = room
    complete = True
    for name, value in wanted:
        if len(value) <= MAX_VALUE and cost(name, len(value)) <= left:
            shown[name] = value
            left -= cost(name, len(value))
        else:
            complete = False
    if streams:
        complete &= _show_streams(shown, streams, left)
    return shown, complete


def _show_streams(shown: dict[bytes, bytes], streams: Sequence[StreamSource], left: int) -> bool:
    names_left = _NAMES_ROOM
    reserve = cost(STREAMS, _LIST_ROOM)
    left -= reserve
    hidden: list[StreamSource] = []
    for stream in streams:
        name = attribute_of_stream(stream.name)
        if name is None or stream.size > MAX_VALUE or name in shown:
            hidden.append(stream)
            continue
        need = cost(name, stream.size)
        if need > left or len(name) > names_left:
            hidden.append(stream)
            continue
        shown[name] = stream.read()
        left -= need
        names_left -= len(name)
    if hidden:
        value = _list_streams(hidden)
        if cost(STREAMS, len(value)) <= left + reserve:
            shown[STREAMS] = value
    return not hidden


def _list_streams(hidden: Sequence[StreamSource]) -> bytes:
    """``[{"name": ..., "size": ...}, ...]``, cut with ``{"more": count}`` where the room ends."""
    parts: list[str] = []
    size = 2
    for number, stream in enumerate(hidden):
        text = json.dumps({"name": stream.name, "size": stream.size})
        if size + len(text) + 2 > _LIST_ROOM - 24:
            parts.append(json.dumps({"more": len(hidden) - number}))
            break
        parts.append(text)
        size += len(text) + 2
    return f"[{', '.join(parts)}]".encode("ascii")


# -- attributes to metadata -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class SetAttributes:
    """What attributes that someone set say.

    Attributes:
        metadata: only the fields named in *present* count.
        present: of "attributes", "times", "creation_time", "security", "eas", "reparse".
        streams: alternate streams, by name.
    """

    metadata: FileMetadata
    present: frozenset[str]
    streams: tuple[tuple[str, bytes], ...]


def parse_attributes(attributes: Mapping[bytes, bytes]) -> SetAttributes:
    """Read attributes (names without name space), strictly: what a user set must be what NTFS can hold.

    ``ntfs_streams`` is only ever shown, so it is passed over.

    Raises:
        FormatError: a value is not what its name demands, or a name is no stream's.
    """
    fields: dict[str, object] = {}
    present: set[str] = set()
    streams: list[tuple[str, bytes]] = []
    for name, value in attributes.items():
        parser = _PARSERS.get(name)
        if parser is not None:
            parser(value, fields, present)
        elif name != STREAMS:
            stream = stream_of_attribute(name)
            if stream is None:
                raise FormatError(f"the attribute user.{name.decode('utf-8', 'replace')} means nothing here")
            streams.append((stream, value))
    _reject_doubles(streams)
    return SetAttributes(FileMetadata(**fields), frozenset(present), tuple(streams))  # type: ignore[arg-type]


def _reject_doubles(streams: Iterable[tuple[str, bytes]]) -> None:
    seen: dict[str, str] = {}
    for name, _ in streams:
        other = seen.setdefault(name.upper(), name)
        if other != name:
            raise InvalidNameError(f"the streams {other!r} and {name!r} are one to NTFS")


def _parse_acl(value: bytes, fields: dict[str, object], present: set[str]) -> None:
    fields["security"] = check_descriptor(value)
    present.add("security")


def _parse_attrib(value: bytes, fields: dict[str, object], present: set[str]) -> None:
    if len(value) != _U32.size:
        raise FormatError(f"user.ntfs_attrib takes 4 bytes, not {len(value)}")
    fields["attributes"] = FileAttributes(_U32.unpack(value)[0])
    present.add("attributes")


def _parse_times(value: bytes, fields: dict[str, object], present: set[str]) -> None:
    if len(value) != _TIMES.size:
        raise FormatError(f"user.ntfs_times takes 32 bytes, not {len(value)}")
    creation, write, access, change = _TIMES.unpack(value)
    fields.update(creation_time=creation, write_time=write, access_time=access, change_time=change)
    present.add("times")


def _parse_crtime(value: bytes, fields: dict[str, object], present: set[str]) -> None:
    if len(value) != _TIME.size:
        raise FormatError(f"user.ntfs_crtime takes 8 bytes, not {len(value)}")
    if "times" not in present:
        fields["creation_time"] = _TIME.unpack(value)[0]
    present.add("creation_time")


def _parse_ea(value: bytes, fields: dict[str, object], present: set[str]) -> None:
    eas: tuple[ExtendedAttribute, ...] = parse_eas(value)
    fields["eas"] = eas
    present.add("eas")


def _parse_reparse(value: bytes, fields: dict[str, object], present: set[str]) -> None:
    parse_reparse(value)
    fields["reparse"] = value
    present.add("reparse")


_PARSERS: dict[bytes, Callable[[bytes, dict[str, object], set[str]], None]] = {
    ACL: _parse_acl,
    ATTRIB: _parse_attrib,
    TIMES: _parse_times,
    CRTIME: _parse_crtime,
    EA: _parse_ea,
    REPARSE: _parse_reparse,
}

_DESCRIPTOR = struct.Struct("<BBHIIII")
_SELF_RELATIVE = 0x8000


def check_descriptor(data: bytes) -> bytes:
    """*data* itself, if its header is that of a self-relative descriptor whose parts lie inside it.

    Raises:
        SecurityDescriptorError: it is not.
    """
    if len(data) < _DESCRIPTOR.size:
        raise SecurityDescriptorError(f"a security descriptor of {len(data)} bytes is too short")
    revision, _, control, *offsets = _DESCRIPTOR.unpack_from(data)
    if revision != 1 or not control & _SELF_RELATIVE:
        raise SecurityDescriptorError("not a self-relative security descriptor of revision 1")
    if any(offset and not _DESCRIPTOR.size <= offset <= len(data) - 8 for offset in offsets):
        raise SecurityDescriptorError("a part of a security descriptor lies outside it")
    return data
