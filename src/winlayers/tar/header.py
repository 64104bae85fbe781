"""Tar headers: the record that readers yield and writers take.

Layouts and limits are those of POSIX.1-1988 (USTAR), POSIX.1-2001 (PAX, ``pax`` utility) and GNU tar's manual
("Standard" and "Sparse Formats"); which of the many dialects are accepted is what Go's ``archive/tar``
(go1.27: ``strconv.go``, ``format.go``, ``common.go``) accepts, since every Windows layer passes through it.

A 512-byte block (offset, size)::

    0 name 100      100 mode 8     108 uid 8       116 gid 8      124 size 12     136 mtime 12
    148 checksum 8  156 type 1     157 linkname 100
    257 magic 6     263 version 2  265 uname 32    297 gname 32   329 devmajor 8  337 devminor 8
    345 prefix 155 (USTAR) or atime 12, ctime 12, ..., 386 sparse map 97, 483 real size 12 (GNU)
"""

from __future__ import annotations

import dataclasses
import enum

BLOCK_SIZE = 512
ZERO_BLOCK = bytes(BLOCK_SIZE)
NAME_SIZE = 100
PREFIX_SIZE = 155
MAX_SPECIAL_SIZE = 1 << 20
"""The most bytes of a PAX header, a GNU long name or a sparse map: archive/tar's and libarchive's limit."""

INT64_MAX = (1 << 63) - 1
GO_ZERO_SECONDS = -62135596800
"""0001-01-01 in Unix seconds: the moment that Go takes for "no time"."""

REGULAR = "0"
REGULAR_OLD = "\0"
LINK = "1"
SYMLINK = "2"
CHAR = "3"
BLOCK = "4"
DIRECTORY = "5"
FIFO = "6"
CONTIGUOUS = "7"
PAX_LOCAL = "x"
PAX_GLOBAL = "g"
GNU_SPARSE = "S"
GNU_LONG_NAME = "L"
GNU_LONG_LINK = "K"

HEADER_ONLY_TYPES = frozenset((LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO))
"""Types that have no data, whatever their size field says."""

Time = tuple[int, int]
"""A moment as (seconds since 1970, nanoseconds 0 to 999,999,999), exact; seconds may be negative."""


class Format(enum.IntFlag):
    """What a header is (or, for a writer, may be) encoded as.  ``UNKNOWN`` to a writer: choose.

    A reader gives ``UNKNOWN`` for V7 and for headers that keep no standard quite.
    """

    UNKNOWN = 0
    V7 = 1
    USTAR = 2
    PAX = 4
    GNU = 8
    STAR = 16


@dataclasses.dataclass(slots=True)
class TarHeader:
    """One member of a tar stream.

    Strings are bytes decoded as UTF-8 with ``surrogateescape``: nothing is lost, invalid UTF-8 comes out as
    it went in.

    Attributes:
        name: the member's path, ``/``-separated as stored.
        typeflag: one character; NUL has been turned into ``0`` or ``5`` by the reader.
        size: the logical size in bytes (of a sparse member: with its holes).
        linkname: target of a link or symbolic link.
        mtime, atime, ctime: times; None: not recorded.
        pax: the member's own PAX records in the order of the stream.  A global header (type ``g``) is a
            member of its own, whose records do not apply to others; so it is in Go.
        format: see :class:`Format`.
        sparse: the (offset, size) pairs of the data of a sparse member; None: not sparse.
        header_offset: where the member's first header block begins (that of its PAX header, if it has one).
        data_offset: where the member's stored data begins.
        stored_size: the number of bytes stored there (not counting padding).
        end_offset: where the next header is due: after data and padding.
    """

    name: str = ""
    typeflag: str = REGULAR
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: Time | None = None
    linkname: str = ""
    uname: str = ""
    gname: str = ""
    devmajor: int = 0
    devminor: int = 0
    atime: Time | None = None
    ctime: Time | None = None
    format: Format = Format.UNKNOWN
    pax: dict[str, str] = dataclasses.field(default_factory=dict)
    sparse: tuple[tuple[int, int], ...] | None = None
    header_offset: int = 0
    data_offset: int = 0
    stored_size: int = 0
    end_offset: int = 0
