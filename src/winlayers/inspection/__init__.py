"""Looking into images, layers and containers without mounting them and without importing them.

The commands ``ls``, ``cat``, ``cp``, ``stat``, ``find``, ``history``, ``inspect``, ``diff`` and ``report``
stand on this package.

    >>> from winlayers.inspection import open_image
    >>> with open_image("oci:./layout:3.13") as tree:                             # doctest: +SKIP
    ...     for entry in tree.children(tree.find("/Windows")):
    ...         print(entry.type.value, entry.size, entry.name)
"""

from __future__ import annotations

from winlayers.inspection.opening import open_image
from winlayers.inspection.tree import Entry, EntryType, Layer, Tree

__all__ = ["Entry", "EntryType", "Layer", "Tree", "open_image"]
