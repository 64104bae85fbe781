"""What a full or failing disk is called: one error, whichever call it was that met it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from winlayers.errors import StoreError, WinlayersError


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Say so, where the block fails because the disk is full or broken.  Also a decorator.

    Raises:
        StoreError: it is.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, WinlayersError):
            raise
        raise disk_error(error, "written") from error


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Like :func:`writing`, for blocks that only read."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, WinlayersError):
            raise
        raise disk_error(error, "read") from error


def disk_error(error: OSError | sqlite3.Error, done: str) -> StoreError:
    """The error for what could not be *done* (``read``, ``written``)."""
    if isinstance(error, OSError):
        name = error.filename if isinstance(error.filename, str) else None
        return StoreError(f"the store can't be {done}: {error.strerror or error}", path=name)
    return StoreError(f"the store can't be {done}: {error}")
