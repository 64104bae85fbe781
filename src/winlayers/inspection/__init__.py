"""Looking into images, layers and containers without mounting them and without importing them.

The commands ``ls``, ``cat``, ``cp``, ``stat``, ``find``, ``history``, ``inspect``, ``diff`` and ``report``
stand on this package.
"""

from __future__ import annotations
