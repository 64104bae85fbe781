"""Leases: what an operation under way needs, so that nothing it counts on is collected meanwhile.

A lease is two files in the folder ``leases``: a lock that lives as long as its process, and a list of blob
digests and layer ids.  The rule that makes it safe: a name is added under the store's shared lock, *before*
looking whether the thing is there; collection holds the lock exclusively from reading the leases to the last
removal.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from winlayers.durable import FileLock
from winlayers.errors import StoreError, StoreReadOnlyError


class Lease:
    """Holds blobs and layers for one operation; a context manager."""

    def __init__(
        self, folder: Path, store_lock: Callable[[], FileLock], on_failure: Callable[[set[str]], None]
    ) -> None:
        """Prepare a lease.

        Args:
            folder: where leases lie.
            store_lock: gives the store's shared lock.
            on_failure: gets what was leased when the operation failed, after the lease has ended.
        """
        stem = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._names = folder / f"{stem}.refs"
        self._lock = FileLock(os.fspath(folder / f"{stem}.lock"))
        self._store_lock = store_lock
        self._on_failure = on_failure
        self._held: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Hold *names*: digests of blobs, and layer ids.

        Raises:
            StoreError: they can't be noted.
        """
        fresh = [name for name in names if name not in self._held]
        if not fresh:
            return
        with self._store_lock():
            try:
                with open(self._names, "a", encoding="ascii") as file:
                    file.write("".join(f"{name}\n" for name in fresh))
            except OSError as error:
                raise StoreError(
                    f"the store can't be written: {error.strerror}", path=os.fspath(self._names)
                ) from error
        self._held.update(fresh)

    def __enter__(self) -> Self:
        self._names.parent.mkdir(parents=True, exist_ok=True)
        # Under the store's lock: between making the lock file and taking it, collection would sweep it.
        with self._store_lock():
            self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._names.unlink()
        with contextlib.suppress(FileNotFoundError, PermissionError):  # Windows: not while it is open
            os.unlink(self._lock.path)
        self._lock.release()
        if kind is not None and self._held:
            self._on_failure(self._held)


def leased(folder: Path, *, tidy: bool = True) -> set[str]:
    """All that live leases hold; the caller holds the store's lock.

    Args:
        tidy: remove those of dead processes.  The lock is held exclusively then, so that none is just being
            made: one that looks dead until it is locked.
    """
    held: set[str] = set()
    for lock_path in sorted(folder.glob("*.lock")) if folder.is_dir() else []:
        names = lock_path.with_suffix(".refs")
        lock = FileLock(os.fspath(lock_path), shared=not tidy, timeout=0)
        try:
            acquired = lock.acquire()
        except StoreReadOnlyError:
            continue  # in a store that can only be read: it has gone just now
        if acquired:
            lock.release()
            for stale in (names, lock_path) if tidy else ():
                stale.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError):
            held.update(names.read_text("ascii").split())
    return held
