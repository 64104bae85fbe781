"""Removal that a crash can't leave half done.

The layer's folder is renamed to ``<id>-removing`` first: from then on the id is free and the layer is gone
for everyone.  What the service can't destroy yet (a locked file) stays under that name until
:func:`sweep_removed` (source: moby ``Driver.Remove`` and ``Driver.Cleanup``).
"""

from __future__ import annotations

import errno
import logging
import os

from winlayers.durable import fsync_dir
from winlayers.errors import StoreError, WinlayersError
from winlayers.layers.service import REMOVING, LayerService

_log = logging.getLogger("winlayers.graphdriver")
_MAX_LEFTOVERS = 1000


def remove_layer(service: LayerService, layer_id: str) -> None:
    """Remove the layer of that folder name; one that is not there is fine.

    Raises:
        StoreError: its folder can't be renamed.
        LayerInUseError: it is in use.
    """
    service.prepare_removal(layer_id)
    hidden_id = _hidden_id(service, layer_id)
    try:
        _rename(service, layer_id, hidden_id)
    except FileNotFoundError:
        pass
    except OSError as error:
        service.cancel_removal(layer_id)
        raise StoreError(f"the layer can't be removed: {error.strerror}", layer=layer_id) from error
    except WinlayersError:
        service.cancel_removal(layer_id)
        raise
    try:
        service.destroy(hidden_id)
    except (WinlayersError, OSError) as error:
        _log.error("layer %s is removed, but not yet destroyed: %s", layer_id, error)


def sweep_removed(service: LayerService) -> list[str]:
    """Destroy what interrupted removals left in the home; return the names that are gone.

    A missing home is fine; what is locked is logged and left.
    """
    try:
        with os.scandir(service.info.home) as entries:
            names = sorted(
                e.name
                for e in entries
                if e.name.endswith(REMOVING) and e.name[0] != "." and e.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []
    swept = []
    for name in names:
        try:
            service.destroy(name)
        except (WinlayersError, OSError) as error:
            _log.warning("failed to clean up %s: %s", name, error)
        else:
            _log.info("cleaned up %s", name)
            swept.append(name)
    return swept


def _hidden_id(service: LayerService, layer_id: str) -> str:
    """A name to rename to: one that no earlier removal of a layer of this id still occupies."""
    hidden_id = layer_id + REMOVING
    for number in range(1, _MAX_LEFTOVERS):
        if not os.path.lexists(service.layer_path(hidden_id)):
            return hidden_id
        try:
            service.destroy(hidden_id)
        except (WinlayersError, OSError) as error:
            _log.warning("failed to clean up %s: %s", hidden_id, error)
        else:
            return hidden_id
        hidden_id = f"{layer_id}-{number}{REMOVING}"
    raise StoreError("too many earlier removals of this layer are unfinished", layer=layer_id)


def _rename(service: LayerService, layer_id: str, hidden_id: str) -> None:
    path = service.layer_path(layer_id)
    try:
        service.set_aside(layer_id, hidden_id)
    except PermissionError:
        # A scratch disk may still be attached, after a crash for one: let go of it and try once more.
        _log.warning("the rename of %s was denied; trying again after a release", path)
        service.release(path)
        service.set_aside(layer_id, hidden_id)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        service.release(path)
        service.set_aside(layer_id, hidden_id)
    fsync_dir(os.path.dirname(path))
