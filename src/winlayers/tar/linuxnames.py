"""The names in a layer that is being made: a tree, so that deep paths take no more room than their parts."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence

from winlayers.win32.names import fold_key

MAX_PATH_UNITS = 32_767
"""The longest path of Windows, in UTF-16 units."""

_MAX_LINK_HOPS = 40
_DRIVE = re.compile(r"[A-Za-z]:(?:[\\/]|$)")


class Kind(enum.Enum):
    """What a name stands for."""

    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


class Name:
    """A name in a directory; the root has none and is in no directory.

    Attributes:
        parent: the directory that it is in.
        name: the name.
        kind: what it stands for.
        target: of a symbolic link, where it leads to.
        security: of a directory, the descriptor that is known of it.
    """

    __slots__ = ("_children", "_spelt", "kind", "name", "parent", "security", "target")

    def __init__(self, parent: Name | None, name: str, kind: Kind, spelt: str | None = None) -> None:
        self.parent = parent
        self.name = name
        self.kind = kind
        self.target: str | None = None
        self.security: bytes | None = None
        self._children: dict[bytes, Name] | None = None
        self._spelt = spelt

    @property
    def path(self) -> str:
        """The path in the very letters under which it was added, ``/``-separated."""
        parts: list[str] = []
        node = self
        while node.parent is not None:
            if node._spelt is not None:
                parts.append(node._spelt)
                break
            parts.append(node.name)
            node = node.parent
        return "/".join(reversed(parts))

    def child(self, name: str) -> Name | None:
        """What NTFS finds here under *name*."""
        return None if self._children is None else self._children.get(fold_key(name))

    def add(self, parts: Sequence[str], kind: Kind, *, alike: bool) -> Name:
        """Add the last of *parts* to this directory.

        Args:
            parts: the path as the source spells it.
            kind: what it stands for.
            alike: whether this directory's own path is spelt so.
        """
        if self._children is None:
            self._children = {}
        made = Name(self, parts[-1], kind, None if alike else "/".join(parts))
        self._children[fold_key(parts[-1])] = made
        return made

    def is_spelt(self, parts: Sequence[str], *, alike: bool) -> bool:
        """Whether *parts* is its path to the letter; *alike*: whether that of its directory is."""
        if self._spelt is not None:
            return self._spelt == "/".join(parts)
        return alike and self.name == parts[-1]

    def find(self, parts: Sequence[str]) -> Name | None:
        """What is at *parts* below this."""
        node: Name | None = self
        for part in parts:
            if node is None:
                break
            node = node.child(part)
        return node


def split_target(target: str) -> tuple[str, list[str]]:
    """A link's target as a drive ("": it is relative) and the steps from there."""
    drive = "C:" if target.startswith("/") else ""
    if _DRIVE.match(target):
        drive, target = target[:2], target[2:].replace("\\", "/")
    return drive, [part for part in target.split("/") if part not in ("", ".")]


class _Place:
    """A path that is being followed: its parts, and what is at each."""

    def __init__(self, root: Name) -> None:
        self.parts: list[str] = []
        self._nodes: list[Name | None] = [root]

    @property
    def node(self) -> Name | None:
        return self._nodes[-1]

    def go(self, step: str) -> None:
        if step != "..":
            directory = self._nodes[-1]
            self._nodes.append(None if directory is None else directory.child(step))
            self.parts.append(step)
        elif self.parts:
            self._nodes.pop()
            self.parts.pop()


def leads_to_directory(
    root: Name, path: str, target: str, below: Callable[[str], bool | None] | None
) -> bool:
    """Whether a symbolic link leads to a directory; where nothing tells, a slash at its end does.

    Args:
        root: the names in the layer.
        path: the link's.
        target: where it leads to, as POSIX writes it.
        below: what the layers below have at a path: True: a directory, False: something else, None: nothing.
    """
    place = _Place(root)
    for step in path.split("/")[:-1]:
        place.go(step)
    steps: list[str] = []
    link: str | None = target
    hops = taken = 0
    while link is not None or steps:
        if link is None:
            place.go(steps.pop())
            link = None if place.node is None else place.node.target
            if link is not None:
                place.go("..")
            continue
        drive, parts = split_target(link)
        hops, taken = hops + 1, taken + len(parts)
        if hops > _MAX_LINK_HOPS or taken > MAX_PATH_UNITS or drive not in ("", "C:", "c:"):
            return False
        if drive:
            place = _Place(root)
        steps += reversed(parts)
        link = None
    if place.node is not None:
        return place.node.kind is Kind.DIRECTORY
    known = below("/".join(place.parts)) if below is not None else None
    return target.endswith("/") if known is None else known
