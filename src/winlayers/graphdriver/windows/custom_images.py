"""The host's shared base images, as the layer service lists them."""

from __future__ import annotations

import datetime
import hashlib
import json
import re

from winlayers.errors import LayerError
from winlayers.graphdriver.contract import CustomImageInfo
from winlayers.graphdriver.windows.chain import last_part

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)")


def layer_id_of(folder_name: str) -> str:
    """A shared base image's layer id: the first 32 bytes of its folder name's SHA-384, in hexadecimal."""
    return hashlib.sha384(folder_name.encode("utf-8", "surrogatepass")).hexdigest()[:64]


def parse_shared_images(text: str) -> list[CustomImageInfo]:
    """Read the service's ``{"Images": [{"Name", "Version", "Path", "Size", "CreatedTime"}]}``.

    Keys are read without regard to case and unknown ones passed over, as Go's ``encoding/json`` does.

    Raises:
        LayerError: it is not that.
    """
    try:
        images = _fields(json.loads(text)).get("images")
    except (ValueError, RecursionError) as error:
        raise LayerError(f"the list of shared base images is not JSON: {error}") from error
    if images is None:
        return []
    if not isinstance(images, list):
        raise LayerError("the list of shared base images is malformed: Images is not a list")
    return [_image(_fields(image)) for image in images]


def _fields(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise LayerError(f"the list of shared base images is malformed: {value!r:.80} is not an object")
    return {key.lower(): item for key, item in value.items()}


def _image(fields: dict[str, object]) -> CustomImageInfo:
    path, size = _text(fields, "path"), fields.get("size") or 0
    folder_name = last_part(path)
    if folder_name in ("", ".", ".."):
        raise LayerError(f"the list of shared base images is malformed: {path!r} is not a layer's folder")
    if not isinstance(size, int) or isinstance(size, bool):
        raise LayerError(f"the list of shared base images is malformed: a size is {size!r:.80}")
    return CustomImageInfo(
        id=layer_id_of(folder_name),
        name=_text(fields, "name"),
        version=_text(fields, "version"),
        path=path,
        size=size,
        created_time=_time(_text(fields, "createdtime")),
    )


def _text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key) or ""
    if not isinstance(value, str):
        raise LayerError(f"the list of shared base images is malformed: {key} is {value!r:.80}")
    return value


def _time(text: str) -> datetime.datetime | None:
    """RFC 3339, whose nanoseconds are cut to what Python holds; None for no time."""
    if not text:
        return None
    found = _TIME.fullmatch(text)
    if found is not None:
        zone = "+00:00" if found[3] in "Zz" else found[3]
        try:
            return datetime.datetime.fromisoformat(f"{found[1]}.{(found[2] or '')[:6]:0<6}{zone}")
        except ValueError:
            pass
    raise LayerError(f"the list of shared base images is malformed: {text!r:.80} is not a time")
