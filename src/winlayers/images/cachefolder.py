"""The folder of what was learnt by looking into images: derived, so all of it may go while nobody uses it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from winlayers import durable
from winlayers.durable.locks import hold
from winlayers.errors import StoreError
from winlayers.images.usage import Usage, folder_size

CACHE = "cache"
"""Its name in a store."""


class CacheFolder:
    """What is kept of blobs that were looked into (``blobs``), by digest, and of chains (``views``).

    Whoever looks in holds the folder, shared, from before the first file is asked for until all are closed.
    On Windows, where folders can't be locked, what is open can't be removed instead.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The folder *path*, which need not exist."""
        self.path = Path(path)
        self.blobs = self.path / "blobs"
        self.views = self.path / "views"
        self.locks = self.path / "locks"

    def make(self) -> None:
        """Make what is missing of it.

        Raises:
            StoreError: it can't be made.
        """
        try:
            for path in (self.blobs, self.views, self.locks):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"can't make the cache in {self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep others from clearing the folder, which exists; waits while it is being cleared."""
        held = hold(os.fspath(self.path))
        try:
            yield
        finally:
            if held is not None:
                held.close()

    def usage(self) -> Usage:
        """A row for ``df``: blobs that something is known of; they are active while somebody looks in."""
        size = self.size()
        try:
            total = sum(not name.startswith(durable.TEMPORARY_PREFIX) for name in os.listdir(self.blobs))
        except FileNotFoundError:
            return Usage("cache", 0, 0, size, size)
        held = hold(os.fspath(self.path), alone=True)
        if held is None:
            return Usage("cache", total, total, size, 0)
        held.close()
        return Usage("cache", total, 0, size, size)

    def size(self) -> int:
        """Bytes on disk."""
        return folder_size(os.fspath(self.path))

    def clear(self) -> int:
        """Remove all of it, with what killed processes left, unless somebody uses it.

        Returns:
            The bytes on disk that became free.

        Raises:
            StoreError: something there can't be removed.
        """
        if not self.path.is_dir():
            return 0
        held = hold(os.fspath(self.path), alone=True)
        if held is None:
            return 0
        before = self.size()
        try:
            for folder in (self.views, self.blobs):  # a view without its blobs would be of no use
                self._empty(folder)
        except OSError as error:
            raise StoreError(f"can't clear the cache: {error.strerror}", path=os.fspath(self.path)) from error
        finally:
            held.close()
        return max(0, before - self.size())

    @staticmethod
    def _empty(folder: Path) -> None:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return
        for name in names:
            # Under a hidden name first: what is only half removed when the process ends must not be found.
            path, hidden = os.fspath(folder / name), durable.temporary_name(os.fspath(folder))
            try:
                os.rename(path, hidden)
                durable.remove_any(hidden)
            except PermissionError:
                if os.name != "nt":
                    raise
                # Open in another process, on Windows.
