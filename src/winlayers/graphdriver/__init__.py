"""The graph driver: the contract, the registry and the Windows driver.

:mod:`~winlayers.graphdriver.contract` is what images and containers are built on,
:mod:`~winlayers.graphdriver.registry` finds a driver by name or by what it left on disk, and
:mod:`winlayers.graphdriver.windows` is Docker's Windows graph driver in both flavours.
"""

from winlayers.graphdriver.contract import (
    Change,
    CreateOptions,
    CustomImageInfo,
    DiffGetter,
    FileGetCloser,
    GraphDriver,
)
from winlayers.graphdriver.registry import (
    InitFunction,
    driver_names,
    get_driver,
    has_prior_driver,
    is_registered,
    open_driver,
    prior_drivers,
    register,
    unregister,
)

__all__ = [
    "Change",
    "CreateOptions",
    "CustomImageInfo",
    "DiffGetter",
    "FileGetCloser",
    "GraphDriver",
    "InitFunction",
    "driver_names",
    "get_driver",
    "has_prior_driver",
    "is_registered",
    "open_driver",
    "prior_drivers",
    "register",
    "unregister",
]
