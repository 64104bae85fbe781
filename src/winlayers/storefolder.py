"""The folder of a store: its settings, and how it is made.

A store is made whole, with every folder and lock file that all stores have.  What fails in it later, be it
the first command, then leaves it as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from winlayers import durable
from winlayers.errors import StoreError, StoreReadOnlyError, WinlayersError

VERSION = 1
"""Of the store's format."""

_SETTINGS = "winlayers.json"
_FOLDERS = ("layers", "containers")
"""What every store has beside what the image store makes."""


def is_store(root: str | os.PathLike[str]) -> bool:
    """Whether there is a store in *root* (of whatever version)."""
    return os.path.isfile(os.path.join(root, _SETTINGS))


def prepare(root: Path, driver: str, driver_options: Sequence[str]) -> str:
    """Make or check the store's folder; return the graph driver's name.

    Raises:
        StoreError: there is something else in the folder, or a store of a newer version.
        GraphDriverError, UnsupportedError: a new store can't be made with that driver; nothing is left then.
    """
    settings_path = root / _SETTINGS
    try:
        settings = json.loads(settings_path.read_bytes())
    except FileNotFoundError:
        return _make(root, driver or "windowsfilter", driver_options)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"the store in {root} can't be read: {reason}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("version"), int):
        raise StoreError(f"{settings_path} is damaged")
    if settings["version"] > VERSION:
        raise StoreError(f"the store in {root} is of a newer version of winlayers")
    kept = settings.get("driver")
    name = kept if isinstance(kept, str) else "windowsfilter"
    if driver and driver != name:
        raise StoreError(f"the store in {root} was made with the graph driver {name}, not {driver}")
    return name


def _make(root: Path, driver: str, driver_options: Sequence[str]) -> str:
    """Make a store, with all that any store has: nothing that fails in it later leaves more than it found."""
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with durable.FileLock(os.fspath(root / "lock")):
            if not (root / _SETTINGS).exists():
                if not _is_empty(root):
                    (root / "lock").unlink()
                    raise StoreError(
                        f"{root} is neither empty nor a winlayers store", hint="choose another --root"
                    )
                durable.sweep(os.fspath(root))
                try:
                    _fill(root, driver, driver_options)
                except WinlayersError:
                    _unmake(root, made)
                    raise
    except (OSError, StoreReadOnlyError) as error:
        refused = error.__cause__ if isinstance(error, StoreReadOnlyError) else error
        reason = refused.strerror if isinstance(refused, OSError) else refused
        raise StoreError(f"can't make a store in {root}: {reason}", hint="choose another --root") from error
    return driver


def _fill(root: Path, driver: str, driver_options: Sequence[str]) -> None:
    """Make what a store has, its settings last."""
    from winlayers.graphdriver import get_driver

    for folder in _FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    get_driver(driver, os.fspath(root / "layers"), driver_options)  # makes what it needs itself
    durable.write_json(os.fspath(root / _SETTINGS), {"version": VERSION, "driver": driver})


def _is_empty(root: Path) -> bool:
    """Whether *root* holds nothing but what a creation that was killed leaves."""
    for name in os.listdir(root):
        if name in _FOLDERS:
            if any(below != ".lock" for below in os.listdir(root / name)):
                return False
        elif name != "lock" and not name.startswith(durable.TEMPORARY_PREFIX):
            return False
    return True


def _unmake(root: Path, made: bool) -> None:
    """Remove what a creation that failed has made; the caller holds the lock, which goes as well."""
    with contextlib.suppress(OSError):  # the failure itself is what matters; an empty folder can be filled
        (root / "layers" / ".lock").unlink(missing_ok=True)
        for folder in _FOLDERS:
            if (root / folder).is_dir():
                (root / folder).rmdir()
        (root / "lock").unlink()
        if made:
            root.rmdir()
