"""Which graph drivers there are, and how one is chosen.

A driver is an init function under a name.  The two Windows drivers are built in; others come from
:func:`register`, or from an installed package's entry point::

    [project.entry-points."winlayers.graphdrivers"]
    mydriver = "my_package.driver:init"

The choice without a name follows dockerd (source: moby ``daemon/graphdriver/driver.go``, ``New``): the
driver whose state lies under the root; if there is none, the first of the priority list that works here.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from winlayers.errors import DriverNotFoundError, GraphDriverError, UnsupportedError
from winlayers.graphdriver.contract import GraphDriver

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

InitFunction: TypeAlias = Callable[[str, Sequence[str]], GraphDriver]
"""Takes the home folder's path and the options (``key=value``).

Raises :class:`~winlayers.errors.UnsupportedError` where the driver can't work here (the next one is then
tried) and :class:`~winlayers.errors.DriverOptionError` for its options.
"""

ENTRY_POINTS = "winlayers.graphdrivers"
PRIORITY = ("windowsfilter", "windowsdiff")
"""Tried in this order where no name is given (dockerd's list on Windows has the first alone)."""

_BUILT_IN = {
    "windowsfilter": ("winlayers.graphdriver.windows.driver", "init_filter"),
    "windowsdiff": ("winlayers.graphdriver.windows.driver", "init_diff"),
}
_registered: dict[str, InitFunction] = {}
_lock = threading.Lock()
_log = logging.getLogger("winlayers.graphdriver")


def register(name: str, init: InitFunction) -> None:
    """Make a driver known under *name*.

    Raises:
        GraphDriverError: the name is taken, or can't be a folder's name.
    """
    if not name or name in (".", "..") or any(c in name for c in "/\\:,\0"):
        raise GraphDriverError(f"{name!r} can't be a graph driver's name")
    with _lock:
        if name in _BUILT_IN or name in _registered:
            raise GraphDriverError(f"a graph driver named {name} is registered already")
        _registered[name] = init


def unregister(name: str) -> None:
    """Forget what :func:`register` made known; built-in drivers stay.  An unknown name is fine."""
    with _lock:
        _registered.pop(name, None)


def is_registered(name: str) -> bool:
    """Whether there is a driver of that name."""
    return name in driver_names()


def driver_names() -> list[str]:
    """The names of all drivers, sorted."""
    with _lock:
        names = {*_BUILT_IN, *_registered}
    return sorted(names | {point.name for point in _entry_points()})


def get_driver(name: str, home: str, options: Sequence[str] = ()) -> GraphDriver:
    """The driver *name*, at work on the folder *home* itself.

    Raises:
        DriverNotFoundError: no driver is registered under that name; the message lists those that are.
        DriverOptionError: an option is unknown or malformed.
        UnsupportedError: the driver can't work here.
        GraphDriverError: the package that registers the driver can't be imported.
    """
    return _find(name)(os.path.abspath(home), options)


def open_driver(root: str, name: str = "", options: Sequence[str] = ()) -> GraphDriver:
    """The driver that *root* holds the state of, at work on ``<root>/<driver's name>``.

    Args:
        root: the folder with one folder for each driver.
        name: the driver to use; "" to choose as dockerd does.
        options: the driver's options.

    Raises:
        GraphDriverError: there is state of several drivers and no name was given, or none works here.
        DriverNotFoundError, DriverOptionError, UnsupportedError: as from :func:`get_driver`.
    """
    if name:
        return get_driver(name, os.path.join(root, name), options)
    prior = prior_drivers(root)
    if len(prior) > 1:
        raise GraphDriverError(
            f"{root} holds the state of several graph drivers: {', '.join(prior)}",
            hint="name the one to use, or remove what is not used",
        )
    if prior:
        # What fails here is raised: with another driver the layers would seem to have vanished.
        _log.info("using the prior graph driver %s", prior[0])
        return get_driver(prior[0], os.path.join(root, prior[0]), options)
    names = driver_names()
    for candidate in [*PRIORITY, *(n for n in names if n not in PRIORITY)]:
        try:
            return get_driver(candidate, os.path.join(root, candidate), options)
        except UnsupportedError as error:
            _log.debug("graph driver %s can't be used: %s", candidate, error)
    raise GraphDriverError(f"no graph driver works here (tried {', '.join(names)})")


def prior_drivers(root: str) -> list[str]:
    """The drivers whose folders under *root* are not empty, those of the priority list first.

    A folder that can't be listed counts as not empty (source: moby ``isEmptyDir``).  ``vfs`` never counts.
    """
    found = [
        name
        for name in driver_names()
        if name != "vfs"
        and os.path.exists(folder := os.path.join(root, name))
        and not _is_empty_directory(folder)
    ]
    return sorted(found, key=lambda name: (PRIORITY.index(name) if name in PRIORITY else len(PRIORITY), name))


def has_prior_driver(root: str) -> bool:
    """Whether any driver has left state under *root*."""
    return bool(prior_drivers(root))


def _is_empty_directory(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _find(name: str) -> InitFunction:
    with _lock:
        init = _registered.get(name)
    if init is not None:
        return init
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        built_in: InitFunction = getattr(importlib.import_module(module), attribute)
        return built_in
    for point in _entry_points():
        if point.name == name:
            try:
                loaded: InitFunction = point.load()
            except (ImportError, AttributeError) as error:
                raise GraphDriverError(
                    f"the graph driver {name} ({point.value}) can't be loaded: {error}"
                ) from error
            return loaded
    raise DriverNotFoundError(
        f"there is no graph driver named {name!r}", hint=f"registered are {', '.join(driver_names())}"
    )


def _entry_points() -> Sequence[EntryPoint]:
    # Imported here: it takes longer than all the rest of this package, and most programs name a built-in.
    from importlib.metadata import entry_points

    return tuple(entry_points(group=ENTRY_POINTS))
