"""Changes in the form that Docker asks for, from an index or from a layer's entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from winlayers.layers.service import ChangeKind, EntryKind, LayerChange, LayerReader


def like_the_reference(changes: Iterable[LayerChange]) -> Iterator[LayerChange]:
    """*changes* as the reference gives them: what is not deleted is modified."""
    for change in changes:
        if change.kind is ChangeKind.DELETE:
            yield change
        else:
            yield dataclasses.replace(change, kind=ChangeKind.MODIFY, metadata_only=False)


def changes_from_reader(reader: LayerReader) -> Iterator[LayerChange]:
    """The changes that a layer's own entries tell: each is a modification, since the parents aren't known.

    A path has one change, even if it has an entry of its own and one that makes it opaque.
    """
    seen: set[str] = set()
    for entry, streams in reader:
        if entry.kind is EntryKind.WHITEOUT:
            yield LayerChange(entry.path, ChangeKind.DELETE)
            continue
        if entry.path in seen:
            continue
        seen.add(entry.path)
        is_directory = entry.kind is not EntryKind.LINK and (
            entry.kind is not EntryKind.FILE or (entry.metadata is not None and entry.metadata.is_directory)
        )
        size = stream_size = 0
        for stream in streams if entry.kind in (EntryKind.FILE, EntryKind.DIRECTORY) else ():
            # A link's data is counted once, with the file that it leads to.
            if stream.name:
                stream_size += stream.size
            else:
                size += stream.size
        yield LayerChange(entry.path, ChangeKind.MODIFY, size, is_directory, stream_size=stream_size)
