"""Temporary folders for layers in the transport format, named and removed as hcsshim does."""

from __future__ import annotations

import logging
import ntpath
import os
import secrets
import tempfile

from winlayers.errors import HcsError, StoreError
from winlayers.layers.native import paths
from winlayers.layers.native.privileges import SE_BACKUP, SE_RESTORE, privileges
from winlayers.layers.native.safefile import Root

_log = logging.getLogger("winlayers.layers")

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

    What can't be removed (a virus scanner may have it open) is left and logged: by then the layer was written
    or read, or could not be, and neither is changed by that (source: hcsshim ignores it, too).
    """
    parent, name = ntpath.split(paths.long_path(path))
    try:
        with privileges(SE_BACKUP, SE_RESTORE), Root.open(parent) as root:
            root.remove_all(name)
    except HcsError as error:
        _log.warning("the temporary folder %s is left: %s", path, error)
