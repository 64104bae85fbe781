"""Applies a plain Docker layer tar to a folder: what moby's ``ApplyUncompressedLayer`` does on Windows.

The differencing disk flavour takes its layers this way, and so do layers that travel as the folders of the
transport format.  Facts from moby ``go-archive/diff.go`` (``UnpackLayer``) and ``archive.go``.

Nothing is ever written outside of the folder, nor through a link within it: an entry whose path leads
through a link is refused (the reference resolves such links inside the folder).  As on Windows, owners are
not set and devices and FIFOs are not made; extended attributes and the set-id bits are left out as well,
since what is unpacked here belongs to the store.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import posixpath
import shutil
import stat
import tempfile
from typing import BinaryIO

from winlayers.errors import InvalidNameError, LayerContentError, StoreError
from winlayers.layers.rooted import Root
from winlayers.layers.service import TarStream
from winlayers.tar.header import (
    BLOCK,
    CHAR,
    DIRECTORY,
    FIFO,
    LINK,
    PAX_GLOBAL,
    REGULAR,
    SYMLINK,
    TarHeader,
    Time,
)
from winlayers.tar.reader import TarReader

WHITEOUT = ".wh."
AUFS_METADATA = ".wh..wh."
OPAQUE = ".wh..wh..opq"
AUFS_LINKS = ".wh..wh.plnk"

_REFUSED_BY_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_TIME_MAX = (1 << 63) - 1  # nanoseconds since 1970
_log = logging.getLogger("winlayers.graphdriver")


def apply_layer(folder: str, source: BinaryIO | TarStream) -> int:
    """Apply an uncompressed layer tar to *folder*, which must exist.

    Returns:
        The sum of the members' sizes.

    Raises:
        TarError: *source* is not a tar.
        LayerContentError, InvalidNameError: a member's path leaves the folder or leads through a link, a link
            has no target, or the host can't hold the name.
        StoreError: the file system refuses.
        LayerNotFoundError: *folder* is not there.
    """
    with Root(folder) as root, _AufsLinks() as aufs:
        applier = _Applier(root, aufs)
        reader = TarReader(source)
        for header in reader:
            try:
                applier.apply(header, reader)
            except OSError as error:
                raise _failure(error, header.name) from error
        try:
            applier.finish()
        except OSError as error:
            raise _failure(error, folder) from error
        return applier.size


def _failure(error: OSError, path: str) -> LayerContentError | StoreError:
    if error.errno in _REFUSED_BY_NAME:
        return LayerContentError(f"this host can't hold the name: {error.strerror}", path=path)
    return StoreError(f"can't unpack: {error.strerror}", path=path)


class _AufsLinks:
    """The files of ``.wh..wh.plnk``, which are not content but which hard links may lead to."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, tuple[str, TarHeader]] = {}

    def __enter__(self) -> _AufsLinks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, header: TarHeader, reader: TarReader) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="winlayers-plnk-")
        path = posixpath.join(self._folder.name, str(len(self._files)))
        with open(path, "wb") as file:
            for chunk in reader.chunks():
                file.write(chunk)
        self._files[posixpath.basename(header.name)] = (path, header)

    def find(self, target: str) -> tuple[str, TarHeader]:
        kept = self._files.get(posixpath.basename(target))
        if kept is None:
            raise LayerContentError("a hard link to an AUFS link that is not in the layer", path=target)
        return kept


class _Applier:
    def __init__(self, root: Root, aufs: _AufsLinks) -> None:
        self._root = root
        self._aufs = aufs
        self._unpacked: set[str] = set()  # with every directory above them
        self._directories: list[tuple[str, TarHeader]] = []
        self.size = 0

    def apply(self, header: TarHeader, reader: TarReader) -> None:
        self.size += header.size
        path = _local_path(header.name)
        if path == "." or header.typeflag == PAX_GLOBAL:
            return
        if _unrepresentable(path, header):
            _log.warning("ignoring an entry that Windows can't hold: %r", header.name)
            return
        if path.startswith(AUFS_METADATA) and path != OPAQUE:
            if path.startswith(AUFS_LINKS) and header.typeflag == REGULAR:
                self._aufs.keep(dataclasses.replace(header, name=path), reader)
            return
        self._root.make_parents(path)
        parent, base = posixpath.split(path)
        if base == OPAQUE:
            self._hide(parent)
        elif base.startswith(WHITEOUT):
            name = base[len(WHITEOUT) :]
            if name in ("", ".", ".."):
                raise InvalidNameError("a whiteout of nothing", path=path)
            self._root.remove(posixpath.join(parent, name))
        else:
            self._add(path, header, reader)
            while path and path not in self._unpacked:
                self._unpacked.add(path)
                path = posixpath.dirname(path)

    def finish(self) -> None:
        """Set what writing into directories would disturb, deepest first."""
        for path, header in sorted(self._directories, key=lambda item: -item[0].count("/")):
            found = self._root.lstat(path)
            if found is not None and stat.S_ISDIR(found.st_mode):
                self._root.set_mode(path, header.mode & 0o777)
                self._root.set_times(path, *_times(header))

    def _hide(self, directory: str) -> None:
        """Remove from *directory* what this layer has not put there."""
        pending = [directory]
        while pending:
            current = pending.pop()
            for name in self._root.names(current):
                path = posixpath.join(current, name)
                if path not in self._unpacked:
                    self._root.remove(path)
                    continue
                found = self._root.lstat(path)
                if found is not None and stat.S_ISDIR(found.st_mode):
                    pending.append(path)

    def _add(self, path: str, header: TarHeader, reader: TarReader) -> None:
        kind = header.typeflag
        target = _local_path(header.linkname) if kind == LINK else ""
        found = self._root.lstat(path)
        is_directory = found is not None and stat.S_ISDIR(found.st_mode)
        if kind == LINK and (target == path or target.startswith(f"{path}/")):
            raise LayerContentError("a hard link to itself", path=path)
        if found is not None and not (is_directory and kind == DIRECTORY):
            self._root.remove(path)
            is_directory = False
        if kind == DIRECTORY:
            if not is_directory:
                self._root.make_directory(path, 0o700)
            self._directories.append((path, header))
        elif kind == REGULAR:
            self._write(path, header, reader)
        elif kind == LINK:
            self._link(path, target)
        elif kind == SYMLINK:
            if "\0" in header.linkname or not header.linkname:
                raise InvalidNameError("a symbolic link without a valid target", path=path)
            self._root.symlink(header.linkname, path)
            self._root.set_times(path, *_times(header))
        elif kind in (BLOCK, CHAR, FIFO):
            _log.warning("ignoring a device or FIFO, which Windows doesn't have: %r", header.name)
        else:
            raise LayerContentError(f"a tar member of the unknown type {kind!r}", path=path)

    def _write(self, path: str, header: TarHeader, source: TarReader | BinaryIO) -> None:
        with self._root.create_file(path, 0o600) as file:
            if isinstance(source, TarReader):
                for chunk in source.chunks():
                    file.write(chunk)
            else:
                shutil.copyfileobj(source, file, 1 << 20)
        self._root.set_mode(path, header.mode & 0o777)
        self._root.set_times(path, *_times(header))

    def _link(self, path: str, target: str) -> None:
        if target.startswith(AUFS_LINKS):
            kept, header = self._aufs.find(target)
            with open(kept, "rb") as source:
                self._write(path, header, source)
            return
        found = self._root.lstat(target)
        if found is None or stat.S_ISDIR(found.st_mode):
            raise LayerContentError(f"a hard link to {target!r}, which is not a file there", path=path)
        self._root.link(target, path)


def _local_path(name: str) -> str:
    """*name* cleaned and relative; "." for the folder itself (``path.Clean`` after leading slashes went)."""
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../") or "\0" in path:
        raise InvalidNameError("the path leads out of the layer", path=name)
    return path


def _unrepresentable(path: str, header: TarHeader) -> bool:
    """Whether Windows can't hold the entry; such entries are passed over there (source: moby)."""
    names = path + (header.linkname if header.typeflag == LINK else "")
    return os.name == "nt" and any(c in '<>:"|?*\\' for c in names)


def _times(header: TarHeader) -> tuple[int, int]:
    """Access and modification time in nanoseconds: the access time is never the earlier one (as in moby)."""
    modification = _nanoseconds(header.mtime)
    return max(_nanoseconds(header.atime), modification), modification


def _nanoseconds(time: Time | None) -> int:
    """Nanoseconds since 1970; times that a host may not hold are 1970 (source: go-archive ``boundTime``)."""
    if time is None:
        return 0
    value = time[0] * 1_000_000_000 + time[1]
    return value if 0 <= value <= _TIME_MAX else 0
