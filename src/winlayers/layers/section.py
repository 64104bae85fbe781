"""A run of bytes that lies inside something else, as a file of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Callable


class Section(io.RawIOBase):
    """A raw file of bytes that are asked for by position; it can be sought in.

    Put an :class:`io.BufferedReader` around it.
    """

    def __init__(
        self,
        size: int,
        read_at: Callable[[int, int], bytes],
        closing: Callable[[], object] | None = None,
    ) -> None:
        """A file of *size* bytes.

        Args:
            read_at: gives up to as many bytes as asked for, from a position below *size*; b"" where
                there are fewer than was said.
            closing: called when the file is closed.
        """
        self._size = size
        self._read_at = read_at
        self._closing = closing
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # what callers pass
        if self.closed:
            raise ValueError("the file is closed")
        view = memoryview(buffer).cast("B")
        want = min(len(view), self._size - self._position)
        if want <= 0:
            return 0
        data = self._read_at(self._position, want)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed and self._closing is not None:
            self._closing()
        super().close()
