"""Temporary folders for layers in the transport format, named and removed as hcsshim does."""

from __future__ import annotations

import ntpath
import os
import secrets
import tempfile

from winlayers.errors import HcsError, StoreError
from winlayers.layers.native import paths
from winlayers.layers.native.privileges import SE_BACKUP, SE_RESTORE, privileges
from winlayers.layers.native.safefile import Root

_ATTEMPTS = 1000


def make_folder(prefix: str = "hcs") -> str:
    """Make an empty folder in the user's temporary folder; return its path."""
    parent = tempfile.gettempdir()
    for _ in range(_ATTEMPTS):
        path = os.path.join(parent, f"{prefix}{secrets.randbelow(2**32)}")
        try:
            os.mkdir(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise StoreError(f"no temporary folder can be made: {error.strerror}", path=parent) from error
        return path
    raise StoreError("no free name for a temporary folder", path=parent)


def remove_folder(path: str) -> None:
    """Remove the folder and all that is in it, never following a link; nothing there is fine.

    Raises:
        HcsError: something in it can't be removed.
    """
    parent, name = ntpath.split(paths.long_path(path))
    with privileges(SE_BACKUP, SE_RESTORE), Root.open(parent) as root:
        root.remove_all(name)


def try_remove_folder(path: str) -> HcsError | None:
    """`remove_folder`, where an error is of less weight than what happened before: it is returned."""
    try:
        remove_folder(path)
    except HcsError as error:
        return error
    return None
