r"""Windows layers from what Linux has: a plain tar here, a plain file tree in :mod:`winlayers.tar.linuxtree`.

The layer begins with its roots ``Files`` and ``Hives``; each directory comes before what is in it, also where
the source does not mention it; symbolic links come last, when it is known which of them lead to directories
(which Windows must be told).  The same source gives the same bytes: the clock is never looked at, and times
are not later than ``SOURCE_DATE_EPOCH``.

What becomes of what:

- files: attribute ARCHIVE, creation time as last write time unless recorded, and the descriptor that Windows
  itself would give a new file there, its entries marked as inherited (:data:`DRIVE_SDDL`, or an option);
- directories: a name and a time.  Attributes and a descriptor would replace those of a directory of the same
  name below; they are written only where :attr:`LayerOptions.below` says that there is none, or where
  :attr:`LayerOptions.directory` knows what that one has;
- symbolic links: a target from the root becomes one from the drive (``/usr/x``: ``C:\usr\x``), a relative one
  stays relative; hard links: links to the name in the layer;
- whiteouts (``.wh.NAME``, ``.wh..wh..opq``, overlayfs' device 0/0 and ``overlay.opaque`` attribute): kept;
- owners, permission bits and POSIX extended attributes: dropped, Windows has no place for them;
- devices, FIFOs and sockets, names that NTFS can't hold, and two names that are one to NTFS: refused.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable

from winlayers.errors import FormatError, InvalidNameError, LayerContentError, TarError
from winlayers.tar.backuptar import CREATION_TIME, OPAQUE_MARKER, WHITEOUT_PREFIX, name_of_path
from winlayers.tar.fields import parse_integer, parse_pax_time, to_bytes
from winlayers.tar.header import (
    CHAR,
    CONTIGUOUS,
    DIRECTORY,
    GNU_SPARSE,
    LINK,
    PAX_GLOBAL,
    REGULAR,
    SYMLINK,
    Format,
    TarHeader,
    Time,
)
from winlayers.tar.layertar import TarLayerWriter
from winlayers.tar.linuxinherit import Descriptors
from winlayers.tar.linuxnames import MAX_PATH_UNITS, Kind, Name, leads_to_directory, split_target
from winlayers.tar.reader import Source, TarReader
from winlayers.tar.writer import Sink
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import filetime_from_unix
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.names import decode_wtf8, encode_wtf8, utf16_length, validate_component
from winlayers.win32.reparse import SymbolicLink

FILES = "Files"
HIVES = "Hives"
DRIVE_SDDL = "O:SYG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)"
"""What new files inherit unless an option says otherwise: full control for SYSTEM and Administrators, read
and execute for Users (the descriptor of ``C:\\Users`` in Microsoft's own images)."""

MAX_DEPTH = 1024
MAX_SPARSE_SIZE = 127 << 30
"""The largest sparse file that is written out with its holes: the size of a container's drive."""

_MOST_COLLISIONS = 1000
_MODE_DIRECTORY = 0o040000
_OVERLAY_OPAQUE = ("SCHILY.xattr.trusted.overlay.opaque", "SCHILY.xattr.user.overlay.opaque")
_AUFS_PRIVATE = WHITEOUT_PREFIX * 2


def source_date_epoch() -> int | None:
    """``SOURCE_DATE_EPOCH`` of the environment; None if it isn't set.

    Raises:
        LayerContentError: it is not a number (the specification demands that this be an error).
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    try:
        return parse_integer(text)
    except TarError:
        raise LayerContentError(f"SOURCE_DATE_EPOCH is not a number: {text!r}") from None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions:
    """How a layer is made.

    Attributes:
        destination: the directory on the drive that the source's root becomes, ``/``-separated; "": the
            drive's root itself.
        epoch: the latest time, in Unix seconds, that is written; by default ``SOURCE_DATE_EPOCH``.
        inherit_from: SDDL of the directory that files and new directories inherit from; None: no descriptors
            are written (Windows then lets files inherit from the folder where the layer is unpacked).
        file_sddl, directory_sddl: the very descriptor for files, and for directories that are new.
        below: what the layers below have at a path (``/``-separated, from the drive's root): True: a
            directory, False: something else, None: nothing.  Without it every directory may be there already.
        directory: metadata and streams of a directory that *below* says is there ("": the drive's root).  It
            is written again as it is, and what the layer puts into it inherits from its descriptor.
        report_collisions: give two names that differ in case alone in the result instead of refusing them.
    """

    destination: str = ""
    epoch: int | None = dataclasses.field(default_factory=source_date_epoch)
    inherit_from: str | None = DRIVE_SDDL
    file_sddl: str | None = None
    directory_sddl: str | None = None
    below: Callable[[str], bool | None] | None = None
    directory: Callable[[str], tuple[FileMetadata, Iterable[DataStream]]] | None = None
    report_collisions: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class LinuxLayer:
    """What was written.

    Attributes:
        entries: the number of entries.
        size: the layer's length in bytes.
        collisions: pairs of names that are one to NTFS, the first thousand of them.
    """

    entries: int
    size: int
    collisions: tuple[tuple[str, str], ...]


def layer_from_tar(source: Source, sink: Sink, options: LayerOptions | None = None) -> LinuxLayer:
    """Make a layer of a plain tar: members keep their order, but that symbolic links come last.

    Args:
        source: the tar, not compressed.
        sink: where the layer goes, not compressed.
        options: how.

    Raises:
        TarError: *source* is malformed.
        InvalidNameError: a name or link target that NTFS can't hold, ``..``, two names that are one.
        LayerContentError: what a layer can't hold, or a tar that is a Windows layer already.
        SddlError: an option's descriptor is malformed.
    """
    reader = TarReader(source)
    builder: LayerBuilder | None = None
    for header in reader:
        if header.typeflag == PAX_GLOBAL:
            continue
        if builder is None:
            builder = LayerBuilder(sink, options, header.mtime)
        try:
            _add_member(builder, reader, header)
        except (FormatError, LayerContentError) as error:
            error.path = error.path or header.name
            raise
    return (builder or LayerBuilder(sink, options, None)).close()


def _add_member(builder: LayerBuilder, reader: TarReader, header: TarHeader) -> None:
    if any(key.startswith("MSWINDOWS.") for key in header.pax):
        raise LayerContentError(
            "the tar has Windows metadata: it is a layer already", hint="import it as it is"
        )
    path = _member_path(header.name)
    if builder.add_marker(path):
        return
    if header.typeflag == DIRECTORY:
        builder.add_directory(path, header.mtime)
        if any(header.pax.get(key) == "y" for key in _OVERLAY_OPAQUE):
            builder.hide(path)
    elif header.typeflag == SYMLINK:
        builder.add_symlink(path, text_name(header.linkname), header.mtime)
    elif header.typeflag == LINK:
        builder.add_hard_link(path, _member_path(header.linkname))
    elif header.typeflag == CHAR and header.devmajor == header.devminor == 0:
        builder.remove(path)
    elif header.typeflag in (REGULAR, CONTIGUOUS, GNU_SPARSE):
        if header.sparse is not None and header.size > MAX_SPARSE_SIZE:
            raise LayerContentError(f"a sparse file of {header.size} bytes does not fit a container's drive")
        created = header.pax.get(CREATION_TIME)
        stream = DataStream("", header.size, reader.chunks())
        creation_time = parse_pax_time(created) if created else None
        builder.add_file(path, header.mtime, stream, creation_time=creation_time)
    else:
        raise LayerContentError(f"a member of the type {header.typeflag!r} can't be in a Windows layer")


def text_name(name: str) -> str:
    """A name from a tar or a Linux directory as a Windows name, nothing lost.

    Raises:
        InvalidNameError: it is not UTF-8 (nor WTF-8).
    """
    data = to_bytes(name)
    text = decode_wtf8(data)
    if encode_wtf8(text) != data:
        raise InvalidNameError("a name is not UTF-8, and a Windows name must be text", path=name)
    return text


def _member_path(name: str) -> str:
    """The path of a plain tar's member: relative to its root, whatever it begins with."""
    return "/".join(part for part in text_name(name).split("/") if part not in ("", "."))


class LayerBuilder:
    """Writes a layer, entry by entry.  Paths are ``/``-separated and relative to the options' destination.

    Args:
        sink: where the layer goes.
        options: how it is made.
        root_time: the time of the roots and of directories that the source does not mention.

    Every method raises InvalidNameError for a path that NTFS can't hold or that is there already, and
    LayerContentError for what lies under a file or link.
    """

    def __init__(self, sink: Sink, options: LayerOptions | None, root_time: Time | None) -> None:
        self._options = options or LayerOptions()
        self._writer = TarLayerWriter(sink)
        self._entries = 0
        self._root = Name(None, "", Kind.DIRECTORY)
        self._last: tuple[list[str], Name, bool] = [], self._root, True  # what _parents found last
        self._symlinks: list[tuple[str, str, Time, Name]] = []  # path, target, time, directory: for the end
        self._collisions: dict[tuple[str, str], None] = {}
        chosen = self._options
        self._descriptors = Descriptors(chosen.inherit_from, chosen.file_sddl, chosen.directory_sddl)
        self._root_time = self._time(root_time)
        self._prefix = [validate_component(part) for part in self._options.destination.split("/") if part]
        self._put_directory([], self._root, self._root_time)
        self._put_bare(HIVES, self._root_time)
        self._parents(self._prefix)

    def add_directory(self, path: str, time: Time | None) -> None:
        """A directory; one that was implied or given before is passed over."""
        parts = self._parts(path)
        node, is_new = self._claim(parts, Kind.DIRECTORY)
        if is_new:
            self._put_directory(parts, node, self._time(time))

    def add_file(
        self, path: str, time: Time | None, data: DataStream, *, creation_time: Time | None = None
    ) -> None:
        """A file with *data*; *creation_time*: where it is known to differ from *time*."""
        parts = self._parts(path)
        node, _ = self._claim(parts, Kind.OTHER)
        written = _filetime(self._time(time))
        metadata = FileMetadata(
            FileAttributes.ARCHIVE,
            creation_time=written if creation_time is None else _filetime(self._time(creation_time)),
            write_time=written,
            security=self._descriptor(node.parent, is_directory=False),
        )
        self._writer.add(f"{FILES}/{'/'.join(parts)}", metadata, (data,))
        self._entries += 1

    def add_hard_link(self, path: str, target: str) -> None:
        """A hard link to *target*, a file of this source or of a layer below."""
        parts, target_parts = self._parts(path), self._parts(target)
        found = self._root.find(target_parts)
        if found is not None and found.kind is Kind.LINK and found.target is not None:
            self.add_symlink(path, found.target, self._root_time)
            return
        if found is not None and found.kind is Kind.DIRECTORY:
            raise LayerContentError(f"a hard link leads to {target!r}, which is no file")
        self._claim(parts, Kind.OTHER)
        exact = found.path if found is not None else "/".join(target_parts)
        self._writer.add_link(f"{FILES}/{'/'.join(parts)}", f"{FILES}/{exact}")
        self._entries += 1

    def add_symlink(self, path: str, target: str, time: Time | None) -> None:
        """A symbolic link with a POSIX *target*; it is written by `close`."""
        parts = self._parts(path)
        windows_target(target)
        node, _ = self._claim(parts, Kind.LINK)
        directory = node.parent or self._root
        self._symlinks.append(("/".join(parts), target, self._time(time), directory))
        node.target = target if node.target is None else node.target

    def add_marker(self, path: str) -> bool:
        """Take *path* for what its name says, if it is AUFS's: a whiteout, an opaque marker, a private file.

        The latter is left out.  False: it is an ordinary name.
        """
        parent, _, base = path.rpartition("/")
        if any(part.startswith(_AUFS_PRIVATE) for part in parent.split("/")):
            return True
        if base == OPAQUE_MARKER:
            self.hide(parent)
            return True
        if base.startswith(_AUFS_PRIVATE):
            return True
        if not base.startswith(WHITEOUT_PREFIX):
            return False
        deleted = base[len(WHITEOUT_PREFIX) :]
        if not deleted:
            raise InvalidNameError("a whiteout without a name")
        self.remove(f"{parent}/{deleted}")
        return True

    def remove(self, path: str) -> None:
        """*path* is deleted from the layers below."""
        if not path:
            raise InvalidNameError("the root of a layer can't be deleted")
        parts = self._parts(path)
        self._parents(parts[:-1])
        self._writer.remove(f"{FILES}/{'/'.join(parts)}")
        self._entries += 1

    def hide(self, path: str) -> None:
        """The directory *path* ("" for the root) hides what the layers below have in it."""
        parts = self._parts(path) if path else self._prefix
        self._parents(parts)
        self._writer.hide("/".join((FILES, *parts)))
        self._entries += 1

    def close(self) -> LinuxLayer:
        """Write the symbolic links and end the layer."""
        for path, target, time, directory in self._symlinks:
            is_directory = leads_to_directory(self._root, path, target, self._options.below)
            kind = FileAttributes.DIRECTORY if is_directory else FileAttributes.ARCHIVE
            written = _filetime(time)
            metadata = FileMetadata(
                kind | FileAttributes.REPARSE_POINT,
                creation_time=written,
                write_time=written,
                security=self._descriptor(directory, is_directory=is_directory),
                reparse=SymbolicLink.to(windows_target(target)).to_bytes(),
            )
            self._writer.add(f"{FILES}/{path}", metadata)
            self._entries += 1
        self._writer.close()
        return LinuxLayer(self._entries, self._writer.tar.offset, tuple(self._collisions))

    # -- paths --------------------------------------------------------------------------------------

    def _parts(self, path: str) -> list[str]:
        """The components of *path* from the drive's root, each of them valid."""
        parts = [*self._prefix, *(validate_component(part) for part in path.split("/") if part)]
        if sum(map(utf16_length, parts)) + len(parts) > MAX_PATH_UNITS:
            raise InvalidNameError(f"a path is longer than {MAX_PATH_UNITS} UTF-16 units")
        if any(part.startswith(WHITEOUT_PREFIX) for part in parts):
            raise InvalidNameError(f"a name that begins with {WHITEOUT_PREFIX!r} marks a deletion in a layer")
        if len(parts) > MAX_DEPTH:
            raise InvalidNameError(f"a path is deeper than {MAX_DEPTH} directories")
        return parts

    def _claim(self, parts: list[str], kind: Kind) -> tuple[Name, bool]:
        """Note that *parts* is *kind*: what NTFS finds there, and whether it is still to be written."""
        directory, alike = self._parents(parts[:-1])
        found = directory.child(parts[-1]) if parts else self._root
        if found is None:
            return directory.add(parts, kind, alike=alike), True
        path = "/".join(parts)
        is_same = found.path == path
        if is_same and kind is found.kind is Kind.DIRECTORY:
            return found, False
        if is_same:
            raise InvalidNameError("the source has two entries of this name", path=path)
        self._collide(found, path, "name", "rename one of them")
        return found, True

    def _parents(self, parts: list[str]) -> tuple[Name, bool]:
        """Have the directory *parts* and those above it; and whether its path is spelt so in the layer."""
        if parts == self._last[0]:
            return self._last[1:]
        node, alike = self._root, True
        above: list[str] = []
        for part in parts:
            above.append(part)
            found = node.child(part)
            if found is None:
                found = node.add(above, Kind.DIRECTORY, alike=alike)
                self._put_directory(above, found, self._root_time)
                alike = True
            elif found.kind is not Kind.DIRECTORY:
                raise LayerContentError(f"something lies under {found.path!r}, which is no directory")
            else:
                alike = found.is_spelt(above, alike=alike)
                if not alike:
                    self._collide(found, "/".join(above), "directory", "rename one")
            node = found
        self._last = parts, node, alike
        return node, alike

    def _collide(self, earlier: Name, path: str, what: str, hint: str) -> None:
        """To NTFS *path* is the same as *earlier*: refuse it, or report it."""
        if not self._options.report_collisions:
            raise InvalidNameError(
                f"to NTFS this is the same {what} as {earlier.path!r}", path=path, hint=hint
            )
        if len(self._collisions) < _MOST_COLLISIONS:
            self._collisions[earlier.path, path] = None

    # -- values -------------------------------------------------------------------------------------

    def _time(self, time: Time | None) -> Time:
        seconds, nanoseconds = (0, 0) if time is None else time
        epoch = self._options.epoch
        return (
            (epoch, 0)
            if epoch is not None and (seconds, nanoseconds) > (epoch, 0)
            else (seconds, nanoseconds)
        )

    def _descriptor(self, directory: Name | None, *, is_directory: bool) -> bytes | None:
        """The descriptor of what is new in *directory*."""
        known = None if directory is None else directory.security
        return self._descriptors.of(known, is_directory=is_directory)

    def _put_directory(self, parts: list[str], node: Name, time: Time) -> None:
        """A directory of the drive: described where it is new or known, else no more than named."""
        options = self._options
        path = "/".join(parts)
        streams: Iterable[DataStream] = ()
        there = True if not parts else None if options.below is None else options.below(path)
        if there is not True and options.below is not None:
            written = _filetime(time)
            metadata = FileMetadata(
                FileAttributes.DIRECTORY,
                creation_time=written,
                write_time=written,
                security=self._descriptor(node.parent, is_directory=True),
            )
        elif there is True and options.directory is not None:
            metadata, streams = options.directory(path)
        else:
            self._put_bare("/".join((FILES, *parts)), time)
            return
        node.security = metadata.security
        self._writer.add("/".join((FILES, *parts)), metadata, streams, is_directory=True)
        self._entries += 1

    def _put_bare(self, path: str, time: Time) -> None:
        header = TarHeader(name_of_path(path), DIRECTORY, mode=_MODE_DIRECTORY, mtime=time, format=Format.PAX)
        self._writer.tar.write_header(header)
        self._entries += 1


def _filetime(time: Time) -> int:
    return filetime_from_unix(*time)


def windows_target(target: str) -> str:
    r"""The Windows form of a POSIX link's target.

    ``/a/b`` is ``C:\a\b``, ``../a`` is ``..\a``; what is a path with a drive already stays one.

    Raises:
        InvalidNameError: it is empty, or holds a component that NTFS can't hold.
    """
    if not target:
        raise InvalidNameError("a symbolic link has no target")
    drive, steps = split_target(target)
    parts: list[str] = []
    for step in steps:
        if step != "..":
            parts.append(validate_component(step))
        elif not drive:
            parts.append(step)
        elif parts:
            parts.pop()
    return f"{drive}\\" + "\\".join(parts) if drive else "\\".join(parts) or "."
