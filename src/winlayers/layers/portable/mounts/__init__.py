"""Views as file systems.

:mod:`~winlayers.layers.portable.mounts.contract` says what a mount kind must do; there is a module for each
kind, and :mod:`~winlayers.layers.portable.mounts.select` probes and picks.
"""
