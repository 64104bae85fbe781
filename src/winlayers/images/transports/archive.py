"""A tar archive as a folder of files: what both archive transports read from.

The archive may be compressed and may come through a pipe: it is then spooled to a temporary file once.  Its
members are indexed by name; nothing is unpacked, so hostile names and links lead nowhere.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import sys
import tempfile
import threading
from typing import IO, BinaryIO

from winlayers.errors import ImageError, ImageNotFoundError, TarError
from winlayers.images.compression import decompress, sniff
from winlayers.images.jsonfields import MAX_DOCUMENT
from winlayers.layers.section import Section
from winlayers.tar import TarReader

_MAX_MEMBERS = 100_000
_MAX_LINKS = 8
_FILES, _HARD_LINK, _SYMBOLIC_LINK = frozenset({"0", "\0", "7"}), "1", "2"


class Archive:
    """An indexed tar archive."""

    def __init__(self, path: str) -> None:
        """Open and index the archive at *path* (``-``: standard input).

        Raises:
            ImageError: it can't be opened, or is no tar.
        """
        self.path = path
        self._file = _seekable(path)
        self._lock = threading.Lock()
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            self._index()
        except TarError as error:
            self.close()
            raise ImageError(f"{path} is not a tar archive: {error.message}") from error
        except BaseException:
            self.close()
            raise

    def _index(self) -> None:
        self._file.seek(0)
        reader = TarReader(_Skipping(self._file))
        count = 0
        while (header := reader.next()) is not None:
            count += 1
            if count > _MAX_MEMBERS:
                raise ImageError(f"{self.path} has more than {_MAX_MEMBERS} members")
            name = _clean(header.name)
            # As for an extraction, the last of several members of one name is the one that counts.
            self._links.pop(name, None)
            self._members.pop(name, None)
            if header.typeflag in _FILES and header.sparse is None:
                self._members[name] = (header.data_offset, header.size)
            elif header.typeflag == _HARD_LINK:
                self._links[name] = _clean(header.linkname)
            elif header.typeflag == _SYMBOLIC_LINK:
                self._links[name] = _clean(posixpath.join(posixpath.dirname(name), header.linkname))

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def _find(self, name: str) -> tuple[int, int] | None:
        name = _clean(name)
        for _ in range(_MAX_LINKS):
            if name not in self._links:
                break
            name = self._links[name]
        return self._members.get(name)

    def size(self, name: str) -> int:
        """The size of a member in bytes.

        Raises:
            ImageNotFoundError: there is none of that name.
        """
        return self._require(name)[1]

    def _require(self, name: str) -> tuple[int, int]:
        found = self._find(name)
        if found is None:
            raise ImageNotFoundError(f"{self.path} has no member {name}")
        return found

    def open(self, name: str) -> BinaryIO:
        """A member, to be read from its start; several may be open at once, also in several threads.

        Raises:
            ImageNotFoundError: there is none of that name.
        """
        offset, size = self._require(name)

        def read_at(position: int, count: int) -> bytes:
            with self._lock:  # not pread, which Windows does not have
                self._file.seek(offset + position)
                return self._file.read(count)

        return io.BufferedReader(Section(size, read_at), 1 << 18)

    def read(self, name: str) -> bytes:
        """A small member's bytes.

        Raises:
            ImageError: it is too large for a document.
            ImageNotFoundError: there is none of that name.
        """
        if self.size(name) > MAX_DOCUMENT:
            raise ImageError(f"{self.path}: {name} is larger than {MAX_DOCUMENT} bytes")
        with self.open(name) as file:
            return file.read()

    def close(self) -> None:
        """Close the archive, and remove what was spooled; harmless when called twice."""
        self._file.close()


class _Skipping:
    """A file as a tar reader likes it: what it does not look at is not read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)

    def skip(self, size: int, /) -> int:
        there = min(size, max(0, self._size - self._file.tell()))
        self._file.seek(there, os.SEEK_CUR)
        return there


def _clean(name: str) -> str:
    """A member's name in one form: no leading slash, no ``.``; ``..`` does not leave the archive."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def _seekable(path: str) -> IO[bytes]:
    """The plain tar as a file that can be read anywhere.

    Raises:
        ImageError: it can't be opened or read, or is empty.
    """
    what = "standard input" if path == "-" else path
    try:
        source: IO[bytes] = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115 - kept open
    except OSError as error:
        raise ImageError(f"can't open {path}: {error.strerror}") from error
    try:
        regular = stat.S_ISREG(os.fstat(source.fileno()).st_mode)
        if regular:
            prefix = source.read(6)
            source.seek(0)
            if sniff(prefix) == "none":
                return source
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - the archive closes it
        try:
            for chunk in decompress(source):
                spool.write(chunk)
            spool.flush()
            if not spool.tell():
                raise ImageError(f"{what} is empty")
        except BaseException:
            spool.close()
            raise
    except BaseException as error:
        if path != "-":
            source.close()
        if isinstance(error, OSError):
            raise ImageError(f"can't read {what}: {error.strerror}") from error
        if isinstance(error, ImageError) and what not in error.message:
            error.message = f"{what}: {error.message}"
        raise
    if path != "-":
        source.close()
    return spool
