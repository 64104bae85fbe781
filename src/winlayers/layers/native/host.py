"""What kind of Windows this is, what file system a folder is on, and virtual disks."""

from __future__ import annotations

import ctypes
import dataclasses

from winlayers.errors import UnsupportedError
from winlayers.layers.native import errors, ffi, files, paths, vmcompute
from winlayers.layers.service import Flavour

BUILD_WINDOWS_10 = 10240
"""The first Windows 10; HCS came after it."""

BUILD_TP5 = 14300
"""Windows Server 2016 Technical Preview 5."""

BUILD_RS3 = 16299
"""Windows Server, version 1709."""

_MAX_PATH = 260
_OPEN_CACHED_IO = 0x8
_OPEN_IGNORE_RELATIVE_PARENT = 0x10
_ATTACH_BYPASS_ENCRYPTION_POLICY = 0x20

_IOCTL_DISK_GET_LENGTH_INFO = 0x0007405C
_FSCTL_EXTEND_VOLUME = 0x000900F0
_CLUSTER = 4096
_SECTOR = 512


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class OsVersion:
    """The version of Windows, unaffected by compatibility settings."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


def os_version() -> OsVersion:
    """RtlGetVersion."""
    info = ffi.OsVersionInfo(ctypes.sizeof(ffi.OsVersionInfo))
    errors.check_ntstatus("RtlGetVersion", ffi.ntdll().RtlGetVersion(ctypes.byref(info)))
    return OsVersion(info.major, info.minor, info.build)


def is_tp4() -> bool:
    """Whether this is Windows Server 2016 TP4, where layers move as whole folders only.

    hcsshim of 2016 asked whether vmcompute.dll lacked HNSCall; the build is asked too, so that a later
    Windows that moves HNSCall elsewhere is not taken for one from before it.
    """
    return BUILD_WINDOWS_10 <= os_version().build < BUILD_TP5 and not vmcompute.has_hns_call()


def file_system(path: str) -> str:
    """The type of the file system that *path* is on (``NTFS``), whether or not the path exists yet.

    Source: go-winio ``pkg/fs.GetFileSystemType``, which asks for the drive alone; mounted folders count here.
    """
    kernel32 = ffi.kernel32()
    root = ctypes.create_unicode_buffer(_MAX_PATH + 1)
    if not kernel32.GetVolumePathNameW(ffi.wide(path), root, len(root)):
        errors.raise_last_error("GetVolumePathNameW", path=path)
    name = ctypes.create_unicode_buffer(_MAX_PATH + 1)
    if not kernel32.GetVolumeInformationW(root.value, None, 0, None, None, None, name, len(name)):
        errors.raise_last_error("GetVolumeInformationW", path=root.value)
    return name.value


def refuse_refs(path: str) -> None:
    """Fail if *path* is on ReFS, on which the filter driver's layers don't work (source: dockerd).

    Raises:
        UnsupportedError: it is.
    """
    if file_system(path).upper() == "REFS":
        raise UnsupportedError(f"{path} is on an ReFS volume", hint="put the home folder on NTFS")


# -- virtual disks ----------------------------------------------------------------------------------


def _open_virtual_disk(path: str, flags: int) -> files.WinFile:
    parameters = ffi.OpenVirtualDiskParameters(2)
    handle = ctypes.c_void_p()
    code = ffi.virtdisk().OpenVirtualDisk(
        ctypes.byref(ffi.VirtualStorageType()),
        ffi.wide(path),
        0,
        flags,
        ctypes.byref(parameters),
        ctypes.byref(handle),
    )
    errors.check_win32("OpenVirtualDisk", code, path=path)
    return files.WinFile(ffi.Handle(handle.value or 0), path)


def detach_virtual_disk(path: str) -> None:
    """Detach the virtual disk file *path* (source: go-winio ``vhd.DetachVhd``)."""
    with _open_virtual_disk(path, _OPEN_CACHED_IO | _OPEN_IGNORE_RELATIVE_PARENT) as disk:
        errors.check_win32(
            "DetachVirtualDisk", ffi.virtdisk().DetachVirtualDisk(disk.handle, 0, 0), path=path
        )


def expand_scratch_volume(flavour: Flavour, layer_path: str) -> None:
    """Make the volume in a scratch layer's virtual disk as large as its partition.

    ``ExpandSandboxSize`` leaves that undone (source: hcsshim ``expandscratchsize.go``).
    """
    disk_path = f"{layer_path}\\sandbox.vhdx"
    with _open_virtual_disk(disk_path, 0) as disk:
        code = ffi.virtdisk().AttachVirtualDisk(
            disk.handle, None, _ATTACH_BYPASS_ENCRYPTION_POLICY, 0, None, None
        )
        errors.check_win32("AttachVirtualDisk", code, path=disk_path)
        # Attached for as long as the handle is open.
        volume_path = vmcompute.get_layer_mount_path(flavour, layer_path).removesuffix("\\")
        with _open_volume(volume_path) as volume:
            _extend(volume)


def _open_volume(path: str) -> files.WinFile:
    kernel32 = ffi.kernel32()
    access = files.GENERIC_READ | files.GENERIC_WRITE
    share = files.SHARE_READ | files.SHARE_WRITE
    # The flag does nothing to a volume; Go's os.OpenFile, which hcsshim uses, sets it for directories' sake.
    flags = files.FLAG_BACKUP_SEMANTICS
    handle = kernel32.CreateFileW(ffi.wide(path), access, share, None, files.OPEN_EXISTING, flags, None)
    if handle is None or handle == ffi.INVALID_HANDLE_VALUE:
        errors.raise_last_error("CreateFileW", path=path)
    return files.WinFile(handle, path)


def _extend(volume: files.WinFile) -> None:
    partition_size = int.from_bytes(volume.control(_IOCTL_DISK_GET_LENGTH_INFO, b"", 8), "little")
    clusters = partition_size // _CLUSTER
    total = ctypes.c_uint64()
    if not ffi.kernel32().GetDiskFreeSpaceExW(f"{volume.path}\\", None, ctypes.byref(total), None):
        errors.raise_last_error("GetDiskFreeSpaceExW", path=volume.path)
    if total.value // _CLUSTER + 1 < clusters:
        sectors = clusters * (_CLUSTER // _SECTOR)
        volume.control(_FSCTL_EXTEND_VOLUME, sectors.to_bytes(8, "little"), 0)


def detach_scratch(layer_path: str) -> None:
    """Detach ``sandbox.vhdx`` in the layer folder, if there is one."""
    disk = f"{layer_path}\\sandbox.vhdx"
    try:
        files.WinFile.open(
            paths.long_path(disk), files.FILE_READ_ATTRIBUTES, files.OPEN_EXISTING, files.SHARE_ALL
        ).close()
    except errors.HcsNotFoundError:
        return
    detach_virtual_disk(disk)
