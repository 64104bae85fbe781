"""winlayers: Docker's Windows graph driver, made to run anywhere.

The packages, lowest first; each may import only those before it:

- :mod:`winlayers.win32` and :mod:`winlayers.tar`: formats, pure functions on bytes and streams;
- :mod:`winlayers.layers`: the layer service contract and its two implementations;
- :mod:`winlayers.graphdriver`: the graph driver contract, the registry and the Windows driver;
- :mod:`winlayers.images`, :mod:`winlayers.containers`: what a user holds in hand;
- :mod:`winlayers.inspection`: looking in without mounting and without importing;
- :mod:`winlayers.cli`: the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from winlayers._version import __version__
from winlayers.errors import WinlayersError

if TYPE_CHECKING:
    from winlayers.store import Store, open_store

__all__ = ["Store", "WinlayersError", "__version__", "open_store"]


def __getattr__(name: str) -> object:
    """Import the store's facade when it is first asked for: formats alone should not cost that."""
    if name in ("Store", "open_store"):
        from winlayers import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
