"""Looking into images, layers and containers without mounting them and without importing them.

The commands ``ls``, ``cat``, ``cp``, ``stat``, ``find``, ``history``, ``inspect``, ``diff`` and ``report``
stand on this package.  ``docs/inspection.md`` has examples.

    >>> from winlayers.inspection import open_image
    >>> with open_image("oci:./layout:3.13") as tree:                             # doctest: +SKIP
    ...     for entry in tree.children(tree.find("/Windows")):
    ...         print(entry.type.value, entry.size, entry.name)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from winlayers.inspection.opening import open_image
from winlayers.inspection.tree import Entry, EntryType, Layer, Tree

if TYPE_CHECKING:
    from winlayers.inspection.diff import Difference, diff_trees
    from winlayers.inspection.report import diff_report, image_report
    from winlayers.inspection.usage import Usage, measure

__all__ = [
    "Difference",
    "Entry",
    "EntryType",
    "Layer",
    "Tree",
    "Usage",
    "diff_report",
    "diff_trees",
    "image_report",
    "measure",
    "open_image",
]

_HOMES = {
    "Difference": "diff",
    "diff_trees": "diff",
    "diff_report": "report",
    "image_report": "report",
    "Usage": "usage",
    "measure": "usage",
}


def __getattr__(name: str) -> object:
    """Import what lists and prints don't need when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
