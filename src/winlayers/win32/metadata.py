"""What NTFS knows of a file besides its data, and the streams that hold the data.

These are the types that everything above speaks: tar headers, backup streams, indexes, views and mounts all
translate to and from them.  Times are FILETIMEs: counts of 100 ns since 1601-01-01 UTC, as signed 64-bit
integers, so that nothing is rounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from winlayers.win32.attributes import FileAttributes

_NO_ATTRIBUTES = FileAttributes(0)


@dataclasses.dataclass(frozen=True, slots=True)
class ExtendedAttribute:
    """One NTFS extended attribute.

    Attributes:
        name: 1 to 254 bytes, ASCII by rule (NTFS folds it to upper case when it compares).
        value: up to 65,535 bytes.
        flags: 0, or 0x80 (FILE_NEED_EA) where the file can't be understood without it.
    """

    name: str
    value: bytes
    flags: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class FileMetadata:
    """The metadata of one file or directory.

    Attributes:
        attributes: the Win32 attribute bits, as they came (also unknown ones).
        creation_time, access_time, write_time, change_time: FILETIMEs; 0 is "unset".
        security: the self-relative security descriptor; None: none was recorded.
        eas: extended attributes, in the order in which they came.
        reparse: the whole reparse buffer (tag, length, reserved, data); None: not a reparse point.
    """

    attributes: FileAttributes = _NO_ATTRIBUTES
    creation_time: int = 0
    access_time: int = 0
    write_time: int = 0
    change_time: int = 0
    security: bytes | None = None
    eas: tuple[ExtendedAttribute, ...] = ()
    reparse: bytes | None = None

    @property
    def is_directory(self) -> bool:
        """Whether the DIRECTORY bit is set."""
        return bool(self.attributes & FileAttributes.DIRECTORY)


@dataclasses.dataclass(slots=True)
class DataStream:
    """One stream of a file on its way from a source to a sink.

    Attributes:
        name: "" for the unnamed data stream, else the bare name of an alternate stream (no colon, no type).
        size: the number of bytes that *chunks* yields in all, known beforehand.
        chunks: the data, to be read once.
    """

    name: str
    size: int
    chunks: Iterable[bytes | memoryview]
