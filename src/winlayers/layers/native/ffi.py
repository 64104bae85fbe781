"""The signatures of every function of Windows that this package calls, and the structures that they take.

The DLLs are typed as protocols and loaded on first use, so that the module can be imported, type-checked and
tested with stand-ins on any operating system.  Handles are :data:`Handle`: plain integers of their own type.

Functions that report failure through ``GetLastError`` are declared on libraries that keep it
(``use_last_error``); HRESULT and NTSTATUS come back as unsigned integers and are judged in
:mod:`winlayers.layers.native.errors`, since ``ctypes.HRESULT`` would raise with a signed code.

Sources: the Win32 and NT headers as documented by Microsoft (fileapi.h, winbase.h, winternl.h, virtdisk.h,
winnt.h); hcsshim ``internal/wclayer`` and ``internal/vmcompute`` for ``vmcompute.dll``, which has no public
header, and hcsshim of 2016 (``importlayer.go``, ``exportlayer.go``) for its streaming calls.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping, Sequence
from ctypes import (
    POINTER,
    c_int32,
    c_int64,
    c_size_t,
    c_ubyte,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    c_wchar_p,
)
from typing import Any, NewType, Protocol, TypeAlias, cast

from winlayers.errors import InvalidNameError, UnsupportedError

Handle = NewType("Handle", int)
"""A kernel handle."""

NO_HANDLE = Handle(0)
INVALID_HANDLE_VALUE = Handle(2**64 - 1)

Out: TypeAlias = Any
"""What ``ctypes.byref`` or an array or structure instance is where C wants a pointer (ctypes has no type)."""

# -- structures -------------------------------------------------------------------------------------


class Guid(ctypes.Structure):
    """GUID: Data1 u32, Data2 u16, Data3 u16, Data4 8 bytes; 16 bytes as ``uuid.UUID.bytes_le`` has them."""

    _fields_ = [("data", c_ubyte * 16)]


class FileBasicInfo(ctypes.Structure):
    """FILE_BASIC_INFO: four FILETIMEs and the attributes, 40 bytes with padding."""

    _fields_ = [
        ("creation_time", c_int64),
        ("last_access_time", c_int64),
        ("last_write_time", c_int64),
        ("change_time", c_int64),
        ("file_attributes", c_uint32),
        ("padding", c_uint32),
    ]


class FileStandardInfo(ctypes.Structure):
    """FILE_STANDARD_INFO."""

    _fields_ = [
        ("allocation_size", c_int64),
        ("end_of_file", c_int64),
        ("number_of_links", c_uint32),
        ("delete_pending", c_ubyte),
        ("directory", c_ubyte),
    ]


class FileIdInfo(ctypes.Structure):
    """FILE_ID_INFO: the volume's serial number and the file's 128-bit id."""

    _fields_ = [("volume_serial_number", c_uint64), ("file_id", c_ubyte * 16)]


class FileAttributeTagInfo(ctypes.Structure):
    """FILE_ATTRIBUTE_TAG_INFO: the attributes and, of a reparse point, the tag."""

    _fields_ = [("file_attributes", c_uint32), ("reparse_tag", c_uint32)]


class IoStatusBlock(ctypes.Structure):
    """IO_STATUS_BLOCK."""

    _fields_ = [("status", c_size_t), ("information", c_size_t)]


class UnicodeString(ctypes.Structure):
    """UNICODE_STRING; the lengths are in bytes."""

    _fields_ = [
        ("length", c_uint16),
        ("maximum_length", c_uint16),
        ("buffer", c_void_p),
    ]


class ObjectAttributes(ctypes.Structure):
    """OBJECT_ATTRIBUTES."""

    _fields_ = [
        ("length", c_uint32),
        ("root_directory", c_void_p),
        ("object_name", POINTER(UnicodeString)),
        ("attributes", c_uint32),
        ("security_descriptor", c_void_p),
        ("security_quality_of_service", c_void_p),
    ]


class LuidAndAttributes(ctypes.Structure):
    """LUID_AND_ATTRIBUTES: 12 bytes, so the LUID is two words here."""

    _fields_ = [
        ("luid_low", c_uint32),
        ("luid_high", c_int32),
        ("attributes", c_uint32),
    ]


class DriverInfoStruct(ctypes.Structure):
    """HCS's DriverInfo: the flavour (an int that hcsshim passes as 64 bits) and the home folder."""

    _fields_ = [("flavour", c_int64), ("home_dir", c_wchar_p)]


class LayerDescriptor(ctypes.Structure):
    """WC_LAYER_DESCRIPTOR: the layer's GUID, flags (bit 31: dirty), its folder's path."""

    _fields_ = [("layer_id", Guid), ("flags", c_uint32), ("path", c_wchar_p)]


class VirtualStorageType(ctypes.Structure):
    """VIRTUAL_STORAGE_TYPE; all zero: let Windows tell from the file."""

    _fields_ = [("device_id", c_uint32), ("vendor_id", Guid)]


class OpenVirtualDiskParameters(ctypes.Structure):
    """OPEN_VIRTUAL_DISK_PARAMETERS, version 2."""

    _fields_ = [
        ("version", c_uint32),
        ("get_info_only", c_int32),
        ("read_only", c_int32),
        ("resiliency_guid", Guid),
    ]


class OsVersionInfo(ctypes.Structure):
    """RTL_OSVERSIONINFOW."""

    _fields_ = [
        ("size", c_uint32),
        ("major", c_uint32),
        ("minor", c_uint32),
        ("build", c_uint32),
        ("platform", c_uint32),
        ("service_pack", c_uint16 * 128),
    ]


# -- the libraries ----------------------------------------------------------------------------------


class Kernel32(Protocol):
    """The functions of kernel32.dll that are used; BOOL results are 0 on failure."""

    def CreateFileW(
        self,
        name: str,
        access: int,
        share: int,
        security: None,
        disposition: int,
        flags: int,
        template: None,
        /,
    ) -> Handle | None: ...
    def CloseHandle(self, handle: Handle, /) -> int: ...
    def ReadFile(self, handle: Handle, buffer: Out, size: int, read: Out, overlapped: None, /) -> int: ...
    def WriteFile(self, handle: Handle, data: Out, size: int, written: Out, overlapped: None, /) -> int: ...
    def SetFilePointerEx(self, handle: Handle, distance: int, position: Out, method: int, /) -> int: ...
    def GetFileInformationByHandleEx(
        self, handle: Handle, info_class: int, info: Out, size: int, /
    ) -> int: ...
    def SetFileInformationByHandle(self, handle: Handle, info_class: int, info: Out, size: int, /) -> int: ...
    def DeviceIoControl(
        self,
        handle: Handle,
        code: int,
        data: Out,
        data_size: int,
        buffer: Out,
        buffer_size: int,
        returned: Out,
        overlapped: None,
        /,
    ) -> int: ...
    def BackupRead(
        self, handle: Handle, buffer: Out, size: int, read: Out, abort: int, security: int, context: Out, /
    ) -> int: ...
    def BackupWrite(
        self, handle: Handle, data: Out, size: int, written: Out, abort: int, security: int, context: Out, /
    ) -> int: ...
    def GetVolumePathNameW(self, name: str, buffer: Out, size: int, /) -> int: ...
    def GetVolumeInformationW(
        self,
        root: str,
        name: None,
        name_size: int,
        serial: None,
        component: None,
        flags: None,
        system: Out,
        system_size: int,
        /,
    ) -> int: ...
    def GetDiskFreeSpaceExW(self, name: str, available: Out, total: Out, free: Out, /) -> int: ...
    def GetCurrentThread(self) -> Handle: ...


class Ntdll(Protocol):
    """The functions of ntdll.dll that are used; results are NTSTATUS, 0 being success."""

    def NtCreateFile(
        self,
        handle: Out,
        access: int,
        attributes: Out,
        status: Out,
        allocation: None,
        file_attributes: int,
        share: int,
        disposition: int,
        options: int,
        eas: None,
        ea_size: int,
        /,
    ) -> int: ...
    def NtSetInformationFile(
        self, handle: Handle, status: Out, info: Out, size: int, info_class: int, /
    ) -> int: ...
    def NtQueryInformationFile(
        self, handle: Handle, status: Out, info: Out, size: int, info_class: int, /
    ) -> int: ...
    def RtlNtStatusToDosError(self, status: int, /) -> int: ...
    def RtlGetVersion(self, info: Out, /) -> int: ...


class Advapi32(Protocol):
    """The functions of advapi32.dll that are used; BOOL results are 0 on failure."""

    def ImpersonateSelf(self, level: int, /) -> int: ...
    def RevertToSelf(self) -> int: ...
    def OpenThreadToken(self, thread: Handle, access: int, as_self: int, token: Out, /) -> int: ...
    def SetThreadToken(self, thread: None, token: Handle, /) -> int: ...
    def LookupPrivilegeValueW(self, system: None, name: str, luid: Out, /) -> int: ...
    def GetKernelObjectSecurity(
        self, handle: Handle, parts: int, descriptor: Out, size: int, needed: Out, /
    ) -> int: ...
    def SetKernelObjectSecurity(self, handle: Handle, parts: int, descriptor: Out, /) -> int: ...
    def AdjustTokenPrivileges(
        self, token: Handle, disable_all: int, state: Out, size: int, previous: None, needed: None, /
    ) -> int: ...


class Virtdisk(Protocol):
    """The functions of virtdisk.dll that are used; results are Win32 error codes."""

    def OpenVirtualDisk(
        self, storage_type: Out, path: str, access: int, flags: int, parameters: Out, handle: Out, /
    ) -> int: ...
    def AttachVirtualDisk(
        self, handle: Handle, security: None, flags: int, provider: int, parameters: None, overlapped: None, /
    ) -> int: ...
    def DetachVirtualDisk(self, handle: Handle, flags: int, provider: int, /) -> int: ...


class Ole32(Protocol):
    """The function of ole32.dll that frees what HCS allocates."""

    def CoTaskMemFree(self, pointer: int, /) -> None: ...


class VmCompute(Protocol):
    """The layer and compute system functions of vmcompute.dll; results are HRESULTs.

    Which of them exist depends on the build: see :func:`optional`.
    """

    def ActivateLayer(self, info: Out, layer: str, /) -> int: ...
    def CopyLayer(self, info: Out, source: str, target: str, layers: Out, count: int, /) -> int: ...
    def CreateLayer(self, info: Out, layer: str, parent: str, /) -> int: ...
    def CreateSandboxLayer(self, info: Out, layer: str, parent: int, layers: Out, count: int, /) -> int: ...
    def DeactivateLayer(self, info: Out, layer: str, /) -> int: ...
    def DestroyLayer(self, info: Out, layer: str, /) -> int: ...
    def ExpandSandboxSize(self, info: Out, layer: str, size: int, /) -> int: ...
    def ExportLayer(self, info: Out, layer: str, folder: str, layers: Out, count: int, /) -> int: ...
    def GetBaseImages(self, text: Out, /) -> int: ...
    def GetLayerMountPath(self, info: Out, layer: str, length: Out, buffer: Out, /) -> int: ...
    def GrantVmAccess(self, vm: str, path: str, /) -> int: ...
    def ImportLayer(self, info: Out, layer: str, folder: str, layers: Out, count: int, /) -> int: ...
    def LayerExists(self, info: Out, layer: str, exists: Out, /) -> int: ...
    def NameToGuid(self, name: str, guid: Out, /) -> int: ...
    def PrepareLayer(self, info: Out, layer: str, layers: Out, count: int, /) -> int: ...
    def UnprepareLayer(self, info: Out, layer: str, /) -> int: ...
    def ProcessBaseImage(self, path: str, /) -> int: ...
    def ProcessUtilityImage(self, path: str, /) -> int: ...
    def ImportLayerBegin(self, info: Out, layer: str, layers: Out, count: int, context: Out, /) -> int: ...
    def ImportLayerNext(self, context: int, name: str, info: Out, /) -> int: ...
    def ImportLayerWrite(self, context: int, data: Out, size: int, /) -> int: ...
    def ImportLayerEnd(self, context: int, /) -> int: ...
    def ExportLayerBegin(self, info: Out, layer: str, layers: Out, count: int, context: Out, /) -> int: ...
    def ExportLayerNext(self, context: int, name: Out, info: Out, size: Out, deleted: Out, /) -> int: ...
    def ExportLayerRead(self, context: int, buffer: Out, size: int, read: Out, /) -> int: ...
    def ExportLayerEnd(self, context: int, /) -> int: ...
    def HcsEnumerateComputeSystems(self, query: str, systems: Out, result: Out, /) -> int: ...
    def HcsOpenComputeSystem(self, system_id: str, system: Out, result: Out, /) -> int: ...
    def HcsGetComputeSystemProperties(
        self, system: Handle, query: str, properties: Out, result: Out, /
    ) -> int: ...
    def HcsRegisterComputeSystemCallback(
        self, system: Handle, callback: Out, context: int, handle: Out, /
    ) -> int: ...
    def HcsUnregisterComputeSystemCallback(self, handle: Handle, /) -> int: ...
    def HcsTerminateComputeSystem(self, system: Handle, options: str, result: Out, /) -> int: ...
    def HcsCloseComputeSystem(self, system: Handle, /) -> int: ...


# -- signatures: result type, argument types --------------------------------------------------------

_P = c_void_p  # a pointer to what the caller passes with byref, an array, or None
_Signature: TypeAlias = tuple[Any, Sequence[Any]]

_LAYER: Sequence[Any] = [_P, c_wchar_p]
_CHAIN: Sequence[Any] = [_P, c_size_t]
_HRESULT = c_uint32

KERNEL32: Mapping[str, _Signature] = {
    "CreateFileW": (c_void_p, [c_wchar_p, c_uint32, c_uint32, _P, c_uint32, c_uint32, c_void_p]),
    "CloseHandle": (c_int32, [c_void_p]),
    "ReadFile": (c_int32, [c_void_p, _P, c_uint32, _P, _P]),
    "WriteFile": (c_int32, [c_void_p, _P, c_uint32, _P, _P]),
    "SetFilePointerEx": (c_int32, [c_void_p, c_int64, _P, c_uint32]),
    "GetFileInformationByHandleEx": (c_int32, [c_void_p, c_int32, _P, c_uint32]),
    "SetFileInformationByHandle": (c_int32, [c_void_p, c_int32, _P, c_uint32]),
    "DeviceIoControl": (c_int32, [c_void_p, c_uint32, _P, c_uint32, _P, c_uint32, _P, _P]),
    "BackupRead": (c_int32, [c_void_p, _P, c_uint32, _P, c_int32, c_int32, _P]),
    "BackupWrite": (c_int32, [c_void_p, _P, c_uint32, _P, c_int32, c_int32, _P]),
    "GetVolumePathNameW": (c_int32, [c_wchar_p, _P, c_uint32]),
    "GetVolumeInformationW": (c_int32, [c_wchar_p, _P, c_uint32, _P, _P, _P, _P, c_uint32]),
    "GetDiskFreeSpaceExW": (c_int32, [c_wchar_p, _P, _P, _P]),
    "GetCurrentThread": (c_void_p, []),
}

NTDLL: Mapping[str, _Signature] = {
    "NtCreateFile": (
        c_uint32,
        [_P, c_uint32, _P, _P, _P, c_uint32, c_uint32, c_uint32, c_uint32, _P, c_uint32],
    ),
    "NtSetInformationFile": (c_uint32, [c_void_p, _P, _P, c_uint32, c_uint32]),
    "NtQueryInformationFile": (c_uint32, [c_void_p, _P, _P, c_uint32, c_uint32]),
    "RtlNtStatusToDosError": (c_uint32, [c_uint32]),
    "RtlGetVersion": (c_uint32, [_P]),
}

ADVAPI32: Mapping[str, _Signature] = {
    "ImpersonateSelf": (c_int32, [c_int32]),
    "RevertToSelf": (c_int32, []),
    "OpenThreadToken": (c_int32, [c_void_p, c_uint32, c_int32, _P]),
    "SetThreadToken": (c_int32, [_P, c_void_p]),
    "LookupPrivilegeValueW": (c_int32, [c_wchar_p, c_wchar_p, _P]),
    "GetKernelObjectSecurity": (c_int32, [c_void_p, c_uint32, _P, c_uint32, _P]),
    "SetKernelObjectSecurity": (c_int32, [c_void_p, c_uint32, _P]),
    "AdjustTokenPrivileges": (c_int32, [c_void_p, c_int32, _P, c_uint32, _P, _P]),
}

VIRTDISK: Mapping[str, _Signature] = {
    "OpenVirtualDisk": (c_uint32, [_P, c_wchar_p, c_uint32, c_uint32, _P, _P]),
    "AttachVirtualDisk": (c_uint32, [c_void_p, _P, c_uint32, c_uint32, _P, _P]),
    "DetachVirtualDisk": (c_uint32, [c_void_p, c_uint32, c_uint32]),
}

OLE32: Mapping[str, _Signature] = {"CoTaskMemFree": (None, [c_void_p])}

VMCOMPUTE: Mapping[str, _Signature] = {
    "ActivateLayer": (_HRESULT, _LAYER),
    "CopyLayer": (_HRESULT, [*_LAYER, c_wchar_p, *_CHAIN]),
    "CreateLayer": (_HRESULT, [*_LAYER, c_wchar_p]),
    "CreateSandboxLayer": (_HRESULT, [*_LAYER, c_size_t, *_CHAIN]),
    "DeactivateLayer": (_HRESULT, _LAYER),
    "DestroyLayer": (_HRESULT, _LAYER),
    "ExpandSandboxSize": (_HRESULT, [*_LAYER, c_uint64]),
    "ExportLayer": (_HRESULT, [*_LAYER, c_wchar_p, *_CHAIN]),
    "GetBaseImages": (_HRESULT, [_P]),
    "GetLayerMountPath": (_HRESULT, [*_LAYER, _P, _P]),
    "GrantVmAccess": (_HRESULT, [c_wchar_p, c_wchar_p]),
    "ImportLayer": (_HRESULT, [*_LAYER, c_wchar_p, *_CHAIN]),
    "LayerExists": (_HRESULT, [*_LAYER, _P]),
    "NameToGuid": (_HRESULT, [c_wchar_p, _P]),
    "PrepareLayer": (_HRESULT, [*_LAYER, *_CHAIN]),
    "UnprepareLayer": (_HRESULT, _LAYER),
    "ProcessBaseImage": (_HRESULT, [c_wchar_p]),
    "ProcessUtilityImage": (_HRESULT, [c_wchar_p]),
    "ImportLayerBegin": (_HRESULT, [*_LAYER, *_CHAIN, _P]),
    "ImportLayerNext": (_HRESULT, [c_size_t, c_wchar_p, _P]),
    "ImportLayerWrite": (_HRESULT, [c_size_t, _P, c_size_t]),
    "ImportLayerEnd": (_HRESULT, [c_size_t]),
    "ExportLayerBegin": (_HRESULT, [*_LAYER, *_CHAIN, _P]),
    "ExportLayerNext": (_HRESULT, [c_size_t, _P, _P, _P, _P]),
    "ExportLayerRead": (_HRESULT, [c_size_t, _P, c_size_t, _P]),
    "ExportLayerEnd": (_HRESULT, [c_size_t]),
    "HcsEnumerateComputeSystems": (_HRESULT, [c_wchar_p, _P, _P]),
    "HcsOpenComputeSystem": (_HRESULT, [c_wchar_p, _P, _P]),
    "HcsGetComputeSystemProperties": (_HRESULT, [c_void_p, c_wchar_p, _P, _P]),
    "HcsRegisterComputeSystemCallback": (_HRESULT, [c_void_p, _P, c_size_t, _P]),
    "HcsUnregisterComputeSystemCallback": (_HRESULT, [c_void_p]),
    "HcsTerminateComputeSystem": (_HRESULT, [c_void_p, c_wchar_p, _P]),
    "HcsCloseComputeSystem": (_HRESULT, [c_void_p]),
    "HNSCall": (_HRESULT, [c_wchar_p, c_wchar_p, c_wchar_p, _P]),
}

# -- loading ----------------------------------------------------------------------------------------

_LOAD_LIBRARY_SEARCH_SYSTEM32 = 0x800


class _Library:
    """A loaded DLL whose functions get their signatures when first asked for."""

    def __init__(self, name: str, signatures: Mapping[str, _Signature]) -> None:
        self._name = name
        self._signatures = signatures
        self._dll = _load(name)

    def __getattr__(self, name: str) -> Any:
        try:
            restype, argtypes = self._signatures[name]
        except KeyError:
            raise AttributeError(f"{self._name} has no declared function {name}") from None
        try:
            function = getattr(self._dll, name)
        except AttributeError:
            raise UnsupportedError(f"this build of Windows has no {name} in {self._name}") from None
        function.restype = restype
        function.argtypes = argtypes
        setattr(self, name, function)
        return function


def _load(name: str) -> Any:
    library: Any = None
    if sys.platform == "win32":
        # From the system folder alone, as hcsshim does: a DLL of this name elsewhere must not be run.
        library = ctypes.WinDLL(name, winmode=_LOAD_LIBRARY_SEARCH_SYSTEM32, use_last_error=True)
    if library is None:
        raise UnsupportedError(f"{name} needs Windows")
    return library


@functools.cache
def kernel32() -> Kernel32:
    """kernel32.dll."""
    return cast(Kernel32, _Library("kernel32.dll", KERNEL32))


@functools.cache
def ntdll() -> Ntdll:
    """ntdll.dll."""
    return cast(Ntdll, _Library("ntdll.dll", NTDLL))


@functools.cache
def advapi32() -> Advapi32:
    """advapi32.dll."""
    return cast(Advapi32, _Library("advapi32.dll", ADVAPI32))


@functools.cache
def virtdisk() -> Virtdisk:
    """virtdisk.dll."""
    return cast(Virtdisk, _Library("virtdisk.dll", VIRTDISK))


@functools.cache
def ole32() -> Ole32:
    """ole32.dll."""
    return cast(Ole32, _Library("ole32.dll", OLE32))


@functools.cache
def vmcompute() -> VmCompute:
    """vmcompute.dll, the host compute service's library.

    Raises:
        UnsupportedError: this is not Windows, or the Containers feature is not installed.
    """
    try:
        return cast(VmCompute, _Library("vmcompute.dll", VMCOMPUTE))
    except FileNotFoundError:
        raise UnsupportedError(
            "vmcompute.dll is not there", hint="install the Windows feature 'Containers'"
        ) from None


def has_function(library: object, name: str) -> bool:
    """Whether this build's *library* exports *name*."""
    try:
        getattr(library, name)
    except (UnsupportedError, AttributeError):
        return False
    return True


def wide(text: str) -> str:
    """*text* itself, where C reads it as a null-terminated wide string.

    Raises:
        InvalidNameError: it holds a null character, which would cut it short.
    """
    if "\0" in text:
        raise InvalidNameError("a null character in a name or path", path=text)
    return text


def last_error() -> int:
    """The calling thread's last Win32 error code, as the last call through this module left it."""
    code = 0
    if sys.platform == "win32":
        code = ctypes.get_last_error()
    return code
