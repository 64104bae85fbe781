"""A view's files as POSIX sees them, the same in all kinds of mounts: names, modes, times, links.

- *Names* are those of :func:`winlayers.win32.names.host_safe`.
- *Modes*: directories 0755, files 0644, without the write bits where the READONLY attribute is set (on a
  directory Windows itself does not take it for write protection).  Nothing is guessed from names, so no file
  is executable; owner and group are root's (in an extracted view: those of who made it).
- *Times*: a FILETIME of 0, "unset", is shown as 1970.
- *Links*: symbolic links and junctions that lead to a place on the drive are links that work inside the
  mount: relative, and spelled as the view spells the names, since a POSIX lookup minds letter case.  Those
  that lead elsewhere (another drive, a share, a volume) are kept as links whose target is the Windows path
  in one component, ``/`` written as ``\\``: it can be read, and leads nowhere.  Other reparse points are
  shown as the plain file or directory that they are.
"""

from __future__ import annotations

import stat

from winlayers.errors import ReparseError
from winlayers.layers.portable.view import View, ViewNode
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import UNSET, unix_from_filetime
from winlayers.win32.names import fold_key, host_original, host_safe
from winlayers.win32.reparse import RawReparse, drive_path, parse_reparse

MAX_TARGET = 1023
"""The longest target of a symbolic link that is shown as one, in bytes: what xfs holds (others take 4,095).

A mount must not depend on the file system that a changed link is copied to.
"""

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644
WRITE_BITS = 0o222
EXECUTE_BITS = 0o111

_READONLY = int(FileAttributes.READONLY)


def file_mode(attributes: int) -> int:
    """The mode, with its type, of a regular file that has these attribute bits."""
    permissions = FILE_MODE & ~WRITE_BITS if attributes & _READONLY else FILE_MODE
    return stat.S_IFREG | permissions


def posix_time(filetime: int) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds, as shown for *filetime*."""
    return (0, 0) if filetime == UNSET else unix_from_filetime(filetime)


def posix_nanoseconds(filetime: int) -> int:
    """`posix_time` in nanoseconds."""
    seconds, nanoseconds = posix_time(filetime)
    return seconds * 1_000_000_000 + nanoseconds


def link_text(view: View, node: ViewNode, reparse: bytes | None, path: str | None = None) -> str | None:
    """The target of the symbolic link that *node* is shown as; None: it is shown as what it is.

    Args:
        node: a node below the drive.
        reparse: its reparse buffer.
        path: where on the drive it is shown, if that is not where the view has it.
    """
    if reparse is None:
        return None
    try:
        point = parse_reparse(reparse)
    except ReparseError:
        return None
    if isinstance(point, RawReparse):
        return None
    if path is None:
        path = path_on_drive(view, node)
    leads_to = drive_path(point, path)
    if leads_to is None:
        text = host_safe((point.target or point.substitute_name or "?").replace("/", "\\")[:MAX_TARGET])
    else:
        text = _relative(path, _as_spelled(view, leads_to))
    return text if 0 < len(text.encode("utf-8")) <= MAX_TARGET else None


def path_on_drive(view: View, node: ViewNode) -> str:
    """The node's path below ``Files``."""
    return view.path_of(node).partition("/")[2]


def _as_spelled(view: View, path: str) -> str:
    """*path*, spelled as the view spells it, as far as it exists."""
    parts = path.split("/") if path else []
    node = view.drive
    for number, part in enumerate(parts):
        node = view.lookup(node.id, part) if node is not None else None
        if node is None:
            break
        parts[number] = node.name
    return "/".join(parts)


def _relative(link_path: str, target: str) -> str:
    wanted = target.split("/") if target else []
    base = link_path.split("/")[:-1]
    common = 0
    for ours, theirs in zip(base, wanted, strict=False):
        if fold_key(ours) != fold_key(theirs):
            break
        common += 1
    parts = [".."] * (len(base) - common) + [host_safe(part) for part in wanted[common:]]
    return "/".join(parts) or "."


def find_host_name(view: View, parent: int, host_name: str) -> ViewNode | None:
    """The node of the directory node *parent* that is shown under exactly *host_name*."""
    name = host_original(host_name)
    if name is None:  # cut: only comparing tells
        return next((node for node in view.children(parent) if host_safe(node.name) == host_name), None)
    node = view.lookup(parent, name) if name else None
    return node if node is not None and host_safe(node.name) == host_name else None


def find_host_path(view: View, start: int, host_path: str) -> ViewNode | None:
    """The node that is shown at the ``/``-separated *host_path* below the node *start*."""
    node = view.node(start)
    for part in host_path.split("/"):
        if part and node is not None:
            node = find_host_name(view, node.id, part)
    return node
