"""Layers of the ``windowsdiff`` flavour: plain files in the layer's folder.

That flavour's diffs are plain Docker layer tars, which the graph driver applies under the home, so that what
a tar has under ``<id>/`` lies in the layer's folder.  There is no index and nothing is merged: the folder is
its own view.  Out comes a tar of the same form.

Source: the 2016 driver's ``ApplyDiff``, which untars to the parent of the layer's folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from winlayers.layers.archive import GeneratedTar, TarBuffer
from winlayers.layers.portable import store as folders
from winlayers.layers.rooted import Root
from winlayers.layers.service import ChangeKind, LayerChange
from winlayers.tar.header import DIRECTORY, LINK, REGULAR, SYMLINK, Format, TarHeader
from winlayers.tar.writer import TarWriter

_CHUNK = 1 << 20
_OURS = folders.KNOWN_FILES | {"layerID", "layerId"}
_NANOSECONDS = 1_000_000_000


def is_plain(folder: str) -> bool:
    """Whether the folder holds files that only a plain tar can have put there."""
    try:
        return any(not _is_ours(name) for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(".tmp-")


def plain_changes(folder: str) -> Iterator[LayerChange]:
    """The folder's files, all of them added: there is nothing to compare them with."""
    with Root(folder) as root:
        for path, found in _walk(root, ""):
            is_directory = stat.S_ISDIR(found.st_mode)
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            yield LayerChange(path, ChangeKind.ADD, size, is_directory)


def plain_tar(folder: str, layer_id: str) -> GeneratedTar:
    """The folder's files as a plain tar, under the name of the layer."""
    return GeneratedTar(_archive(folder, layer_id), None)


def _archive(folder: str, layer_id: str) -> Iterator[bytes]:
    buffer = TarBuffer()
    writer = TarWriter(buffer)
    links: dict[tuple[int, int], str] = {}
    with Root(folder) as root:
        # The folder itself is not a member: the store's own files in it change its times.
        for path, found in _walk(root, ""):
            name = f"{layer_id}/{path}"
            header = _header(name, found)
            if stat.S_ISLNK(found.st_mode):
                header.linkname = root.read_link(path)
            elif stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                first = links.setdefault((found.st_dev, found.st_ino), name)
                if first != name:
                    header.typeflag, header.linkname, header.size = LINK, first, 0
            writer.write_header(header)
            if header.typeflag == REGULAR:
                with root.open_file(path) as file:
                    left = header.size
                    while left and (chunk := file.read(min(left, _CHUNK))):
                        left -= len(chunk)
                        writer.write(chunk)
                        if buffer.size >= _CHUNK:
                            yield buffer.take()
        writer.close()
    yield buffer.take()


def _walk(root: Root, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here != folder:
            found = root.lstat(here)
            if found is None:
                continue
            yield here, found
            if not stat.S_ISDIR(found.st_mode):
                continue
        names = sorted(root.names(here), reverse=True)
        prefix = f"{here}/" if here else ""
        waiting += [prefix + name for name in names if here or not _is_ours(name)]


def _header(name: str, found: os.stat_result) -> TarHeader:
    kinds = {stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}
    typeflag = kinds.get(stat.S_IFMT(found.st_mode), REGULAR)
    if typeflag == DIRECTORY and not name.endswith("/"):
        name += "/"
    return TarHeader(
        os.fsencode(name).decode("utf-8", "surrogateescape"),
        typeflag,
        found.st_size if typeflag == REGULAR else 0,
        mode=stat.S_IMODE(found.st_mode),
        mtime=divmod(found.st_mtime_ns, _NANOSECONDS),
        format=Format.PAX,
    )
