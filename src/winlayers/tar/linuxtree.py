"""A Windows layer from a file tree on Linux.

The tree is walked by directory descriptors, and no link is ever followed: what is written is what lies under
the root, whatever somebody does to it meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from winlayers.errors import FormatError, InvalidNameError, LayerContentError, UnsupportedError
from winlayers.tar.header import Time
from winlayers.tar.linuxlayer import MAX_DEPTH, LayerBuilder, LayerOptions, LinuxLayer, text_name
from winlayers.tar.writer import Sink
from winlayers.win32.metadata import DataStream
from winlayers.win32.names import sort_key

_CHUNK_SIZE = 1 << 20
_NANOSECONDS = 1_000_000_000
# Windows has none of these; there, layer_from_tree refuses.
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_READ_DIRECTORY = _READ | getattr(os, "O_DIRECTORY", 0)
_READ_FILE = _READ | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)
_OPAQUE_ATTRIBUTES = ("trusted.overlay.opaque", "user.overlay.opaque")


def layer_from_tree(root: str, sink: Sink, options: LayerOptions | None = None) -> LinuxLayer:
    """Make a layer of the files below the directory *root*, in NTFS's order of names.

    Args:
        root: the directory; its own name and attributes are not recorded.
        sink: where the layer goes, not compressed.
        options: how.

    Raises:
        UnsupportedError: this host can't walk a tree without following links.
        InvalidNameError, LayerContentError, SddlError: as :func:`~winlayers.tar.linuxlayer.layer_from_tar`;
            moreover LayerContentError: a file has changed while it was read.
        OSError: *root* can't be read.
    """
    if os.open not in os.supports_dir_fd or not _NO_FOLLOW:
        raise UnsupportedError(
            "a tree can't be walked safely here", hint="make a tar of it, and a layer of that"
        )
    # The root itself may be a link: it is the caller's word, not the tree's.
    descriptor = os.open(root, _READ_DIRECTORY)
    try:
        builder = LayerBuilder(sink, options, _time(os.fstat(descriptor)))
        _Walk(builder).directory(descriptor, "", 0)
        return builder.close()
    finally:
        os.close(descriptor)


def _time(status: os.stat_result) -> Time:
    return divmod(status.st_mtime_ns, _NANOSECONDS)


class _Walk:
    def __init__(self, builder: LayerBuilder) -> None:
        self._builder = builder
        self._links: dict[tuple[int, int], str] = {}  # device and inode of files with more names: the first

    def directory(self, descriptor: int, path: str, depth: int) -> None:
        """What is in a directory that has been written."""
        if depth >= MAX_DEPTH // 4:  # each level takes an open descriptor
            raise InvalidNameError(f"the tree is deeper than {MAX_DEPTH // 4} directories", path=path)
        if _is_opaque(descriptor):
            self._builder.hide(path)
        with os.scandir(descriptor) as found:
            names = [(text_name(entry.name), entry.name) for entry in found]
        names.sort(key=lambda pair: (sort_key(pair[0]), pair[0]))
        for text, name in names:
            below = f"{path}/{text}" if path else text
            try:
                self._entry(descriptor, name, below, depth)
            except (FormatError, LayerContentError) as error:
                error.path = error.path or below
                raise

    def _entry(self, parent: int, name: str, path: str, depth: int) -> None:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if self._builder.add_marker(path):
            return
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            self._builder.add_directory(path, _time(status))
            descriptor = os.open(name, _READ_DIRECTORY | _NO_FOLLOW, dir_fd=parent)
            try:
                self.directory(descriptor, path, depth + 1)
            finally:
                os.close(descriptor)
        elif stat.S_ISLNK(mode):
            self._builder.add_symlink(path, text_name(os.readlink(name, dir_fd=parent)), _time(status))
        elif stat.S_ISREG(mode):
            self._file(parent, name, path)
        elif stat.S_ISCHR(mode) and getattr(status, "st_rdev", None) == 0:
            self._builder.remove(path)
        else:
            raise LayerContentError("a device, FIFO or socket can't be in a Windows layer")

    def _file(self, parent: int, name: str, path: str) -> None:
        descriptor = os.open(name, _READ_FILE, dir_fd=parent)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise LayerContentError("a file was replaced while the tree was read")
            if status.st_nlink > 1:
                first = self._links.setdefault((status.st_dev, status.st_ino), path)
                if first != path:
                    self._builder.add_hard_link(path, first)
                    return
            data = DataStream("", status.st_size, _chunks(descriptor, status.st_size))
            self._builder.add_file(path, _time(status), data)
            if os.fstat(descriptor).st_mtime_ns != status.st_mtime_ns:
                raise LayerContentError("a file was changed while it was read")
        finally:
            os.close(descriptor)


def _chunks(descriptor: int, size: int) -> Iterator[bytes]:
    left = size
    while left:
        chunk = os.read(descriptor, min(left, _CHUNK_SIZE))
        if not chunk:
            raise LayerContentError("a file was cut short while it was read")
        left -= len(chunk)
        yield chunk


def _is_opaque(descriptor: int) -> bool:
    """Whether overlayfs hides what is below this directory."""
    if not hasattr(os, "getxattr"):
        return False
    for name in _OPAQUE_ATTRIBUTES:
        try:
            if os.getxattr(descriptor, name) == b"y":
                return True
        except OSError:  # not there, not supported, or not ours to see
            continue
    return False
