"""Writes image archives: a tar that appears under its name only when it is whole.

The same members give the same bytes: no times, no owners.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from typing import IO

from winlayers import durable
from winlayers.errors import ImageError, StoreError
from winlayers.tar import TarHeader, TarWriter
from winlayers.tar.header import DIRECTORY

_BLOCK = 512
_COPY = 1 << 20


class ArchiveWriter:
    """A tar archive under construction."""

    def __init__(self, path: str) -> None:
        """Begin an archive that is to be at *path* (``-``: standard output).

        Raises:
            ImageError: there is something at *path*, or it can't be written to.
        """
        self.path = path
        self._hidden: str | None = None
        try:
            if path == "-":
                if sys.stdout.isatty():
                    raise ImageError(
                        "an archive is not written to a terminal", hint="give a file or redirect"
                    )
                self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as below
            elif os.path.lexists(path):
                raise ImageError(f"{path} exists already", hint="remove it first; archives are not added to")
            else:
                folder = os.path.dirname(os.path.abspath(path))
                self._hidden = durable.temporary_name(folder)
                self._file = open(self._hidden, "xb+")  # noqa: SIM115 - closed by finish and abort
        except OSError as error:
            raise ImageError(f"can't write {path}: {error.strerror}") from error
        self._writer = TarWriter(self._file)

    def directory(self, name: str) -> None:
        """Add a directory."""
        self._writer.write_header(TarHeader(f"{name}/", DIRECTORY, mode=0o755, mtime=(0, 0)))

    def file(self, name: str, data: bytes) -> None:
        """Add a small file."""
        self._writer.write_header(TarHeader(name, size=len(data), mode=0o644, mtime=(0, 0)))
        self._writer.write(data)

    def stream(self, name: str, size: int, produce: Callable[[Callable[[bytes], object]], None]) -> None:
        """Add a file of known size; *produce* gets the function that takes its data.

        If *produce* fails, or has other than *size* bytes, the archive is as it was before.
        """
        start = self._begin()
        try:
            self._writer.write_header(TarHeader(name, size=size, mode=0o644, mtime=(0, 0)))
            produce(self._put)
            self._writer.flush_padding()
        except BaseException:
            self._rewind(start)
            raise

    def stream_unknown(self, produce: Callable[[Callable[[bytes], object]], str]) -> None:
        """Add a file whose size is found out; *produce* returns its name.  On failure nothing is added."""
        start = self._begin()
        size = 0

        def put(data: bytes) -> None:
            nonlocal size
            size += len(data)
            self._put_raw(data)

        try:
            self._put_raw(bytes(_BLOCK))
            name = produce(put)
            self._put_raw(bytes(-size % _BLOCK))
            end = self._file.tell()
            self._file.seek(start)
            header = _Header()
            TarWriter(header).write_header(TarHeader(name, size=size, mode=0o644, mtime=(0, 0)))
            if len(header.data) != _BLOCK:
                raise ImageError(f"{self.path}: {name} is too large for an archive")
            self._file.write(header.data)
            self._file.seek(end)
        except BaseException:
            self._rewind(start)
            raise

    def finish(self) -> None:
        """End the archive and give it its name."""
        try:
            self._writer.close()
            self._file.flush()
            if self._hidden is None:
                self._file.seek(0)
                while chunk := self._file.read(_COPY):
                    sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
                self._file.close()
                return
            os.fsync(self._file.fileno())
            self._file.close()
            os.link(self._hidden, self.path)  # unlike a rename it never takes the place of another file
            os.unlink(self._hidden)
            durable.fsync_dir(os.path.dirname(os.path.abspath(self.path)))
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._hidden is None:
                raise ImageError(f"standard output: {error.strerror}") from error
            raise ImageError(f"can't write {self.path}: {error.strerror}") from error

    def abort(self) -> None:
        """Throw the archive away; harmless after :meth:`finish`."""
        self._file.close()
        if self._hidden is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._hidden)

    def _begin(self) -> int:
        self._writer.flush_padding()
        return self._file.tell()

    def _rewind(self, start: int) -> None:
        self._file.seek(start)
        self._file.truncate()
        self._writer = TarWriter(self._file)

    def _put(self, data: bytes) -> None:
        try:
            self._writer.write(data)
        except OSError as error:
            raise StoreError(f"can't write {self.path}: {error.strerror}") from error

    def _put_raw(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise StoreError(f"can't write {self.path}: {error.strerror}") from error


class _Header:
    """Takes what a tar writer writes for one header."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.data += bytes(data)
