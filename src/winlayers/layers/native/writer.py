"""The writer of layers on parents: the transport format in a temporary folder, then ImportLayer.

Source: hcsshim ``legacy.go`` and ``importlayer.go``.  Beyond it: parent directories that a layer does not
name are made, a directory may be named twice or after its content, opaque directories become deletions, and
after a failure ImportLayer is not called.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

from winlayers.errors import HcsError, LayerContentError
from winlayers.layers.native import errors, files, paths, restore, temporary, vmcompute
from winlayers.layers.native.privileges import WRITE, privileges
from winlayers.layers.native.safefile import FILE_CREATE, Root
from winlayers.layers.native.utilityvm import UtilityVm
from winlayers.layers.service import Flavour, LayerWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filestreams import write_transport_file
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.names import fold_key

_IMPLIED = FileMetadata(FileAttributes.DIRECTORY)
"""What a directory gets that is only named as the parent of another entry."""


@dataclasses.dataclass(frozen=True, slots=True)
class _PendingLink:
    path: str
    target: str
    root: Root


class DeltaLayerWriter(LayerWriter):
    """Writes a layer that stands on parents."""

    def __init__(
        self, flavour: Flavour, path: str, chain: Sequence[str], *, folder: str | None = None
    ) -> None:
        """Begin to fill the layer in the folder *path*, which must be there.

        Args:
            chain: the parents' folders, nearest first; at least one.
            folder: the temporary folder to write to, empty, which is removed at the end; None: a new one.
        """
        self._flavour = flavour
        self._chain = list(chain)
        self._open = contextlib.ExitStack()
        self._finished = False
        self._counted = restore.Counted()
        self._tombstones: list[str] = []
        self._opaque: list[str] = []
        self._links: list[_PendingLink] = []
        self._directories: dict[bytes, restore.DirectoryTimes] = {}
        self._reparse_directories: list[str] = []
        self._added: set[str] = set()
        self._directory_keys: set[bytes] = set()
        self._file_keys: set[bytes] = set()
        with privileges(*WRITE), contextlib.ExitStack() as undo:
            self._folder = folder or temporary.make_folder()
            undo.callback(temporary.remove_folder, self._folder)
            undo.callback(self._open.close)
            self._root = self._open.enter_context(Root.open(self._folder))
            self._target = self._open.enter_context(Root.open(path))
            self._parents = [self._open.enter_context(Root.open(parent)) for parent in self._chain]
            undo.pop_all()
        self._utility_vm = UtilityVm(self._target, self._parents[0])

    # -- entries --

    def add(self, path: str, metadata: FileMetadata, streams: Iterable[DataStream] = ()) -> None:
        name = paths.entry_path(path)
        streams = self._counted.pass_through(streams)
        with privileges(*WRITE):
            if name == paths.UTILITY_VM:
                self._utility_vm.ensure()
                return
            if name == paths.TOMBSTONES:
                return  # the import's own file: never a layer's content
            if metadata.is_directory:
                self._directories[fold_key(name)] = restore.DirectoryTimes(name, metadata)
            if paths.is_below(name, paths.UTILITY_VM):
                self._utility_vm.add(name, metadata, streams)
            else:
                self._add_transport(name, metadata, streams)
            self._added.add(name)

    def _add_transport(self, name: str, metadata: FileMetadata, streams: Iterable[DataStream]) -> None:
        file_name = name
        if metadata.is_directory:
            self._make_directory(name)
            file_name = name + paths.DIRECTORY_SUFFIX
        elif fold_key(name) in self._file_keys:
            self._root.remove(name)  # a file that is named twice: what is said last holds
        else:
            self._file_keys.add(fold_key(name))
        with self._create(file_name, name) as file:
            # The attributes are in the file; its own stay plain.
            file.set_basic_info(dataclasses.replace(metadata, attributes=FileAttributes(0)))
            streams = restore.with_unnamed_stream(metadata, streams)
            if paths.is_below(name, paths.HIVES):
                restore.restore(file, metadata, streams, security=False, path=name)
            else:
                sink = restore.BufferedSink(file.write)
                write_transport_file(metadata, streams, sink, path=name)
                sink.flush()
        if metadata.is_directory and metadata.reparse is not None:
            # Without its directory nothing can be added below it, into wherever it leads.
            self._remove_empty(name)
            self._reparse_directories.append(name)

    def _remove_empty(self, name: str) -> None:
        try:
            self._root.remove(name)
        except HcsError as error:
            if errors.win32_code(error) != errors.ERROR_DIR_NOT_EMPTY:
                raise
            raise LayerContentError("a reparse point with entries below it", path=name) from error

    def _create(self, file_name: str, name: str) -> files.WinFile:
        access = files.GENERIC_READ | files.GENERIC_WRITE
        try:
            return self._root.open_relative(file_name, access, files.SHARE_READ, FILE_CREATE)
        except errors.HcsNotFoundError:
            self._imply_parent(name)
            return self._root.open_relative(file_name, access, files.SHARE_READ, FILE_CREATE)

    def _make_directory(self, name: str) -> None:
        key = fold_key(name)
        if key in self._directory_keys:
            # Named before, or implied by its content: what is said last holds.
            self._root.remove(name + paths.DIRECTORY_SUFFIX, missing_ok=True)
            if name in self._reparse_directories:
                self._reparse_directories.remove(name)
                self._root.mkdir(name)
            return
        try:
            self._root.mkdir(name)
        except errors.HcsNotFoundError:
            self._imply_parent(name)
            self._root.mkdir(name)
        self._directory_keys.add(key)

    def _imply_parent(self, name: str) -> None:
        """Make the directory that *name* lies in, which no entry has named."""
        parent = name.rpartition("\\")[0]
        if parent and fold_key(parent) not in self._directory_keys:
            try:
                self._add_transport(parent, _IMPLIED, ())
                return
            except errors.HcsExistsError:
                pass  # a file
        raise LayerContentError("the entry lies below what is not a directory", path=name)

    def add_link(self, path: str, target: str) -> None:
        name = paths.entry_path(path)
        target = paths.entry_path(target)
        with privileges(*WRITE):
            if not _holds_links(name) or not _holds_links(target):
                raise LayerContentError(
                    f"a hard link to {target} outside of Files and UtilityVM/Files", path=path
                )
            self._links.append(_PendingLink(name, target, self._find_target(name, target)))
            self._added.add(name)

    def _find_target(self, name: str, target: str) -> Root:
        """The layer that holds the link's target: this one, else the nearest parent that has it.

        The utility VM's files are all in this layer's folder already.
        """
        if target in self._added:
            return self._target
        roots = [self._target]
        if paths.is_below(target, paths.FILES):
            roots = self._parents
        for root in roots:
            if root.look(target) is not None:
                return root
        return self._target  # it may come later

    def remove(self, path: str) -> None:
        name = paths.entry_path(path)
        with privileges(*WRITE):
            if paths.is_below(name, paths.FILES):
                self._tombstones.append(name)
            elif paths.is_below(name, paths.UTILITY_VM_FILES):
                self._utility_vm.remove(name)
            else:
                raise LayerContentError("nothing can be deleted here", path=path)

    def hide(self, path: str) -> None:
        name = paths.entry_path(path)
        if name != paths.FILES and not paths.is_below(name, paths.FILES):
            raise LayerContentError("only a directory in Files can be opaque", path=path)
        self._opaque.append(name)

    def _expand_opaque(self) -> list[str]:
        """The deletions that opaque directories stand for: what parents have there and this layer has not."""
        added = {fold_key(name) for name in self._added} | self._directory_keys
        found: dict[bytes, str] = {}
        pending = list(self._opaque)
        while pending:
            directory = pending.pop()
            for parent in self._parents:
                entry = parent.look(directory)
                if entry is None or not entry.descends:
                    continue
                for name in parent.list(directory):
                    child = f"{directory}\\{name}"
                    key = fold_key(child)
                    if key in found:
                        continue
                    if key in self._directory_keys:
                        found[key] = ""  # the layer's own directory: what is below it is looked at
                        pending.append(child)
                    elif key not in added:
                        found[key] = child
        return [child for child in found.values() if child]

    # -- the end --

    def commit(self) -> int:
        if self._finished:
            raise ValueError("the writer is closed")
        self._finished = True
        with privileges(*WRITE):
            try:
                with self._open:
                    self._import()
            finally:
                temporary.remove_folder(self._folder)
        return self._counted.total

    def _import(self) -> None:
        for name in self._reparse_directories:
            self._root.mkdir(name)
        self._check_links()
        tombstones = [*self._tombstones, *self._expand_opaque()]
        vmcompute.import_layer(self._flavour, self._target.path, self._folder, self._chain)
        for name in tombstones:
            self._target.remove(name, missing_ok=True)
        for link in self._links:
            self._target.remove(link.path, missing_ok=True)
            self._make_link(link)
        restore.reapply_directory_times(self._target, list(self._directories.values()))
        if self._utility_vm.present:
            self._target.ensure_not_reparse_point(paths.UTILITY_VM)
            self._utility_vm.unshare_boot_files()
            vmcompute.process_utility_image(self._target.join(paths.UTILITY_VM))

    def _check_links(self) -> None:
        """Fail, before anything is imported, where a link's target has not come."""
        added = {fold_key(name) for name in self._added}
        for link in self._links:
            if link.root is not self._target or fold_key(link.target) in added:
                continue
            if self._target.look(link.target) is None:
                raise _no_target(link)

    def _make_link(self, link: _PendingLink) -> None:
        try:
            restore.link_or_copy(link.root, link.target, self._target, link.path)
        except errors.HcsNotFoundError as error:
            raise _no_target(link) from error

    def abort(self) -> None:
        if not self._finished:
            self._finished = True
            with privileges(*WRITE):
                self._open.close()
                temporary.remove_folder(self._folder)


def _no_target(link: _PendingLink) -> LayerContentError:
    return LayerContentError(
        f"neither the layer nor its parents have {link.target}, to which it is a hard link", path=link.path
    )


def _holds_links(path: str) -> bool:
    return paths.is_below(path, paths.FILES) or paths.is_below(path, paths.UTILITY_VM_FILES)
