"""Digests of the files that are derived from a layer's tar, by which `check` tells damage in them.

*Index*: the SHA-256 of the whole file, in the layer's record.

*Side file*: the SHA-256 over each 4096-byte block that is not all zeroes, preceded by its number (u64, little
endian), in the record as well.  A side file may be terabytes of holes; these cost nothing, and whether a file
system keeps zeroes as a hole or as data makes no difference.

*View*: sealed.  The first eight bytes of the SHA-256 of the whole file, with those eight taken as zeroes,
stand in the two fields of SQLite's header that belong to the application: the user version (at 60) and the
application id (at 68; source: SQLite's file format, "The Database Header").  A view is made and replaced at
any time by any process, so its digest must come and go with the file itself.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator

_CHUNK = 1 << 20
_BLOCK = 4096
_ZEROES = bytes(_BLOCK)
_SEAL_AT = (60, 68)
_SEAL_PART = 4
_HEADER = 100
_UNSEALED = bytes(2 * _SEAL_PART)


def file_digest(path: str, size: int | None = None) -> str:
    """``sha256:...`` of the file's first *size* bytes, or of all.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.sha256()
    left = os.stat(path).st_size if size is None else size
    with open(path, "rb", buffering=0) as file:
        while left and (data := file.read(min(left, _CHUNK))):
            digest.update(data)
            left -= len(data)
    return f"sha256:{digest.hexdigest()}"


def side_digest(path: str) -> str:
    """``sha256:...`` over the side file's blocks that are not all zeroes.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        for start, end in _runs(fd):
            os.lseek(fd, start, os.SEEK_SET)
            position = start
            while position < end and (data := _read(fd, min(_CHUNK, end - position))):
                for offset in range(0, len(data), _BLOCK):
                    block = data[offset : offset + _BLOCK].ljust(_BLOCK, b"\0")
                    if block != _ZEROES:
                        digest.update(((position + offset) // _BLOCK).to_bytes(8, "little"))
                        digest.update(block)
                position += len(data)
    finally:
        os.close(fd)
    return f"sha256:{digest.hexdigest()}"


def _read(fd: int, size: int) -> bytes:
    """*size* bytes, or what is left of the file."""
    data = os.read(fd, size)
    while data and len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data


def _runs(fd: int) -> Iterator[tuple[int, int]]:
    """Where the file has data: (start, end), at whole blocks; all of it where the system can't tell."""
    size = os.fstat(fd).st_size
    position = 0
    while position < size:
        start, end = position, size
        if sys.platform == "linux":
            try:
                start = os.lseek(fd, position, os.SEEK_DATA)
                end = os.lseek(fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole is left
                start, end = position, size
        start -= start % _BLOCK
        end = min(size, -(-end // _BLOCK) * _BLOCK)
        yield max(start, position), end
        position = end


def seal(path: str) -> None:
    """Seal the SQLite file *path*, which nobody has open and which is not durable yet."""
    value = _seal_of(path)
    with open(path, "r+b") as file:
        for number, offset in enumerate(_SEAL_AT):
            file.seek(offset)
            file.write(value[number * _SEAL_PART : (number + 1) * _SEAL_PART])


def is_sealed(path: str) -> bool:
    """Whether the file is as it was when it was sealed.

    Raises:
        OSError: it can't be read.
    """
    with open(path, "rb") as file:
        header = file.read(_HEADER)
    found = b"".join(header[offset : offset + _SEAL_PART] for offset in _SEAL_AT)
    return found != _UNSEALED and found == _seal_of(path)


def _seal_of(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        header = bytearray(file.read(_HEADER))
        for offset in _SEAL_AT:
            header[offset : offset + _SEAL_PART] = bytes(_SEAL_PART)
        digest.update(header)
        while data := file.read(_CHUNK):
            digest.update(data)
    value = digest.digest()[: 2 * _SEAL_PART]
    return value if value != _UNSEALED else b"\1" * len(_UNSEALED)
