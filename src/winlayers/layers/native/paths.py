r"""Windows paths: joined, made absolute and long, on any operating system.

Everything here is :mod:`ntpath`, so the functions mean the same wherever the tests run.
"""

from __future__ import annotations

import ntpath

from winlayers.errors import InvalidNameError
from winlayers.layers import transport
from winlayers.layers.native import ffi
from winlayers.layers.rooted import BCD_COPIES

FILES = "Files"
HIVES = "Hives"
UTILITY_VM = "UtilityVM"
UTILITY_VM_FILES = "UtilityVM\\Files"
HIVE_SOURCES = "Files\\Windows\\System32\\config"
HIVE_NAMES = ("DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM")
SYSTEM_DELTA = "Hives\\System_Delta"
TOMBSTONES = transport.TOMBSTONES
DIRECTORY_SUFFIX = transport.DIRECTORY_SUFFIX

MUTATED_FILES = {
    path.removeprefix("UtilityVM/Files/").replace("/", "\\"): kept for path, kept in BCD_COPIES.items()
}
"""Files under ``UtilityVM\\Files`` that Windows changes on import, and the names of their kept originals."""

MAX_PATH_UNITS = 32767


def long_path(path: str) -> str:
    r"""*path* made absolute, in the form ``\\?\`` that has no limit of 260 units and is not rewritten.

    Source: hcsshim ``longpath.LongAbs``; a path that has such a prefix (also ``\\.\``) stays as it is.
    """
    if path.startswith(("\\\\?\\", "\\\\.\\")):
        return path
    path = ntpath.abspath(path)
    if path.startswith("\\\\"):
        return "\\\\?\\UNC\\" + path[2:]
    return "\\\\?\\" + path


def clean_relative(path: str) -> str:
    r"""A path below a root, with ``\`` between its parts; "." for the root itself.

    Raises:
        InvalidNameError: it is absolute, leaves the root, or holds a colon (a stream out of place, a drive)
            or a null character.
    """
    ffi.wide(path)
    if ":" in path:
        raise InvalidNameError("a colon in a path: a stream must directly follow its file", path=path)
    text = path.replace("/", "\\")
    if text.startswith("\\"):
        raise InvalidNameError("an absolute path where a relative one must stand", path=path)
    parts = [part for part in text.split("\\") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidNameError("a path may not hold '..'", path=path)
    cleaned = "\\".join(parts) or "."
    if len(cleaned) > MAX_PATH_UNITS:
        raise InvalidNameError("a path of more than 32767 characters", path=f"{path[:60]}...")
    return cleaned


def entry_path(path: str, *, stream: bool = False) -> str:
    r"""The path of a layer's entry (``Files/a``), with ``\`` between its parts.

    Args:
        stream: let the last part name a stream (``a:stream``).

    Raises:
        InvalidNameError: it is empty or absolute, has an empty, ``.`` or ``..`` part, or a colon, backslash
            or null character.
    """
    parts = ffi.wide(path).split("/")
    last = parts[-1]
    plain = [*parts[:-1], *(last.split(":", 1) if stream else [last])]
    if any(part in ("", ".", "..") or ":" in part or "\\" in part for part in plain):
        raise InvalidNameError("not a path in a layer", path=path)
    return "\\".join(parts)


def is_below(path: str, directory: str) -> bool:
    """Whether *path* lies below *directory* (and is not it), letter by letter as hcsshim compares them."""
    return path.startswith(directory + "\\") and len(path) > len(directory) + 1
