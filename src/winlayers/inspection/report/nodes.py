"""A tree as nested rectangles: sizes by directory, with what is too small to see put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

_FINEST = 1 / 4000
"""The smallest part of the whole that is drawn by itself, which also bounds how much is."""


@dataclasses.dataclass(slots=True)
class Node:
    """A file or directory.

    Attributes:
        name: its name.
        sizes: bytes by colour (a layer, or a kind of change).
        files: how many files it is or holds.
        children: of a directory, by name.
    """

    name: str
    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    files: int = 0
    children: dict[str, Node] | None = None

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())


def grow(entries: Iterable[tuple[str, int, int]], root: str) -> Node:
    """The tree of *entries*: paths (``/``-separated) of files with their bytes and colours."""
    top = Node(root, children={})
    for path, size, colour in entries:
        node = top
        parts = path.split("/")
        for number, part in enumerate(parts):
            node.files += 1
            node.sizes[colour] = node.sizes.get(colour, 0) + size
            if node.children is None:
                node.children = {}
            below = node.children.get(part)
            if below is None:
                below = node.children[part] = Node(part, children={} if number < len(parts) - 1 else None)
            node = below
        node.files += 1
        node.sizes[colour] = node.sizes.get(colour, 0) + size
    return top


def pack(top: Node) -> list[object]:
    """The tree for the page's script: ``[name, files, [colour, bytes, ...], children or 0]``.

    Children come largest first; of each directory those that are too small to see become one without a name.
    The sums stay right: a directory's bytes are those of its children.
    """
    least = top.size * _FINEST
    return _pack(top, least)


def _pack(node: Node, least: float) -> list[object]:
    colours = [value for pair in sorted(node.sizes.items()) if pair[1] for value in pair]
    if node.children is None:
        return [node.name, node.files, colours, 0]
    ordered = sorted(node.children.values(), key=lambda child: (-child.size, child.name))
    shown = [child for child in ordered if child.size >= least]
    rest = ordered[len(shown) :]
    if len(rest) == 1:
        shown, rest = ordered, []
    packed = [_pack(child, least) for child in shown]
    if rest:
        packed.append(_pack(_together(rest), least))
    return [node.name, node.files, colours, packed]


def _together(nodes: Iterable[Node]) -> Node:
    whole = Node("")
    for node in nodes:
        whole.files += node.files
        for colour, size in node.sizes.items():
            whole.sizes[colour] = whole.sizes.get(colour, 0) + size
    return whole
