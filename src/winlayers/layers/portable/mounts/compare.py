"""What differs between a file as it is found in a scratch layer and the view's file that it came from."""

from __future__ import annotations

import dataclasses
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

assert sys.platform != "win32"

from winlayers.errors import FormatError, LayerContentError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.erofs.tree import stream_sources
from winlayers.layers.portable.mounts.contract import UpperEntry, UpperKind
from winlayers.layers.portable.posix import WRITE_BITS, file_mode, posix_nanoseconds
from winlayers.layers.portable.view import View, ViewInode
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import UNSET, filetime_from_nanoseconds
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import fold_key

_CHUNK = 1 << 20
_OLDEST = -(2**31) * 1_000_000_000
"""ext4 and others show older times as this one (1901)."""

_FIELD_OF = {
    xattrs.ATTRIB: "attributes",
    xattrs.ACL: "security",
    xattrs.EA: "eas",
    xattrs.REPARSE: "reparse",
}
_TIME_NAMES = (xattrs.TIMES, xattrs.CRTIME)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file, directory or symbolic link as it is found.

    Attributes:
        path: where, relative to the drive, by NTFS's name.
        about: its status.
        attributes: its extended attributes without name space; None: they can't be had here.
        birth: when it was made, in nanoseconds since 1970; None: not recorded.
        target: a symbolic link's target.
        open: opens its data.
    """

    path: str
    about: os.stat_result
    attributes: Mapping[bytes, bytes] | None = None
    birth: int | None = None
    target: str | None = None
    open: Callable[[], BinaryIO] | None = None

    @property
    def kind(self) -> UpperKind:
        """What it is.

        Raises:
            LayerContentError: what no Windows layer can hold.
        """
        mode = self.about.st_mode
        if stat.S_ISREG(mode):
            return UpperKind.FILE
        if stat.S_ISDIR(mode):
            return UpperKind.DIRECTORY
        if stat.S_ISLNK(mode):
            return UpperKind.SYMLINK
        raise LayerContentError(
            "devices, pipes and sockets can't be part of a Windows layer", path=self.path, hint="remove it"
        )


def compare(
    view: View,
    found: Found,
    inode: ViewInode | None,
    *,
    shown: Mapping[bytes, bytes] | None = None,
    data_changed: bool = True,
    content_changed: bool = False,
    opaque: bool = False,
    replaced: bool = False,
    origin: str | None = None,
) -> UpperEntry:
    """The entry for *found*.

    Args:
        inode: the view's inode that it is, or was copied from; None: it is new.
        shown: the attributes that it was shown with; None: those of a writable mount.
        data_changed: whether its data is not the inode's.
        content_changed: for a directory: whether names in it were changed.
        opaque, replaced, origin: as in the entry.

    Raises:
        LayerContentError: an attribute that was set is not what NTFS can hold.
    """
    if inode is None:
        shown = {}
    elif shown is None:
        shown = shown_in_writable(view, inode)
    present = shown if found.attributes is None else found.attributes
    changed = {n for n in {*present, *shown} if present.get(n) != shown.get(n)} - {xattrs.STREAMS}
    try:
        parsed = xattrs.parse_attributes({name: present[name] for name in changed if name in present})
        streams = _streams(view, inode, shown, present, changed, parsed.streams)
    except FormatError as error:
        raise LayerContentError(str(error), path=found.path) from error
    overridden = {_FIELD_OF[name] for name in changed if name in _FIELD_OF}
    overrides = _overrides(found, inode, parsed.metadata, overridden)
    write_time, time_changed = _time_now(
        found.about.st_mtime_ns, None if inode is None else inode.metadata.write_time
    )
    creation, access, change = _other_times(found, inode)
    if "times" in parsed.present:
        set_times = parsed.metadata
        creation, access = set_times.creation_time, set_times.access_time
        change, write_time = set_times.change_time, set_times.write_time
    elif "creation_time" in parsed.present:
        creation = parsed.metadata.creation_time
    if found.kind is UpperKind.DIRECTORY and content_changed:
        time_changed = False
    metadata_changed = (
        inode is None
        or time_changed
        or bool(overridden)
        or streams is not None
        or any(name in changed for name in _TIME_NAMES)
    )
    if inode is not None and not (metadata_changed or data_changed or content_changed):
        # Copied only because something below it changed.
        change = inode.metadata.change_time
    linked = found.kind is not UpperKind.DIRECTORY and found.about.st_nlink > 1
    return UpperEntry(
        path=found.path,
        kind=found.kind,
        opaque=opaque,
        data_changed=data_changed and found.kind is UpperKind.FILE,
        metadata_changed=metadata_changed,
        size=found.about.st_size if found.kind is UpperKind.FILE else 0,
        creation_time=creation,
        access_time=access,
        write_time=write_time,
        change_time=change,
        posix_target=found.target,
        overrides=overrides if overridden else None,
        overridden=frozenset(overridden),
        streams=streams,
        origin=origin,
        replaced=replaced,
        identity=(found.about.st_dev, found.about.st_ino) if linked else None,
        open=found.open if data_changed and found.kind is UpperKind.FILE else None,
    )


def shown_in_writable(view: View, inode: ViewInode) -> dict[bytes, bytes]:
    """The attributes that a writable mount shows the inode with."""
    return xattrs.shown_attributes(inode.metadata, stream_sources(view, inode), xattrs.WRITABLE_ROOM)[0]


def same_data(view: View, inode: ViewInode, file: BinaryIO) -> bool:
    """Whether the open file holds the inode's data and nothing else."""
    return all(chunk == file.read(len(chunk)) for chunk in view.chunks(inode.extent)) and not file.read(1)


def _overrides(
    found: Found, inode: ViewInode | None, parsed: FileMetadata, overridden: set[str]
) -> FileMetadata:
    """The metadata that was set, with what a changed mode says of READONLY (noted in *overridden*)."""
    if found.kind is not UpperKind.FILE or "attributes" in overridden:
        return parsed
    read_only = not found.about.st_mode & WRITE_BITS
    before = inode.metadata.attributes if inode is not None else FileAttributes.ARCHIVE
    if read_only == (not file_mode(before) & WRITE_BITS):
        return parsed
    overridden.add("attributes")
    return dataclasses.replace(parsed, attributes=before ^ FileAttributes.READONLY)


def _time_now(found_ns: int, before: int | None) -> tuple[int, bool]:
    """A time as a FILETIME, and whether it is not what it was in the view (None: it is new)."""
    if before is not None:
        view_ns = posix_nanoseconds(before)
        if found_ns == view_ns or (view_ns < _OLDEST and found_ns == _OLDEST):
            return before, False
    return filetime_from_nanoseconds(found_ns), True


def _other_times(found: Found, inode: ViewInode | None) -> tuple[int, int, int]:
    """Creation, access and change time.  The birth of a copy of a view's file says nothing."""
    access, _ = _time_now(found.about.st_atime_ns, None if inode is None else inode.metadata.access_time)
    change = filetime_from_nanoseconds(found.about.st_ctime_ns)
    if inode is not None:
        return inode.metadata.creation_time, access, change
    return UNSET if found.birth is None else filetime_from_nanoseconds(found.birth), access, change


def _streams(
    view: View,
    inode: ViewInode | None,
    shown: Mapping[bytes, bytes],
    present: Mapping[bytes, bytes],
    changed: Iterable[bytes],
    added: tuple[tuple[str, bytes], ...],
) -> tuple[tuple[str, bytes], ...] | None:
    """All alternate streams, if any was changed; None: they are as in the view."""
    gone = [name for name in changed if name not in present and xattrs.stream_of_attribute(name) is not None]
    if not added and not gone:
        return None
    values = dict(added)
    streams: list[tuple[str, bytes]] = []
    for stream in inode.streams if inode is not None else ():
        name = xattrs.attribute_of_stream(stream.name)
        if name is None or name not in shown:
            streams.append((stream.name, view.read(stream.extent)))
        elif name in present:
            streams.append((stream.name, values.pop(stream.name, present[name])))
    known = {fold_key(name) for name, _ in streams}
    streams += [(name, value) for name, value in values.items() if fold_key(name) not in known]
    return tuple(streams)
