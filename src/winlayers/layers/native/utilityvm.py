"""The utility VM of a delta layer: a copy of the parent's, changed by the layer.

Windows can't lay one utility VM over another, so a layer that touches ``UtilityVM`` starts from the parent's
whole tree: hard links to its files, which never change, and copies of its directories and reparse points
(source: hcsshim ``legacy.go``).

The four boot files that an import changes must be copies too, or importing a child would change its parent.
hcsshim means to copy them while it clones, but looks them up under the wrong path, and links them.  Here they
are linked like all files, and those that the layer does not replace are made copies before Windows changes
them, by plain reads and writes, so that the calls of BackupRead and BackupWrite are hcsshim's.
"""

from __future__ import annotations

from collections.abc import Iterable

from winlayers.errors import InvalidNameError, LayerContentError
from winlayers.layers.native import files, paths, restore
from winlayers.layers.native.safefile import FILE_CREATE, FILE_OPEN, FILE_OPEN_REPARSE_POINT, Root
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata

_KIND = FileAttributes.DIRECTORY | FileAttributes.REPARSE_POINT


class UtilityVm:
    """The utility VM in the folder of the layer that is being written."""

    def __init__(self, root: Root, parent: Root) -> None:
        """Prepare for one that may never be needed.

        Args:
            root: the layer's own folder.
            parent: the nearest parent's folder.
        """
        self._root = root
        self._parent = parent
        self.present = False

    def ensure(self) -> None:
        """Clone the parent's, unless that is done."""
        if not self.present:
            self._root.mkdir(paths.UTILITY_VM)
            self._clone()
            self.present = True

    def _clone(self) -> None:
        self._parent.ensure_not_reparse_point(paths.UTILITY_VM_FILES)
        directories: list[restore.DirectoryTimes] = []
        for entry in self._parent.walk(paths.UTILITY_VM_FILES):
            if entry.metadata.attributes & _KIND:
                is_directory = entry.metadata.is_directory
                basic = restore.copy_with_metadata(
                    self._parent, self._root, entry.path, is_directory=is_directory
                )
                if is_directory:
                    directories.append(restore.DirectoryTimes(entry.path, basic))
            else:
                restore.link_or_copy(self._parent, entry.path, self._root, entry.path)
        restore.reapply_directory_times(self._root, directories)

    def add(self, path: str, metadata: FileMetadata, streams: Iterable[DataStream]) -> None:
        """Add or replace a file or directory below ``UtilityVM``."""
        if not self.present:
            raise LayerContentError("the layer has no UtilityVM directory before this", path=path)
        if path != paths.UTILITY_VM_FILES and not paths.is_below(path, paths.UTILITY_VM_FILES):
            raise InvalidNameError("in UtilityVM there may be nothing but Files", path=path)
        disposition = FILE_CREATE
        if metadata.is_directory:
            self._make_directory(path, metadata)
            disposition = FILE_OPEN
        else:
            # What is there may be a hard link to the parent's file, which must not be written to.
            self._root.remove(path, missing_ok=True)
        file = self._root.open_relative(
            path, files.RESTORE, files.SHARE_READ, disposition, FILE_OPEN_REPARSE_POINT
        )
        with file:
            file.set_basic_info(metadata)
            restore.restore(
                file,
                metadata,
                restore.with_unnamed_stream(metadata, streams),
                security=True,
                path=path,
                copy_to=restore.bcd_copy(self._root, path),
            )

    def _make_directory(self, path: str, metadata: FileMetadata) -> None:
        found = self._root.stat(path)
        if found is not None and (found.attributes ^ metadata.attributes) & _KIND:
            self._root.remove_all(path)
            found = None
        if found is None:
            self._root.mkdir(path)

    def remove(self, path: str) -> None:
        """Remove what the parent has at *path*; nothing there is an error."""
        self.ensure()
        if self._root.look(path) is None:
            raise LayerContentError("the layer deletes what no parent has in its utility VM", path=path)
        self._root.remove_all(path)

    def unshare_boot_files(self) -> None:
        """Make copies of the files that Windows will change, where they are still the parent's.

        Their directory keeps its times.
        """
        touched: dict[str, restore.DirectoryTimes] = {}
        for name in paths.MUTATED_FILES:
            path = f"{paths.UTILITY_VM_FILES}\\{name}"
            if self._root.look(path) is None or self._parent.look(path) is None:
                continue
            if self._id(self._root, path) == self._id(self._parent, path):
                directory = path.rpartition("\\")[0]
                basic = self._root.stat(directory)
                if basic is not None:
                    touched.setdefault(directory, restore.DirectoryTimes(directory, basic))
                self._root.remove(path)
                self._copy_from_parent(path)
        restore.reapply_directory_times(self._root, list(touched.values()))

    def _copy_from_parent(self, path: str) -> None:
        """Copy a file with data, attributes, times and descriptor; with all that it has, if it has more."""
        source = self._parent.open_relative(path, files.READ_SECURITY, files.SHARE_READ, FILE_OPEN)
        with source:
            if not (source.ea_size() or source.has_alternate_streams()):
                basic, security = source.basic_info(), source.security()
                with self._root.open_relative(path, files.RESTORE, files.SHARE_READ, FILE_CREATE) as copy:
                    while chunk := source.read(files.BUFFER_SIZE):
                        copy.write(chunk)
                    copy.set_security(security)
                    copy.set_basic_info(basic)
                return
        restore.copy_with_metadata(self._parent, self._root, path)

    @staticmethod
    def _id(root: Root, path: str) -> tuple[int, bytes]:
        file = root.open_relative(
            path, files.FILE_READ_ATTRIBUTES, files.SHARE_ALL, FILE_OPEN, FILE_OPEN_REPARSE_POINT
        )
        with file:
            return file.file_id()
