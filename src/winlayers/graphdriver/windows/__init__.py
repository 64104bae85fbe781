"""Docker's Windows graph driver: ``windowsfilter`` and ``windowsdiff``.

It knows the layer service's contract and nothing of what is behind it, so the same driver works through HCS
on Windows and on the portable store anywhere.
"""

from winlayers.graphdriver.windows.driver import ServiceFactory, WindowsGraphDriver, init_diff, init_filter

__all__ = ["ServiceFactory", "WindowsGraphDriver", "init_diff", "init_filter"]
