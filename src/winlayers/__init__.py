"""winlayers: Docker's Windows graph driver, made to run anywhere.

The packages, lowest first; each may import only those before it:

- :mod:`winlayers.win32` and :mod:`winlayers.tar`: formats, pure functions on bytes and streams;
- :mod:`winlayers.layers`: the layer service contract and its two implementations;
- :mod:`winlayers.graphdriver`: the graph driver contract, the registry and the Windows driver;
- :mod:`winlayers.images`, :mod:`winlayers.containers`: what a user holds in hand;
- :mod:`winlayers.cli`: the command line.
"""

from winlayers._version import __version__
from winlayers.errors import WinlayersError

__all__ = ["WinlayersError", "__version__"]
