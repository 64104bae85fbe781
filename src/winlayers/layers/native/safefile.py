"""Everything below a layer's root, opened relative to the root's handle and never through a reparse point.

A layer's content is not trusted: a link in it must not make an import or a removal reach outside.  So each
path is handed to ``NtCreateFile`` with the root's handle and ``OBJ_DONT_REPARSE``, which fails if any part on
the way is a reparse point, and links and deletions work on handles got in that way (source: hcsshim
``internal/safefile``).
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from winlayers.errors import HcsError, LayerContentError
from winlayers.layers.native import errors, ffi, files, paths
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata

FILE_OPEN = 1
FILE_CREATE = 2

FILE_DIRECTORY_FILE = 0x00000001
FILE_SEQUENTIAL_ONLY = 0x00000004
FILE_OPEN_REPARSE_POINT = 0x00200000
_FILE_SYNCHRONOUS_IO_NONALERT = 0x00000020
_FILE_OPEN_FOR_BACKUP_INTENT = 0x00004000

_OBJ_DONT_REPARSE = 0x1000

_CLASS_LINK = 11
_CLASS_DISPOSITION = 13
_CLASS_DISPOSITION_EX = 64
_DISPOSITION_DELETE = 0x1
_MIN_LINK_INFORMATION = 24

_NAME_SURROGATE = 0x20000000
"""The bit of a reparse tag that says: this stands for another name (a link, a junction)."""

_DIRECTORY_OR_POINT = FileAttributes.DIRECTORY | FileAttributes.REPARSE_POINT


@dataclasses.dataclass(frozen=True, slots=True)
class WalkEntry:
    """One file or directory met on a walk.

    Attributes:
        path: its path below the root.
        metadata: its attributes and times.
        descends: whether the walk goes on below it: a directory that is not a link or junction.
    """

    path: str
    metadata: FileMetadata
    descends: bool


class Root:
    """A directory that relative paths are resolved below."""

    def __init__(self, file: files.WinFile) -> None:
        self._file = file

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the directory *path*."""
        return cls(
            files.WinFile.open(
                paths.long_path(path), files.GENERIC_READ, files.OPEN_EXISTING, files.SHARE_ALL
            )
        )

    @property
    def path(self) -> str:
        r"""The directory's path in ``\\?\`` form."""
        return self._file.path

    def join(self, path: str) -> str:
        """The absolute path of *path*, for messages and listing."""
        return f"{self.path}\\{path}" if path != "." else self.path

    def close(self) -> None:
        """Close the handle; harmless when called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- opening --

    def open_relative(
        self,
        path: str,
        access: int,
        share: int,
        disposition: int,
        options: int = 0,
        *,
        stream: bool = False,
    ) -> files.WinFile:
        """Open or create *path* below the root.

        Args:
            access: the rights wanted; SYNCHRONIZE is added.
            share: what others may do meanwhile.
            disposition: FILE_OPEN or FILE_CREATE.
            options: FILE_DIRECTORY_FILE, FILE_OPEN_REPARSE_POINT, FILE_SEQUENTIAL_ONLY.
            stream: let *path*, which must be clean then, end in ``:stream``.

        Raises:
            InvalidNameError: *path* is not a path below the root.
            ReparsePointError: a part on the way is a reparse point.
            HcsError: as Windows refuses.
        """
        clean = path if stream else paths.clean_relative(path)
        text = ctypes.create_unicode_buffer(clean) if clean != "." else ctypes.create_unicode_buffer("")
        units = len(clean.encode("utf-16-le", "surrogatepass")) if clean != "." else 0
        name = ffi.UnicodeString(units, units, ctypes.addressof(text))
        attributes = ffi.ObjectAttributes(
            ctypes.sizeof(ffi.ObjectAttributes),
            self._file.handle,
            ctypes.pointer(name),
            _OBJ_DONT_REPARSE,
            None,
            None,
        )
        handle = ctypes.c_void_p()
        status = ffi.ntdll().NtCreateFile(
            ctypes.byref(handle),
            access | files.SYNCHRONIZE,
            ctypes.byref(attributes),
            ctypes.byref(ffi.IoStatusBlock()),
            None,
            0,
            share,
            disposition,
            _FILE_OPEN_FOR_BACKUP_INTENT | _FILE_SYNCHRONOUS_IO_NONALERT | options,
            None,
            0,
        )
        errors.check_ntstatus("NtCreateFile", status, path=self.join(clean))
        return files.WinFile(ffi.Handle(handle.value or 0), self.join(clean))

    def look(self, path: str) -> WalkEntry | None:
        """What is at *path*, of a reparse point itself; None: nothing is there."""
        try:
            file = self.open_relative(
                path, files.FILE_READ_ATTRIBUTES, files.SHARE_ALL, FILE_OPEN, FILE_OPEN_REPARSE_POINT
            )
        except errors.HcsNotFoundError:
            return None
        with file:
            metadata = file.basic_info()
            descends = metadata.is_directory
            if descends and metadata.attributes & FileAttributes.REPARSE_POINT:
                # As Go's os.FileInfo: points of other tags (placeholders) are directories like any.
                descends = not file.reparse_tag() & _NAME_SURROGATE
            return WalkEntry(path, metadata, descends)

    def stat(self, path: str) -> FileMetadata | None:
        """The attributes and times at *path*, of a reparse point itself; None: nothing is there."""
        found = self.look(path)
        return None if found is None else found.metadata

    def ensure_not_reparse_point(self, path: str) -> None:
        """Fail if *path* or any part on the way is a reparse point, or if nothing is there."""
        self.open_relative(path, 0, files.SHARE_ALL, FILE_OPEN).close()

    # -- making --

    def mkdir(self, path: str) -> None:
        """Make the directory *path*."""
        self.open_relative(path, 0, files.SHARE_ALL, FILE_CREATE, FILE_DIRECTORY_FILE).close()

    def mkdir_all(self, path: str) -> None:
        """Make the directory *path* and those on the way that are missing."""
        parts = paths.clean_relative(path).split("\\")
        for count in range(1, len(parts) + 1):
            partial = "\\".join(parts[:count])
            found = self.stat(partial)
            if found is None:
                self.mkdir(partial)
            elif not found.is_directory or found.attributes & FileAttributes.REPARSE_POINT:
                raise LayerContentError("not a directory", path=partial, layer=self.path)

    def link(self, target: str, path: str, *, target_root: Root | None = None) -> None:
        """Make *path* another name of the file *target* (below *target_root*, else below this root)."""
        source = (target_root or self).open_relative(
            target, files.FILE_WRITE_ATTRIBUTES, files.SHARE_ALL, FILE_OPEN
        )
        with source:
            directory, _, name = paths.clean_relative(path).rpartition("\\")
            if not directory:
                self._link_into(source, self._file, name)
                return
            parent = self.open_relative(
                directory, files.GENERIC_READ, files.SHARE_ALL, FILE_OPEN, FILE_DIRECTORY_FILE
            )
            with parent:
                if parent.basic_info().attributes & FileAttributes.REPARSE_POINT:
                    errors.raise_win32(
                        "NtSetInformationFile", errors.ERROR_REPARSE_POINT_ENCOUNTERED, path=self.join(path)
                    )
                self._link_into(source, parent, name)

    def _link_into(self, source: files.WinFile, parent: files.WinFile, name: str) -> None:
        """FILE_LINK_INFORMATION: u8 replace, padding to 8, u64 root handle, u32 size in bytes, the name."""
        units = name.encode("utf-16-le", "surrogatepass")
        info = bytes(8) + parent.handle.to_bytes(8, "little") + len(units).to_bytes(4, "little") + units
        # Names of one unit leave it shorter than the structure with its padding, which is refused.
        info = info.ljust(_MIN_LINK_INFORMATION, b"\0")
        self._set_information(source, _CLASS_LINK, info, f"{parent.path}\\{name}")

    @staticmethod
    def _set_information(file: files.WinFile, info_class: int, info: bytes, path: str) -> None:
        status = ffi.ntdll().NtSetInformationFile(
            file.handle, ctypes.byref(ffi.IoStatusBlock()), info, len(info), info_class
        )
        errors.check_ntstatus("NtSetInformationFile", status, path=path)

    # -- removing --

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        """Remove the file, empty directory or reparse point *path*, read-only or not."""
        try:
            file = self.open_relative(
                path,
                files.FILE_READ_ATTRIBUTES | files.FILE_WRITE_ATTRIBUTES | files.DELETE,
                files.SHARE_ALL,
                FILE_OPEN,
                FILE_OPEN_REPARSE_POINT,
            )
        except errors.HcsNotFoundError:
            if missing_ok:
                return
            raise
        with file:
            try:
                self._delete_on_close(file)
            except errors.HcsAccessDeniedError:
                # Likely a read-only file: clear the bit, and let a second refusal stand.
                _clear_read_only(file)
                self._delete_on_close(file)

    def _delete_on_close(self, file: files.WinFile) -> None:
        # Class 64 came with Windows 10 1607; older builds (and other implementations) know class 13 alone.
        try:
            flags = _DISPOSITION_DELETE.to_bytes(8, "little")
            self._set_information(file, _CLASS_DISPOSITION_EX, flags, file.path)
        except HcsError as error:
            if errors.win32_code(error) == errors.ERROR_ACCESS_DENIED:
                raise
            self._set_information(file, _CLASS_DISPOSITION, b"\x01", file.path)

    def remove_all(self, path: str) -> None:
        """Remove *path* and, of a directory, all that is in it; nothing there is fine.

        All is tried; the first error is raised at the end.
        """
        first: HcsError | None = None
        stack = [(path, False)]  # True: a directory, of which all has been tried that is in it
        while stack:
            current, emptied = stack.pop()
            try:
                found = None if emptied else self.stat(current)
                if found is not None and (found.attributes & _DIRECTORY_OR_POINT) == FileAttributes.DIRECTORY:
                    names = self.list(current)
                    stack.append((current, True))
                    stack.extend((f"{current}\\{name}", False) for name in reversed(names))
                elif emptied or found is not None:
                    self.remove(current, missing_ok=True)
            except HcsError as error:
                first = first or error
        if first is not None:
            raise first

    # -- listing --

    def list(self, path: str) -> list[str]:
        """The names in the directory *path*, in the order of their UTF-8 bytes (as Go sorts them).

        By a handle opened for backup, so that the privilege reaches directories that nobody may list.
        """
        directory = self.open_relative(
            path, files.FILE_LIST_DIRECTORY, files.SHARE_ALL, FILE_OPEN, FILE_DIRECTORY_FILE
        )
        with directory:
            return sorted(directory.names(), key=lambda name: name.encode("utf-8", "surrogatepass"))

    def walk(self, path: str, *, skip: Callable[[WalkEntry], bool] | None = None) -> Iterator[WalkEntry]:
        """*path* and all below it, parents first, names in `list`'s order; links are not followed.

        Args:
            path: where to begin.
            skip: what is left out, with all below it.

        Raises:
            HcsNotFoundError: there is nothing at *path*.
        """
        found = self.look(path)
        if found is None:
            errors.raise_win32("NtCreateFile", errors.ERROR_FILE_NOT_FOUND, path=self.join(path))
        stack = [found]
        while stack:
            entry = stack.pop()
            if skip is not None and skip(entry):
                continue
            yield entry
            if entry.descends:
                prefix = "" if entry.path == "." else f"{entry.path}\\"
                below = [self.look(prefix + name) for name in self.list(entry.path)]
                stack.extend(child for child in reversed(below) if child is not None)


def _clear_read_only(file: files.WinFile) -> None:
    """Clear the read-only bit; what fails here shows in the next call on the file."""
    attributes = file.basic_info().attributes
    if attributes & FileAttributes.READONLY:
        left = attributes & ~FileAttributes.READONLY
        file.set_basic_info(FileMetadata(left or FileAttributes.NORMAL))
