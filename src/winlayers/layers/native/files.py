"""Files and directories opened for backup: their metadata, data, backup streams and reparse points.

Source: go-winio ``backup.go``, ``fileinfo.go`` and ``reparse.go`` for which calls are made and how.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from winlayers.errors import HcsError
from winlayers.layers.native import errors, ffi
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.names import decode_utf16

GENERIC_READ = 0x80000000
GENERIC_WRITE = 0x40000000
DELETE = 0x00010000
WRITE_DAC = 0x00040000
WRITE_OWNER = 0x00080000
SYNCHRONIZE = 0x00100000
ACCESS_SYSTEM_SECURITY = 0x01000000
FILE_LIST_DIRECTORY = 0x1
FILE_READ_ATTRIBUTES = 0x80
FILE_WRITE_ATTRIBUTES = 0x100

READ_SECURITY = GENERIC_READ | ACCESS_SYSTEM_SECURITY
RESTORE = GENERIC_READ | GENERIC_WRITE | WRITE_DAC | WRITE_OWNER | ACCESS_SYSTEM_SECURITY
"""The access that restoring a file with its security descriptor takes (source: hcsshim ``legacy.go``)."""

SHARE_READ = 0x1
SHARE_WRITE = 0x2
SHARE_DELETE = 0x4
SHARE_ALL = SHARE_READ | SHARE_WRITE | SHARE_DELETE

CREATE_NEW = 1
CREATE_ALWAYS = 2
OPEN_EXISTING = 3

FLAG_BACKUP_SEMANTICS = 0x02000000
_FLAG_OPEN_REPARSE_POINT = 0x00200000
_FLAG_SEQUENTIAL_SCAN = 0x08000000

_CLASS_BASIC = 0
_CLASS_STANDARD = 1
_CLASS_STREAM = 7
_CLASS_ATTRIBUTE_TAG = 9
_CLASS_ID_BOTH_DIRECTORY = 10
_CLASS_ID_BOTH_DIRECTORY_RESTART = 11
_CLASS_ID = 18
_NT_CLASS_EA = 7

_OWNER_GROUP_DACL_SACL = 0x0F
_AUTO_INHERITED = 0x0C00

_FSCTL_SET_REPARSE_POINT = 0x000900A4
_FSCTL_GET_REPARSE_POINT = 0x000900A8
_FSCTL_DELETE_REPARSE_POINT = 0x000900AC
_MAX_REPARSE_BUFFER = 16 * 1024

BUFFER_SIZE = 64 * 1024
"""The size of reads and writes; Windows rebuilds faster with no less than this (source: hcsshim)."""


class WinFile:
    """An open handle with the path that messages name; closes once, however often it is told to."""

    def __init__(self, handle: ffi.Handle, path: str) -> None:
        self._handle: ffi.Handle | None = handle
        self.path = path

    @classmethod
    def open(
        cls, path: str, access: int, disposition: int, share: int = SHARE_READ, *, sequential: bool = False
    ) -> Self:
        """Open *path* for backup: a directory too, and a reparse point itself rather than what it names.

        Raises:
            HcsError: as Windows refuses.
        """
        flags = FLAG_BACKUP_SEMANTICS | _FLAG_OPEN_REPARSE_POINT
        if sequential:
            flags |= _FLAG_SEQUENTIAL_SCAN
        handle = ffi.kernel32().CreateFileW(ffi.wide(path), access, share, None, disposition, flags, None)
        if handle is None or handle == ffi.INVALID_HANDLE_VALUE:
            errors.raise_last_error("CreateFileW", path=path)
        return cls(handle, path)

    @property
    def handle(self) -> ffi.Handle:
        """The handle, while open."""
        if self._handle is None:
            raise ValueError(f"{self.path} is closed")
        return self._handle

    def close(self) -> None:
        """Close the handle."""
        handle, self._handle = self._handle, None
        if handle is not None and not ffi.kernel32().CloseHandle(handle):
            errors.raise_last_error("CloseHandle", path=self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A handle that is forgotten would keep its folder from being removed for as long as the process runs.
        if getattr(self, "_handle", None) is not None:
            self.close()

    # -- metadata --

    def _query(self, info_class: int, info: ffi.Out) -> None:
        done = ffi.kernel32().GetFileInformationByHandleEx(
            self.handle, info_class, ctypes.byref(info), ctypes.sizeof(info)
        )
        if not done:
            errors.raise_last_error("GetFileInformationByHandleEx", path=self.path)

    def basic_info(self) -> FileMetadata:
        """The attributes and the four times (and nothing else of the metadata)."""
        info = ffi.FileBasicInfo()
        self._query(_CLASS_BASIC, info)
        return FileMetadata(
            FileAttributes(info.file_attributes),
            info.creation_time,
            info.last_access_time,
            info.last_write_time,
            info.change_time,
        )

    def set_basic_info(self, metadata: FileMetadata) -> None:
        """Set the attributes and times; what is 0 stays as it is."""
        info = ffi.FileBasicInfo(
            metadata.creation_time,
            metadata.access_time,
            metadata.write_time,
            metadata.change_time,
            int(metadata.attributes) & 0xFFFFFFFF,
        )
        done = ffi.kernel32().SetFileInformationByHandle(
            self.handle, _CLASS_BASIC, ctypes.byref(info), ctypes.sizeof(info)
        )
        if not done:
            errors.raise_last_error("SetFileInformationByHandle", path=self.path)

    def size(self) -> int:
        """The size of the unnamed stream in bytes."""
        info = ffi.FileStandardInfo()
        self._query(_CLASS_STANDARD, info)
        return int(info.end_of_file)

    def link_count(self) -> int:
        """The number of names that the file has."""
        info = ffi.FileStandardInfo()
        self._query(_CLASS_STANDARD, info)
        return int(info.number_of_links)

    def file_id(self) -> tuple[int, bytes]:
        """The volume's serial number and the file's id in it (16 bytes)."""
        info = ffi.FileIdInfo()
        self._query(_CLASS_ID, info)
        return int(info.volume_serial_number), bytes(info.file_id)

    def reparse_tag(self) -> int:
        """The reparse tag; 0 where the file is not a reparse point."""
        info = ffi.FileAttributeTagInfo()
        self._query(_CLASS_ATTRIBUTE_TAG, info)
        is_point = info.file_attributes & FileAttributes.REPARSE_POINT
        return int(info.reparse_tag) if is_point else 0

    def ea_size(self) -> int:
        """The size of the extended attributes in bytes; 0 where the file system can't tell."""
        size = ctypes.c_uint32()
        status = ffi.ntdll().NtQueryInformationFile(
            self.handle, ctypes.byref(ffi.IoStatusBlock()), ctypes.byref(size), 4, _NT_CLASS_EA
        )
        return 0 if status else size.value

    def has_alternate_streams(self) -> bool:
        """Whether there are streams beside the unnamed one; False where the file system can't tell.

        FILE_STREAM_INFO begins with the u32 offset of the next, 0 in the last; the unnamed stream is one.
        """
        buffer = ctypes.create_string_buffer(BUFFER_SIZE)
        told = ffi.kernel32().GetFileInformationByHandleEx(self.handle, _CLASS_STREAM, buffer, BUFFER_SIZE)
        return bool(told and any(buffer.raw[:4]))

    def security(self) -> bytes:
        """The self-relative security descriptor: owner, group and both lists.

        The file must have been opened with `READ_SECURITY`.
        """
        needed = ctypes.c_uint32()
        size = 0
        get = ffi.advapi32().GetKernelObjectSecurity
        while True:
            buffer = ctypes.create_string_buffer(size)
            if get(self.handle, _OWNER_GROUP_DACL_SACL, buffer, size, ctypes.byref(needed)):
                return buffer.raw[: needed.value]
            if ffi.last_error() != errors.ERROR_INSUFFICIENT_BUFFER or needed.value <= size:
                errors.raise_last_error("GetKernelObjectSecurity", path=self.path)
            size = needed.value

    def set_security(self, descriptor: bytes) -> None:
        """Set owner, group and both lists; the file must have been opened with `RESTORE`."""
        control = int.from_bytes(descriptor[2:4], "little")
        # A list stays marked as inherited only where setting it asks for that (SE_DACL_AUTO_INHERIT_REQ...).
        control |= (control & _AUTO_INHERITED) >> 2
        descriptor = descriptor[:2] + control.to_bytes(2, "little") + descriptor[4:]
        if not ffi.advapi32().SetKernelObjectSecurity(self.handle, _OWNER_GROUP_DACL_SACL, descriptor):
            errors.raise_last_error("SetKernelObjectSecurity", path=self.path)

    def names(self) -> Iterator[str]:
        """The names in the directory, in no order, without ``.`` and ``..``.

        FILE_ID_BOTH_DIR_INFO, one after the other: u32 offset of the next (0: the last in the buffer), ...,
        u32 size of the name in bytes at 60, the name at 104.
        """
        buffer = ctypes.create_string_buffer(BUFFER_SIZE)
        info_class = _CLASS_ID_BOTH_DIRECTORY_RESTART
        while ffi.kernel32().GetFileInformationByHandleEx(self.handle, info_class, buffer, BUFFER_SIZE):
            info_class = _CLASS_ID_BOTH_DIRECTORY
            data, start = buffer.raw, 0
            while True:
                following, size = (int.from_bytes(data[start + i : start + i + 4], "little") for i in (0, 60))
                name = decode_utf16(data[start + 104 : start + 104 + size])
                if name not in (".", ".."):
                    yield name
                if not following:
                    break
                start += following
        if ffi.last_error() != errors.ERROR_NO_MORE_FILES:
            errors.raise_last_error("GetFileInformationByHandleEx", path=self.path)

    # -- data --

    def read(self, size: int) -> bytes:
        """Up to *size* bytes of the unnamed stream from the current position; b"" at its end."""
        buffer = ctypes.create_string_buffer(size)
        count = ctypes.c_uint32()
        if not ffi.kernel32().ReadFile(self.handle, buffer, size, ctypes.byref(count), None):
            errors.raise_last_error("ReadFile", path=self.path)
        return buffer.raw[: count.value]

    def write(self, data: bytes) -> None:
        """Write all of *data* at the current position."""
        view = memoryview(data)
        while view:
            count = ctypes.c_uint32()
            piece = bytes(view)
            if not ffi.kernel32().WriteFile(self.handle, piece, len(piece), ctypes.byref(count), None):
                errors.raise_last_error("WriteFile", path=self.path)
            view = view[count.value :]

    def seek(self, offset: int) -> None:
        """Set the position, counted from the start."""
        if not ffi.kernel32().SetFilePointerEx(self.handle, offset, None, 0):
            errors.raise_last_error("SetFilePointerEx", path=self.path)

    # -- reparse points --

    def control(self, code: int, data: bytes, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room) if room else None
        count = ctypes.c_uint32()
        done = ffi.kernel32().DeviceIoControl(
            self.handle, code, data or None, len(data), buffer, room, ctypes.byref(count), None
        )
        if not done:
            errors.raise_last_error("DeviceIoControl", path=self.path)
        return buffer.raw[: count.value] if buffer is not None else b""

    def reparse_buffer(self) -> bytes | None:
        """The whole reparse buffer (tag, length, reserved, data); None: not a reparse point."""
        try:
            return self.control(_FSCTL_GET_REPARSE_POINT, b"", _MAX_REPARSE_BUFFER)
        except HcsError as error:
            if error.code == errors.ERROR_NOT_A_REPARSE_POINT:
                return None
            raise

    def set_reparse_buffer(self, buffer: bytes) -> None:
        """Make the file a reparse point."""
        self.control(_FSCTL_SET_REPARSE_POINT, buffer, 0)

    def delete_reparse_point(self, tag: int) -> None:
        """Make a reparse point of *tag* (one of Microsoft's) an ordinary file or directory again."""
        self.control(_FSCTL_DELETE_REPARSE_POINT, tag.to_bytes(4, "little") + bytes(4), 0)

    # -- backup --

    def backup_reader(self, *, security: bool) -> BackupReader:
        """The file's backup stream; *security*: with its security descriptor."""
        return BackupReader(self, security=security)

    def backup_writer(self, *, security: bool) -> BackupWriter:
        """Restore the file from a backup stream; *security*: its security descriptor too."""
        return BackupWriter(self, security=security)


class BackupReader:
    """Reads a file's backup stream through ``BackupRead``, 64 KiB at a time.

    Args:
        file: the file, which stays open and is not closed.
        security: read the security descriptor too (source: go-winio ``NewBackupFileReader``).
    """

    def __init__(self, file: WinFile, *, security: bool) -> None:
        self._file = file
        self._security = int(security)
        self._context = ctypes.c_void_p()
        self._buffer = ctypes.create_string_buffer(BUFFER_SIZE)
        self._rest = memoryview(b"")
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes; b"" at the end."""
        if not self._rest and not self._ended:
            self._rest = memoryview(self._more())
            self._ended = not self._rest
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def _more(self) -> bytes:
        count = ctypes.c_uint32()
        done = ffi.kernel32().BackupRead(
            self._file.handle,
            self._buffer,
            BUFFER_SIZE,
            ctypes.byref(count),
            0,
            self._security,
            ctypes.byref(self._context),
        )
        if not done:
            errors.raise_last_error("BackupRead", path=self._file.path)
        return self._buffer.raw[: count.value]

    def close(self) -> None:
        """Release what Windows keeps for the reading; harmless when called twice."""
        self._ended = True
        self._rest = memoryview(b"")
        if self._context.value:
            ffi.kernel32().BackupRead(self._file.handle, None, 0, None, 1, 0, ctypes.byref(self._context))
            self._context = ctypes.c_void_p()


class BackupWriter:
    """Restores a file from a backup stream through ``BackupWrite``, in pieces of 64 KiB."""

    def __init__(self, file: WinFile, *, security: bool) -> None:
        self._file = file
        self._security = int(security)
        self._context = ctypes.c_void_p()
        self._pending = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Take in the next bytes of the stream."""
        self._pending += data
        while len(self._pending) >= BUFFER_SIZE:
            self._restore(bytes(self._pending[:BUFFER_SIZE]))
            del self._pending[:BUFFER_SIZE]

    def flush(self) -> None:
        """Hand over what is still held back."""
        if self._pending:
            data = bytes(self._pending)
            self._pending.clear()
            self._restore(data)

    def _restore(self, data: bytes) -> None:
        count = ctypes.c_uint32()
        done = ffi.kernel32().BackupWrite(
            self._file.handle,
            data,
            len(data),
            ctypes.byref(count),
            0,
            self._security,
            ctypes.byref(self._context),
        )
        if not done:
            errors.raise_last_error("BackupWrite", path=self._file.path)
        if count.value != len(data):
            raise HcsError(
                f"BackupWrite took {count.value} of {len(data)} bytes",
                function="BackupWrite",
                path=self._file.path,
            )

    def close(self) -> None:
        """Release what Windows keeps for the restore; what was not flushed is dropped."""
        self._pending.clear()
        if self._context.value:
            ffi.kernel32().BackupWrite(self._file.handle, None, 0, None, 1, 0, ctypes.byref(self._context))
            self._context = ctypes.c_void_p()


class RawReader(io.RawIOBase):
    """A `WinFile`'s unnamed stream as a Python stream; closing it closes the file."""

    def __init__(self, file: WinFile) -> None:
        super().__init__()
        self._file = file
        self.name = file.path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = ctypes.c_int64()
        if not ffi.kernel32().SetFilePointerEx(self._file.handle, offset, ctypes.byref(position), whence):
            errors.raise_last_error("SetFilePointerEx", path=self._file.path)
        return position.value

    def readinto(self, buffer: ffi.Out) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            try:
                self._file.close()
            finally:
                super().close()
