"""The layer service: the contract and its implementations.

:mod:`~winlayers.layers.service` is the contract, :mod:`~winlayers.layers.portable` the store that works on
any operating system, :mod:`~winlayers.layers.native` the Windows host compute service.
"""

from winlayers.layers.service import (
    ChangeKind,
    DriverInfo,
    EntryKind,
    Flavour,
    LayerChange,
    LayerEntry,
    LayerReader,
    LayerService,
    LayerWriter,
    TarStream,
)

__all__ = [
    "ChangeKind",
    "DriverInfo",
    "EntryKind",
    "Flavour",
    "LayerChange",
    "LayerEntry",
    "LayerReader",
    "LayerService",
    "LayerWriter",
    "TarStream",
]
