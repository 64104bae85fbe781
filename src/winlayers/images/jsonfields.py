"""JSON from outside, read with types checked and errors that say where.

Nothing is taken on trust: documents are small (:data:`MAX_DOCUMENT`), objects are objects, and whatever is
wrong ends in an :class:`~winlayers.errors.ImageError` of one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

from winlayers.errors import ImageError

MAX_DOCUMENT = 4 << 20
"""Bytes; what registries and containerd take for a manifest at most.  Configurations get the same bound."""

JsonObject: TypeAlias = Mapping[str, object]


def parse_object(data: bytes, what: str) -> dict[str, object]:
    """The JSON object in *data*; *what* names it in errors.

    Raises:
        ImageError: it is too large, not UTF-8, not JSON, nested too deeply, or not an object.
    """
    value = _parse(data, what)
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object")
    return value


def parse_list(data: bytes, what: str) -> list[object]:
    """The JSON list in *data*; as :func:`parse_object`."""
    value = _parse(data, what)
    if not isinstance(value, list):
        raise ImageError(f"{what} is not a JSON list")
    return value


def _parse(data: bytes, what: str) -> object:
    if len(data) > MAX_DOCUMENT:
        raise ImageError(f"{what} is larger than {MAX_DOCUMENT} bytes")
    try:
        value: object = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {_one_line(error)}") from error
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


class Fields:
    """The fields of one JSON object."""

    def __init__(self, value: object, what: str) -> None:
        """Look at *value*, which errors call *what*.

        Raises:
            ImageError: it is not an object.
        """
        if not isinstance(value, dict):
            raise ImageError(f"{what} is not a JSON object")
        self.value: dict[str, object] = value
        self.what = what

    def string(self, key: str, default: str | None = None) -> str:
        """The text at *key*; missing or null gives *default*, or an error where that is None."""
        value = self.value.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def integer(self, key: str) -> int:
        """The non-negative 63-bit integer at *key*."""
        value = self.value.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self.wrong(key, "a size")
        return value

    def objects(self, key: str, *, required: bool = False) -> list[Fields]:
        """The objects in the list at *key*; missing or null gives none."""
        value = self.value.get(key)
        if value is None and not required:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return [Fields(item, f"{self.what}: {key}[{index}]") for index, item in enumerate(value)]

    def child(self, key: str) -> Fields:
        """The object at *key*; missing or null gives an empty one."""
        value = self.value.get(key)
        return Fields({} if value is None else value, f"{self.what}: {key}")

    def strings(self, key: str) -> tuple[str, ...]:
        """The texts in the list at *key*; missing or null gives none."""
        value = self.value.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of texts")
        return tuple(value)

    def text_map(self, key: str) -> dict[str, str]:
        """The text-to-text object at *key*; missing or null gives an empty one."""
        value = self.value.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise self.wrong(key, "an object of texts")
        return dict(value)

    def wrong(self, key: str, expected: str) -> ImageError:
        """The error that the field *key* is not *expected*."""
        problem = "is missing" if self.value.get(key) is None else f"is not {expected}"
        return ImageError(f"{self.what}: {key} {problem}")
