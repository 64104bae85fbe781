"""Where a process keeps what it makes of layers in a store that it can only read: indexes and views."""

from __future__ import annotations

import os
import tempfile
import threading

from winlayers.errors import StoreError


class Aside:
    """A folder of this process's own, which goes with it or when nobody needs it any more.

    Attributes:
        lock: held while something is made there.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._root: tempfile.TemporaryDirectory[str] | None = None

    def path(self, layer_id: str, identity: tuple[int, int], name: str) -> str:
        """Where the file *name* made of the layer is, or would be; the folder of it is there.

        Args:
            identity: tells the layer from another that comes under its id later.

        Raises:
            StoreError: there is no room for temporary files.
        """
        try:
            with self.lock:
                if self._root is None:
                    self._root = tempfile.TemporaryDirectory(prefix="winlayers-")
                folder = os.path.join(self._root.name, f"{layer_id}-{'-'.join(map(str, identity))}")
                os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the store can only be read, and there is no place for temporary files: {error.strerror}",
                hint="set TMPDIR",
            ) from error
        return os.path.join(folder, name)
