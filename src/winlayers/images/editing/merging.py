"""Configurations put on another base: what the application set stays, what it took over follows the base."""

from __future__ import annotations

from collections.abc import Mapping

from winlayers.images.editing.runconfig import env_of, name_of

_MAPS = ("Labels", "ExposedPorts", "Volumes")
_PLATFORM = ("architecture", "os", "variant", "os.version", "os.features")


def take_platform(document: dict[str, object], base: Mapping[str, object]) -> None:
    """Let *document* be for what *base* is for: operating system, architecture, version, features."""
    for field in _PLATFORM:
        if field in base:
            document[field] = base[field]
        else:
            document.pop(field, None)


def merge_run(
    run: Mapping[str, object], old: Mapping[str, object], new: Mapping[str, object]
) -> dict[str, object]:
    """The application's ``config`` object on the new base.

    Field by field, and within variables, labels, ports and volumes one by one: what is as in the old base
    becomes what it is in the new one, all else stays.

    Raises:
        ImageError: the variables are malformed.
    """
    merged = _merge(run, old, new)
    if "Env" in run or "Env" in new:
        variables = _merge(_variables(run), _variables(old), _variables(new))
        merged["Env"] = list(variables.values())
    for field in _MAPS:
        parts = [value.get(field) for value in (run, old, new)]
        one, two, three = (part if isinstance(part, dict) else {} for part in parts)
        if one and (two or three):
            merged[field] = _merge(one, two, three)
    return {field: value for field, value in merged.items() if field in run or value not in ([], {}, None)}


def _merge(
    own: Mapping[str, object], old: Mapping[str, object], new: Mapping[str, object]
) -> dict[str, object]:
    absent = object()
    merged = {}
    for key in (*own, *(key for key in new if key not in own)):
        value = own.get(key, absent)
        if value == old.get(key, absent):
            value = new.get(key, absent)
        if value is not absent:
            merged[key] = value
    return merged


def _variables(run: Mapping[str, object]) -> dict[str, object]:
    return {name_of(variable).casefold(): variable for variable in env_of(run)}
