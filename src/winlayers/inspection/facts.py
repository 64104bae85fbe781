"""What there is to say of an entry, as text for people and as values for JSON."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from winlayers.errors import ReparseError, SecurityDescriptorError
from winlayers.inspection.tree import Entry, EntryType, Layer, Tree, shown_path
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import UNSET, unix_from_filetime
from winlayers.win32.reparse import RawReparse, parse_reparse, tag_name
from winlayers.win32.security import bytes_to_sddl

TYPE_NAMES = {
    EntryType.FILE: "file",
    EntryType.DIRECTORY: "directory",
    EntryType.SYMLINK: "symlink",
    EntryType.JUNCTION: "junction",
    EntryType.REPARSE: "reparse point",
}

_LETTERS = (
    (FileAttributes.ARCHIVE, "a"),
    (FileAttributes.READONLY, "r"),
    (FileAttributes.HIDDEN, "h"),
    (FileAttributes.SYSTEM, "s"),
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def mode_text(entry: Entry) -> str:
    """Type and attributes in five letters, as PowerShell shows them: ``-a---``, ``d---s``."""
    attributes = entry.metadata.attributes
    return entry.type.value + "".join(letter if bit & attributes else "-" for bit, letter in _LETTERS)


def attribute_names(attributes: FileAttributes) -> list[str]:
    """The names of the attribute bits; unknown ones as hexadecimal numbers."""
    names, left = [], int(attributes)
    for bit in FileAttributes:
        if attributes & bit:
            names.append(bit.name or hex(bit))
            left &= ~int(bit)
    return [*names, *([hex(left)] if left else [])]


def time_text(filetime: int, *, digits: int = 7) -> str:
    """A FILETIME in UTC as ``2024-01-01T12:00:00.1234567Z``; "" where it is unset.

    Times that no calendar here reaches are given as ``FILETIME 0x...``.
    """
    if filetime == UNSET:
        return ""
    seconds, nanoseconds = unix_from_filetime(filetime)
    try:
        moment = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return f"FILETIME {filetime:#x}"
    fraction = f".{nanoseconds // 100:07d}"[: digits + 1] if digits else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def listing_time(filetime: int) -> str:
    """A FILETIME for a listing, to the minute: ``2024-01-01 12:00``."""
    text = time_text(filetime, digits=0)
    return text[:16].replace("T", " ") if text[:1].isdigit() else text or "-"


def sddl_text(security: bytes | None) -> str | None:
    """A descriptor as SDDL; one that has no such form as ``hex:...``."""
    if security is None:
        return None
    try:
        return bytes_to_sddl(security, strict=False)
    except SecurityDescriptorError:
        return f"hex:{security.hex()}"


def layer_facts(layer: Layer) -> dict[str, object]:
    """A layer, for JSON."""
    return {
        "number": layer.number,
        "id": layer.id,
        "diff_id": layer.diff_id or None,
        "blob": None if layer.blob is None else layer.blob.digest,
        "created_by": layer.created_by,
    }


def _first_facts(entry: Entry) -> dict[str, object]:
    return {
        "path": entry.shown,
        "name": entry.name,
        "type": TYPE_NAMES[entry.type],
        "size": entry.size,
        "attributes": attribute_names(entry.metadata.attributes),
        "streams": [{"name": s.name, "size": s.extent.size} for s in entry.inode.streams],
    }


def listing_facts(tree: Tree, entry: Entry) -> dict[str, object]:
    """An entry as ``ls`` and ``find`` give it in JSON."""
    metadata = entry.metadata
    layer = tree.layer_of(entry)
    return {
        **_first_facts(entry),
        "write_time": time_text(metadata.write_time) or None,
        "links": entry.inode.nlink,
        "layer": None if layer is None else layer.number,
        "target": entry.target,
    }


def entry_facts(tree: Tree, entry: Entry) -> dict[str, object]:
    """All that is known of an entry, for JSON."""
    metadata = entry.metadata
    layer = tree.layer_of(entry)
    return {
        **_first_facts(entry),
        "attributes_value": int(metadata.attributes),
        "times": {
            name: {"text": time_text(value) or None, "filetime": value} for name, value in times(entry)
        },
        "security": sddl_text(metadata.security),
        "extended_attributes": [
            {"name": ea.name, "flags": ea.flags, "value": ea.value.hex()} for ea in metadata.eas
        ],
        "reparse": _reparse_facts(metadata.reparse),
        "links": [shown_path(path) for path in tree.links(entry)],
        "layer": None if layer is None else layer_facts(layer),
    }


def times(entry: Entry) -> Iterator[tuple[str, int]]:
    """The four times with their names."""
    metadata = entry.metadata
    yield "creation", metadata.creation_time
    yield "access", metadata.access_time
    yield "write", metadata.write_time
    yield "change", metadata.change_time


def _reparse_facts(reparse: bytes | None) -> dict[str, object] | None:
    if reparse is None:
        return None
    try:
        point = parse_reparse(reparse)
    except ReparseError:
        return {"tag": None, "target": None, "data": reparse.hex()}
    if isinstance(point, RawReparse):
        return {"tag": tag_name(point.tag), "target": None, "data": reparse.hex()}
    return {
        "tag": tag_name(point.tag),
        "target": point.target,
        "substitute_name": point.substitute_name,
        "print_name": point.print_name,
        "data": reparse.hex(),
    }
