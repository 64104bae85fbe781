"""What the driver itself keeps in a layer's folder: the parent chain and the alternate id.

``layerchain.json`` is a JSON list of the parents' folders, nearest first.  ``layerID`` is the name that the
layer service knows the layer by, where it is another one (the host's shared base images).  Both are as
dockerd writes them (source: moby ``daemon/graphdriver/windows/windows.go``), who reads ``layerID`` but
writes ``layerId``, which only a case-insensitive file system forgives: here one is written, both are read.
"""

from __future__ import annotations

import json
import logging
import os
import re

from winlayers.durable import write_bytes
from winlayers.errors import InvalidNameError, LayerCorruptError, LayerNotFoundError, StoreError
from winlayers.layers.service import REMOVING

CHAIN_FILE = "layerchain.json"
ID_FILE = "layerID"
_ID_FILES = (ID_FILE, "layerId")

BCD_FOLDER = "sysfile-backups"
"""The folder in the home where early versions of dockerd saved the boot files of a layer."""

_log = logging.getLogger("winlayers.graphdriver")
_MAX_CHAIN_BYTES = 1 << 22
_MAX_ID_BYTES = 1 << 12


def check_id(layer_id: str) -> str:
    """*layer_id* itself, if it is one path part.

    Raises:
        InvalidNameError: it is not.
    """
    if layer_id in ("", ".", "..") or any(c in "/\\" or c < " " for c in layer_id):
        raise InvalidNameError(f"{layer_id!r} is not a layer's id")
    return layer_id


def check_new_id(layer_id: str) -> str:
    """*layer_id* itself, if a new layer may have it.

    Raises:
        InvalidNameError: it is not an id, or means something else in a home.
    """
    check_id(layer_id)
    if layer_id.endswith(REMOVING) or layer_id == BCD_FOLDER or layer_id.startswith("."):
        raise InvalidNameError(f"{layer_id!r} has a meaning of its own and can't be a new layer's id")
    return layer_id


def read_chain(folder: str) -> list[str]:
    """The parent chain kept in the layer's folder; empty where none is.

    Where a parent's folder is gone but one of that name lies beside *folder*, the home was moved: that one
    is meant.

    Raises:
        LayerCorruptError: the file is not a list of paths.
        StoreError: it can't be read.
    """
    home = os.path.dirname(folder)
    return [_found_in(home, path) for path in _stored_chain(folder) or ()]


def _stored_chain(folder: str) -> list[str] | None:
    content = _read(os.path.join(folder, CHAIN_FILE), _MAX_CHAIN_BYTES)
    if content is None:
        return None
    try:
        chain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LayerCorruptError(
            f"{CHAIN_FILE} is not JSON: {error}", layer=os.path.basename(folder)
        ) from error
    if chain is None:
        return None
    if not isinstance(chain, list) or not all(
        isinstance(path, str) and path and "\0" not in path for path in chain
    ):
        raise LayerCorruptError(f"{CHAIN_FILE} is not a list of paths", layer=os.path.basename(folder))
    return chain


def _found_in(home: str, path: str) -> str:
    beside = os.path.join(home, last_part(path))
    return beside if beside != path and not os.path.isdir(path) and os.path.isdir(beside) else path


def last_part(path: str) -> str:
    """The last part of a path, of whichever system it is."""
    return path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]


def write_chain(folder: str, chain: list[str]) -> None:
    """Keep *chain* in the layer's folder, wholly and durably.

    Raises:
        LayerNotFoundError: the folder is gone.
        StoreError: it can't be written.
    """
    if not chain or _stored_chain(folder) != chain:  # the layer service may have kept it already
        _write(os.path.join(folder, CHAIN_FILE), _chain_json(chain))


def _chain_json(chain: list[str]) -> bytes:
    """*chain* as Go's ``encoding/json`` writes it, so that the file is dockerd's byte for byte."""
    if not chain:
        return b"null"
    text = json.dumps(chain, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate, which Go could not keep, is escaped.
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8")


def read_alternate_id(folder: str) -> str | None:
    """The name that the layer service knows the layer by; None where it is the id itself.

    Raises:
        LayerCorruptError: what is kept there is not a name.
        StoreError: it can't be read.
    """
    for name in _ID_FILES:
        content = _read(os.path.join(folder, name), _MAX_ID_BYTES)
        if content is not None:
            try:
                return check_id(content.decode("utf-8", "surrogatepass"))
            except (InvalidNameError, UnicodeDecodeError) as error:
                raise LayerCorruptError(
                    f"{name} does not hold a name", layer=os.path.basename(folder)
                ) from error
    return None


def write_alternate_id(folder: str, alternate_id: str) -> None:
    """Keep the name that the layer service knows the layer by.

    Raises:
        LayerNotFoundError: the folder is gone.
        StoreError: it can't be written.
    """
    _write(os.path.join(folder, ID_FILE), check_id(alternate_id).encode("utf-8", "surrogatepass"))


def children(home: str, layer_id: str) -> list[str]:
    """The ids of the layers in *home* whose chains name *layer_id*, except those that are being removed.

    A layer whose chain can't be read is logged and has no parents.
    """
    try:
        names = sorted(os.listdir(home))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if name == layer_id or name.endswith(REMOVING) or name.startswith("."):
            continue
        try:
            chain = read_chain(os.path.join(home, name))
        except LayerCorruptError as error:
            _log.warning("can't tell what layer %s stands on: %s", name, error)
            continue
        if any(last_part(path) == layer_id and _is_in(home, path) for path in chain):
            found.append(name)
    return found


def _is_in(home: str, path: str) -> bool:
    folder = os.path.dirname(path)
    try:
        return folder == home or os.path.samefile(folder, home)
    except OSError:
        return False


def _read(path: str, limit: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"can't read: {error.strerror}", path=path) from error
    if len(content) > limit:
        raise LayerCorruptError(f"a file of more than {limit} bytes where a small one should be", path=path)
    return content


def _write(path: str, content: bytes) -> None:
    try:
        # Not the reference's 0600, which means nothing on Windows: who may read a layer may read this.
        write_bytes(path, content, 0o644)
    except FileNotFoundError as error:
        layer_id = os.path.basename(os.path.dirname(path))
        raise LayerNotFoundError("another process has removed the layer", layer=layer_id) from error
    except OSError as error:
        raise StoreError(f"can't write: {error.strerror}", path=path) from error
