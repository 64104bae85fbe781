"""The writer of base layers: straight into the layer's folder, then ProcessBaseImage.

Source: hcsshim ``baselayerwriter.go``.  Beyond it: missing parents, repeated directories and links to what
comes later are accepted, and hives that are missing are made.
"""

from __future__ import annotations

from collections.abc import Iterable

from winlayers.errors import LayerContentError
from winlayers.layers.native import errors, files, paths, restore, vmcompute
from winlayers.layers.native.privileges import WRITE, privileges
from winlayers.layers.native.safefile import FILE_CREATE, FILE_DIRECTORY_FILE, FILE_OPEN, Root
from winlayers.layers.service import LayerWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.names import fold_key

_IMPLIED = FileMetadata(FileAttributes.DIRECTORY)


class BaseLayerWriter(LayerWriter):
    """Writes a layer that stands on no other."""

    def __init__(self, path: str, *, complete_hives: bool = True) -> None:
        """Begin to fill the layer in the folder *path*, which must be there.

        Args:
            complete_hives: make an empty hive for each of the five that the layer does not have.
        """
        with privileges(*WRITE):
            self._root = Root.open(path)
        self._complete_hives = complete_hives
        self._finished = False
        self._counted = restore.Counted()
        self._has_utility_vm = False
        self._directories: dict[bytes, restore.DirectoryTimes] = {}
        self._files: set[bytes] = set()
        self._late_links: list[tuple[str, str]] = []

    def add(self, path: str, metadata: FileMetadata, streams: Iterable[DataStream] = ()) -> None:
        name = paths.entry_path(path)
        if name == paths.TOMBSTONES:
            return  # a name of the transport format: never a layer's content
        if name == paths.UTILITY_VM_FILES:
            self._has_utility_vm = True
        with privileges(*WRITE):
            self._add(name, metadata, self._counted.pass_through(streams))

    def _add(self, name: str, metadata: FileMetadata, streams: Iterable[DataStream]) -> None:
        key = fold_key(name)
        disposition, options = FILE_CREATE, 0
        if metadata.is_directory:
            options = FILE_DIRECTORY_FILE
            if key in self._directories:
                disposition = FILE_OPEN  # named before, or implied by its content: what is said last holds
            self._directories[key] = restore.DirectoryTimes(name, metadata)
        elif key in self._files:
            self._forget(name, key)
        else:
            self._files.add(key)
        with self._open(name, disposition, options) as file:
            file.set_basic_info(metadata)
            restore.restore(
                file,
                metadata,
                restore.with_unnamed_stream(metadata, streams),
                security=True,
                path=name,
                copy_to=restore.bcd_copy(self._root, name),
            )

    def _open(self, name: str, disposition: int, options: int) -> files.WinFile:
        share = files.SHARE_READ
        try:
            return self._root.open_relative(name, files.RESTORE, share, disposition, options)
        except errors.HcsNotFoundError:
            parent = name.rpartition("\\")[0]
            if not parent or fold_key(parent) in self._directories:
                raise
            self._add(parent, _IMPLIED, ())
        return self._root.open_relative(name, files.RESTORE, share, disposition, options)

    def _forget(self, name: str, key: bytes) -> None:
        """Remove a file, or a link that may wait for its target: what is said last holds."""
        self._late_links = [link for link in self._late_links if fold_key(link[0]) != key]
        self._root.remove(name, missing_ok=True)

    def add_link(self, path: str, target: str) -> None:
        name, target = paths.entry_path(path), paths.entry_path(target)
        with privileges(*WRITE):
            key = fold_key(name)
            if key in self._files and key != fold_key(target):
                self._forget(name, key)
            self._files.add(key)
            try:
                restore.link_or_copy(self._root, target, self._root, name)
            except errors.HcsNotFoundError:
                # The target comes later, or a directory on the way does.
                self._late_links.append((name, target))

    def remove(self, path: str) -> None:
        raise LayerContentError("a base layer can't delete anything", path=path)

    def hide(self, path: str) -> None:
        """In a base layer there is nothing below to be hidden."""

    def commit(self) -> int:
        if self._finished:
            raise ValueError("the writer is closed")
        self._finished = True
        with privileges(*WRITE), self._root:
            for name, target in self._late_links:
                self._make_late_link(name, target)
            if self._complete_hives:
                restore.ensure_hives(self._root)
            restore.reapply_directory_times(self._root, list(self._directories.values()))
            vmcompute.process_base_image(self._root.path)
            if self._has_utility_vm:
                self._root.ensure_not_reparse_point(paths.UTILITY_VM)
                vmcompute.process_utility_image(self._root.join(paths.UTILITY_VM))
        return self._counted.total

    def _make_late_link(self, name: str, target: str) -> None:
        try:
            restore.link_or_copy(self._root, target, self._root, name)
        except errors.HcsNotFoundError as error:
            raise LayerContentError(
                f"the layer has no {target}, to which this is a hard link", path=name
            ) from error

    def abort(self) -> None:
        if not self._finished:
            self._finished = True
            self._root.close()
