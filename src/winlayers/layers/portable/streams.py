"""A stored tar, as it came."""

from __future__ import annotations

from winlayers.errors import LayerCorruptError
from winlayers.layers.portable import disk

_CHUNK = 1 << 20


class TarFile:
    """A layer's stored tar, up to its true length."""

    def __init__(self, path: str, size: int, layer: str) -> None:
        """Open *path*, of which the first *size* bytes are the tar as it came."""
        self._layer = layer
        self._left = size
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close
        except OSError as error:
            raise LayerCorruptError(f"can't open the layer's tar: {error.strerror}", layer=layer) from error

    def read(self, n: int = -1, /) -> bytes:
        """Up to *n* bytes (all if negative); b"" at the end.

        Raises:
            LayerCorruptError: the file is shorter than it was when it came.
        """
        want = self._left if n < 0 else min(n, self._left)
        parts = []
        while want:
            with disk.reading():
                data = self._file.read(min(want, _CHUNK) if n < 0 else want)
            if not data:
                raise LayerCorruptError(f"the tar is cut short by {self._left} bytes", layer=self._layer)
            parts.append(data)
            want -= len(data)
            self._left -= len(data)
            if n >= 0:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fileno(self) -> int:
        """The file descriptor, for copies within the kernel."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; harmless when called twice."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
