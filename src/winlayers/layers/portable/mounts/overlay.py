"""Reads a scratch layer's changes from an overlayfs upper folder.

What overlayfs leaves there (source: Linux, ``Documentation/filesystems/overlayfs.rst``, ``fs/overlayfs``):

- a deleted name: a character device 0:0, or an empty file with ``trusted.overlay.whiteout``;
- a directory that hides what lies below: ``trusted.overlay.opaque`` = ``y``;
- a renamed directory: ``trusted.overlay.redirect``, the name it had in the same directory or, with a slash
  in front, its path from the root;
- where a copied file came from: ``trusted.overlay.origin``, a file handle: version 0, magic 0xfb, length,
  flags, handle type, the file system's UUID, and what the file system knows the inode by.

All is read relative to open directories and never through a link.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import stat
import struct
import sys
from collections.abc import Iterator

assert sys.platform != "win32"

from winlayers.errors import LayerContentError, LayerCorruptError
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.erofs.image import IMAGE_NAME, WRITABLE_IMAGE_NAME, image_inode, read_facts
from winlayers.layers.portable.mounts import anchored, syscalls
from winlayers.layers.portable.mounts.compare import Found, compare, same_data, shown_in_writable
from winlayers.layers.portable.mounts.contract import UpperEntry, UpperKind
from winlayers.layers.portable.posix import (
    DIRECTORY_MODE,
    find_host_name,
    find_host_path,
    path_on_drive,
    posix_nanoseconds,
)
from winlayers.layers.portable.view import View, ViewInode, ViewNode
from winlayers.win32.names import fold_key, host_original, host_safe

_OVERLAY = "trusted.overlay."
_WHITEOUT = b"whiteout"
_OPAQUE = b"opaque"
_REDIRECT = b"redirect"
_ORIGIN = b"origin"

_HANDLE = struct.Struct("=BBBBB16s")
_HANDLE_MAGIC = 0xFB
_HANDLE_INO32 = (0x01, 0x02)  # FILEID_INO32_GEN(_PARENT): u32 inode, u32 generation
_HANDLE_INO64 = (0x81, 0x82)  # FILEID_INO64_GEN(_PARENT): u32 high, u32 low, u32 generation


def prepare_upper(upper: str, view: View) -> None:
    """Make the upper folder, unless it is there, with the metadata of the view's drive.

    The root of an overlay shows the upper folder's own metadata.

    Raises:
        OSError: it can't be made, or its file system has no extended attributes.
    """
    if os.path.isdir(upper):
        return
    hidden = f"{upper}.new"
    os.makedirs(hidden, exist_ok=True)
    os.chmod(hidden, DIRECTORY_MODE)
    drive = view.drive
    if drive is not None:
        inode = view.inode(drive.inode)
        for name, value in shown_in_writable(view, inode).items():
            os.setxattr(hidden, xattrs.USER.encode("ascii") + name, value)
        time = posix_nanoseconds(inode.metadata.write_time)
        os.utime(hidden, ns=(time, time))
    os.rename(hidden, upper)


def overlay_changes(view: View, upper: str) -> Iterator[UpperEntry]:
    """What the upper folder changes in *view*'s drive, parents before children.

    Raises:
        LayerContentError: it holds what no Windows layer can.
    """
    try:
        root = anchored.Anchor(upper)
    except FileNotFoundError:
        return
    yield from _Upper(view, root).changes()


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A directory of the upper folder.

    Attributes:
        parts: its path as it is on disk.
        path: its path by NTFS's names.
        here: the view's node at that path.
        lower: the view's directory that it is merged with; None: it stands alone.
    """

    parts: tuple[bytes, ...]
    path: str
    here: ViewNode | None
    lower: ViewNode | None

    @property
    def moved(self) -> bool:
        return self.lower is not None and (self.here is None or self.here.id != self.lower.id)


@dataclasses.dataclass(frozen=True, slots=True)
class _Child:
    """A name in a directory of the upper folder; ``text`` as on disk, ``name`` as NTFS has it."""

    raw: bytes
    text: str
    name: str
    about: os.stat_result
    notes: dict[bytes, bytes]
    attributes: dict[bytes, bytes]

    @property
    def is_whiteout(self) -> bool:
        if stat.S_ISCHR(self.about.st_mode):
            return self.about.st_rdev == 0
        return stat.S_ISREG(self.about.st_mode) and not self.about.st_size and _WHITEOUT in self.notes


class _Upper:
    """The walk over an upper folder."""

    def __init__(self, view: View, root: anchored.Anchor) -> None:
        self.view = view
        self.root = root
        folder = os.path.dirname(view.path)
        images = [os.path.join(folder, name) for name in (IMAGE_NAME, WRITABLE_IMAGE_NAME)]
        self.images = {facts.uuid: path for path in images if (facts := read_facts(path)) is not None}

    def changes(self) -> Iterator[UpperEntry]:
        drive = self.view.drive
        stack = [_Place((), "", drive, drive)]
        while stack:
            place = stack.pop()
            below: list[_Place] = []
            yield from self._directory(place, below)
            stack += reversed(below)

    def _directory(self, place: _Place, below: list[_Place]) -> Iterator[UpperEntry]:
        """The entries of one directory; its directories are added to *below*."""
        fd = self.root.directory(place.parts)
        try:
            children = [self._child(place, fd, raw) for raw in anchored.names(fd)]
            present = {fold_key(child.name) for child in children if not child.is_whiteout}
            shown = {child.text for child in children}
            deleted = {child.text for child in children if child.is_whiteout}
            for child in children:
                if child.is_whiteout:
                    yield from self._whiteout(place, child, present)
                elif stat.S_ISDIR(child.about.st_mode):
                    yield self._subdirectory(place, child, fd, deleted, below)
                else:
                    entry = self._file(place, child, fd)
                    if entry.differs:
                        yield entry
        finally:
            os.close(fd)
        if place.moved and place.lower is not None:
            for node, inode in self.view.entries(place.lower.id):
                if host_safe(node.name) not in shown:
                    yield from self._untouched(f"{place.path}/{node.name}", node, inode)

    def _child(self, place: _Place, fd: int, raw: bytes) -> _Child:
        about = os.stat(raw, dir_fd=fd, follow_symlinks=False)
        wanted = xattrs.TRUSTED if stat.S_ISLNK(about.st_mode) else xattrs.USER
        notes: dict[bytes, bytes] = {}
        attributes: dict[bytes, bytes] = {}
        for name, value in (anchored.attributes_of(fd, raw) or {}).items():
            if name.startswith(_OVERLAY):
                notes[os.fsencode(name[len(_OVERLAY) :])] = value
            elif name.startswith(wanted):
                attributes[os.fsencode(name[len(wanted) :])] = value
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise LayerContentError(
                f"the name {raw!r} is not UTF-8", path=place.path, hint="rename or remove it"
            ) from None
        return _Child(raw, text, self._name(place, text), about, notes, attributes)

    def _name(self, place: _Place, text: str) -> str:
        name = host_original(text)
        if name is not None:
            return name
        node = find_host_name(self.view, place.lower.id, text) if place.lower is not None else None
        return text if node is None else node.name

    # -- kinds of children --

    def _whiteout(self, place: _Place, child: _Child, present: set[bytes]) -> Iterator[UpperEntry]:
        """A deletion, where the view has something to delete and no other file is in its place."""
        if place.here is None or place.moved or fold_key(child.name) in present:
            return
        node = find_host_name(self.view, place.here.id, child.text)
        if node is not None:
            yield UpperEntry(
                path=_join(place, node.name),
                kind=UpperKind.WHITEOUT,
                data_changed=False,
                metadata_changed=False,
            )

    def _subdirectory(
        self, place: _Place, child: _Child, fd: int, deleted: set[str], below: list[_Place]
    ) -> UpperEntry:
        path = _join(place, child.name)
        here = None if place.here is None else self.view.lookup(place.here.id, child.name)
        lower = self._merged_with(place, child)
        # A directory that differs from one of the view in letter case alone, while both are there, is one
        # with it as far as Windows is concerned.
        twin_name = None if here is None or lower is not None else host_safe(here.name)
        twin = twin_name not in (None, child.text) and twin_name not in deleted
        inner = _Place((*place.parts, child.raw), path, here, lower)
        below.append(inner)
        inode = None if lower is None else self.view.inode(lower.inode)
        hides = here is not None and not twin and (lower is None or inner.moved)
        content = self.root.directory(inner.parts)
        try:
            content_changed = bool(os.listdir(content))
        finally:
            os.close(content)
        return compare(
            self.view,
            self._found(path, child, fd, place),
            inode,
            content_changed=content_changed,
            opaque=hides and here is not None and here.is_directory,
            replaced=hides,
            origin=path_on_drive(self.view, lower) if lower is not None and inner.moved else None,
        )

    def _merged_with(self, place: _Place, child: _Child) -> ViewNode | None:
        if child.notes.get(_OPAQUE) == b"y":
            return None
        redirect = child.notes.get(_REDIRECT)
        node = None
        if redirect is None:
            if place.lower is not None:
                node = find_host_name(self.view, place.lower.id, child.text)
        else:
            text = redirect.decode("utf-8", "replace")
            if text.startswith("/"):
                drive = self.view.drive
                node = None if drive is None else find_host_path(self.view, drive.id, text)
            elif place.lower is not None:
                node = find_host_name(self.view, place.lower.id, text)
        return node if node is not None and self._is_plain_directory(node) else None

    def _is_plain_directory(self, node: ViewNode) -> bool:
        return node.is_directory and self.view.inode(node.inode).metadata.reparse is None

    def _file(self, place: _Place, child: _Child, fd: int) -> UpperEntry:
        path = _join(place, child.name)
        here = None if place.here is None else self.view.lookup(place.here.id, child.name)
        inode = self._copied_from(place, child)
        in_place = inode is not None and here is not None and here.inode == inode.id
        origin = None if inode is None or in_place else self._path_of(inode)
        if inode is not None and not in_place and origin is None:
            inode = None
        found = self._found(path, child, fd, place)
        changed = found.kind is not UpperKind.FILE or inode is None or not self._unchanged(inode, found)
        return compare(
            self.view,
            found,
            inode,
            data_changed=changed,
            replaced=here is not None and not in_place,
            origin=origin,
        )

    def _copied_from(self, place: _Place, child: _Child) -> ViewInode | None:
        """The view's inode that the file is a copy of, or was changed from; None: it is new."""
        number = self._origin_inode(child.notes.get(_ORIGIN))
        if number:
            try:
                return self.view.inode(number)
            except LayerCorruptError:  # the image is of another view: its numbers say nothing
                pass
        # Files with several names get no origin, and an image that was made again makes handles worthless;
        # but what was copied still has the attributes that no new file has.
        if place.lower is None or xattrs.ATTRIB not in child.attributes:
            return None
        node = find_host_name(self.view, place.lower.id, child.text)
        return None if node is None or node.is_directory else self.view.inode(node.inode)

    def _origin_inode(self, handle: bytes | None) -> int:
        """The inode of the view that the file handle leads to; 0: none."""
        if handle is None or len(handle) < _HANDLE.size + 8:
            return 0
        version, magic, length, _, kind, uuid = _HANDLE.unpack_from(handle)
        image = self.images.get(uuid)
        if version or magic != _HANDLE_MAGIC or length != len(handle) or image is None:
            return 0
        first, second = struct.unpack_from("=II", handle, _HANDLE.size)
        if kind in _HANDLE_INO64:
            return image_inode(image, first << 32 | second)
        return image_inode(image, first) if kind in _HANDLE_INO32 else 0

    def _path_of(self, inode: ViewInode) -> str | None:
        """A path that the inode has on the view's drive."""
        for node in self.view.links(inode.id):
            path = self.view.path_of(node)
            if path.lower().startswith("files/"):
                return path.partition("/")[2]
        return None

    def _unchanged(self, inode: ViewInode, found: Found) -> bool:
        if inode.size != found.about.st_size or found.open is None:
            return False
        with found.open() as file:
            return same_data(self.view, inode, file)

    def _found(self, path: str, child: _Child, fd: int, place: _Place) -> Found:
        target = None
        if stat.S_ISLNK(child.about.st_mode):
            target = os.readlink(child.raw, dir_fd=fd).decode("utf-8", "surrogateescape")
        reader = functools.partial(self.root.file, (*place.parts, child.raw))
        return Found(path, child.about, child.attributes, syscalls.birth_time(fd, child.raw), target, reader)

    def _untouched(self, path: str, node: ViewNode, inode: ViewInode) -> Iterator[UpperEntry]:
        """What moved with its directory, unchanged."""
        stack = [(path, node, inode)]
        while stack:
            path, node, inode = stack.pop()
            m = inode.metadata
            yield UpperEntry(
                path=path,
                kind=UpperKind.DIRECTORY if inode.is_directory else UpperKind.FILE,
                data_changed=False,
                metadata_changed=False,
                size=inode.size,
                creation_time=m.creation_time,
                access_time=m.access_time,
                write_time=m.write_time,
                change_time=m.change_time,
                origin=path_on_drive(self.view, node),
            )
            if inode.is_directory:
                stack += [(f"{path}/{n.name}", n, i) for n, i in self.view.entries(node.id)]


def _join(place: _Place, name: str) -> str:
    return f"{place.path}/{name}" if place.path else name
