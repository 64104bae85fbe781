"""The layer functions of vmcompute.dll, one Python function for each.

Layers are named by the whole path of their folder, with an empty home folder in the driver information, and
every call that takes parents gets an array of descriptors: the GUID that the service makes of the folder's
name, no flags, the folder's path (source: hcsshim ``internal/wclayer``).
"""

from __future__ import annotations

import ctypes
import dataclasses
import ntpath
import threading
import uuid
from collections.abc import Sequence

from winlayers.errors import LayerError
from winlayers.layers.native import errors, ffi
from winlayers.layers.service import Flavour
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata

_prepare_lock = threading.Lock()
"""One PrepareLayer at a time in a process: two at once fail (source: hcsshim ``preparelayer.go``)."""

_MAX_MOUNT_PATH = 0x10000
"""More units than any path has; what claims more is not asked for it."""


def _driver_info(flavour: Flavour) -> ffi.Out:
    return ctypes.byref(ffi.DriverInfoStruct(int(flavour), ""))


# -- descriptors ------------------------------------------------------------------------------------


def name_to_guid(name: str) -> uuid.UUID:
    """The GUID that HCS knows the layer folder *name* by."""
    guid = ffi.Guid()
    errors.check_hresult("NameToGuid", ffi.vmcompute().NameToGuid(ffi.wide(name), ctypes.byref(guid)))
    return uuid.UUID(bytes_le=bytes(guid.data))


def layer_guid(path: str) -> uuid.UUID:
    """The GUID of the layer in the folder *path*."""
    return name_to_guid(ntpath.basename(path))


def descriptors(chain: Sequence[str]) -> ctypes.Array[ffi.LayerDescriptor] | None:
    """The array of descriptors of *chain*, nearest parent first; None where there is no parent."""
    if not chain:
        return None
    array = (ffi.LayerDescriptor * len(chain))()
    for descriptor, path in zip(array, chain, strict=True):
        descriptor.layer_id = ffi.Guid.from_buffer_copy(layer_guid(path).bytes_le)
        descriptor.flags = 0
        descriptor.path = ffi.wide(path)
    return array


# -- life -------------------------------------------------------------------------------------------


def layer_exists(flavour: Flavour, path: str) -> bool:
    """LayerExists."""
    exists = ctypes.c_uint32()
    hresult = ffi.vmcompute().LayerExists(_driver_info(flavour), ffi.wide(path), ctypes.byref(exists))
    errors.check_hresult("LayerExists", hresult, layer=path)
    return exists.value != 0


def create_layer(flavour: Flavour, path: str, parent: str) -> None:
    """CreateLayer: an empty read-only layer."""
    hresult = ffi.vmcompute().CreateLayer(_driver_info(flavour), ffi.wide(path), ffi.wide(parent))
    errors.check_hresult("CreateLayer", hresult, layer=path)


def create_sandbox_layer(flavour: Flavour, path: str, chain: Sequence[str]) -> None:
    """CreateSandboxLayer: a writable layer."""
    layers = descriptors(chain)
    hresult = ffi.vmcompute().CreateSandboxLayer(_driver_info(flavour), ffi.wide(path), 0, layers, len(chain))
    errors.check_hresult("CreateSandboxLayer", hresult, layer=path)


def expand_sandbox_size(flavour: Flavour, path: str, size: int) -> None:
    """ExpandSandboxSize: the virtual disk grows; the volume in it does not yet."""
    hresult = ffi.vmcompute().ExpandSandboxSize(_driver_info(flavour), ffi.wide(path), size)
    errors.check_hresult("ExpandSandboxSize", hresult, layer=path)


def copy_layer(flavour: Flavour, source: str, target: str, chain: Sequence[str]) -> None:
    """CopyLayer."""
    layers = descriptors(chain)
    hresult = ffi.vmcompute().CopyLayer(
        _driver_info(flavour), ffi.wide(source), ffi.wide(target), layers, len(chain)
    )
    errors.check_hresult("CopyLayer", hresult, layer=source)


def destroy_layer(flavour: Flavour, path: str) -> None:
    """DestroyLayer."""
    errors.check_hresult(
        "DestroyLayer", ffi.vmcompute().DestroyLayer(_driver_info(flavour), ffi.wide(path)), layer=path
    )


# -- views ------------------------------------------------------------------------------------------


def activate_layer(flavour: Flavour, path: str) -> None:
    """ActivateLayer."""
    errors.check_hresult(
        "ActivateLayer", ffi.vmcompute().ActivateLayer(_driver_info(flavour), ffi.wide(path)), layer=path
    )


def deactivate_layer(flavour: Flavour, path: str) -> None:
    """DeactivateLayer."""
    errors.check_hresult(
        "DeactivateLayer", ffi.vmcompute().DeactivateLayer(_driver_info(flavour), ffi.wide(path)), layer=path
    )


def prepare_layer(flavour: Flavour, path: str, chain: Sequence[str]) -> None:
    """PrepareLayer, one at a time."""
    layers = descriptors(chain)
    with _prepare_lock:
        hresult = ffi.vmcompute().PrepareLayer(_driver_info(flavour), ffi.wide(path), layers, len(chain))
    errors.check_hresult("PrepareLayer", hresult, layer=path)


def unprepare_layer(flavour: Flavour, path: str) -> None:
    """UnprepareLayer."""
    errors.check_hresult(
        "UnprepareLayer", ffi.vmcompute().UnprepareLayer(_driver_info(flavour), ffi.wide(path)), layer=path
    )


def get_layer_mount_path(flavour: Flavour, path: str) -> str:
    """GetLayerMountPath: one call for the length in units, a second one for the text."""
    vmcompute = ffi.vmcompute()
    length = ctypes.c_size_t()
    hresult = vmcompute.GetLayerMountPath(_driver_info(flavour), ffi.wide(path), ctypes.byref(length), None)
    errors.check_hresult("GetLayerMountPath", hresult, layer=path)
    if length.value == 0:
        return ""
    if length.value > _MAX_MOUNT_PATH:
        raise LayerError(f"GetLayerMountPath claims a path of {length.value} characters", layer=path)
    buffer = ctypes.create_unicode_buffer(length.value)
    hresult = vmcompute.GetLayerMountPath(_driver_info(flavour), ffi.wide(path), ctypes.byref(length), buffer)
    errors.check_hresult("GetLayerMountPath", hresult, layer=path)
    return buffer.value


# -- content ----------------------------------------------------------------------------------------


def import_layer(flavour: Flavour, path: str, folder: str, chain: Sequence[str]) -> None:
    """ImportLayer: fill the layer from *folder*, which is in the transport format."""
    layers = descriptors(chain)
    hresult = ffi.vmcompute().ImportLayer(
        _driver_info(flavour), ffi.wide(path), ffi.wide(folder), layers, len(chain)
    )
    errors.check_hresult("ImportLayer", hresult, layer=path)


def export_layer(flavour: Flavour, path: str, folder: str, chain: Sequence[str]) -> None:
    """ExportLayer: write the layer to *folder* in the transport format."""
    layers = descriptors(chain)
    hresult = ffi.vmcompute().ExportLayer(
        _driver_info(flavour), ffi.wide(path), ffi.wide(folder), layers, len(chain)
    )
    errors.check_hresult("ExportLayer", hresult, layer=path)


def process_base_image(path: str) -> None:
    """ProcessBaseImage."""
    errors.check_hresult("ProcessBaseImage", ffi.vmcompute().ProcessBaseImage(ffi.wide(path)), layer=path)


def process_utility_image(path: str) -> None:
    """ProcessUtilityImage."""
    errors.check_hresult(
        "ProcessUtilityImage", ffi.vmcompute().ProcessUtilityImage(ffi.wide(path)), layer=path
    )


# -- the host ---------------------------------------------------------------------------------------


def take_string(pointer: ctypes.c_void_p) -> str:
    """The wide string at *pointer*, which HCS allocated and which is freed here; "" for none."""
    if not pointer.value:
        return ""
    try:
        return ctypes.wstring_at(pointer.value)
    finally:
        ffi.ole32().CoTaskMemFree(pointer.value)


def get_base_images() -> str:
    """GetBaseImages: the shared base images as JSON text."""
    text = ctypes.c_void_p()
    errors.check_hresult("GetBaseImages", ffi.vmcompute().GetBaseImages(ctypes.byref(text)))
    return take_string(text)


def grant_vm_access(vm_id: str, path: str) -> None:
    """GrantVmAccess."""
    errors.check_hresult(
        "GrantVmAccess", ffi.vmcompute().GrantVmAccess(ffi.wide(vm_id), ffi.wide(path)), path=path
    )


# -- streaming --------------------------------------------------------------------------------------


def has_streaming() -> bool:
    """Whether this build exports the streaming calls (some of Server 2016's previews did)."""
    vmcompute = ffi.vmcompute()
    return ffi.has_function(vmcompute, "ImportLayerBegin") and ffi.has_function(vmcompute, "ExportLayerBegin")


def has_hns_call() -> bool:
    """Whether this build exports HNSCall, which Server 2016 TP4 did not yet (source: hcsshim of 2016)."""
    return ffi.has_function(ffi.vmcompute(), "HNSCall")


def _rooted(name: str) -> str:
    return ffi.wide(name if name.startswith("\\") else f"\\{name}")


class ImportStream:
    """ImportLayerBegin, Next, Write and End: a layer written entry by entry."""

    def __init__(self, flavour: Flavour, path: str, chain: Sequence[str]) -> None:
        self._layer = path
        self._context = ctypes.c_size_t()
        layers = descriptors(chain)
        hresult = ffi.vmcompute().ImportLayerBegin(
            _driver_info(flavour), ffi.wide(path), layers, len(chain), ctypes.byref(self._context)
        )
        errors.check_hresult("ImportLayerBegin", hresult, layer=path)

    def next(self, name: str, metadata: FileMetadata | None) -> None:
        r"""Begin the entry *name* (``Files\a.txt``); no metadata: the entry is deleted."""
        info = None
        if metadata is not None:
            info = ctypes.byref(
                ffi.FileBasicInfo(
                    metadata.creation_time,
                    metadata.access_time,
                    metadata.write_time,
                    metadata.change_time,
                    int(metadata.attributes) & 0xFFFFFFFF,
                )
            )
        hresult = ffi.vmcompute().ImportLayerNext(self._context.value, _rooted(name), info)
        errors.check_hresult("ImportLayerNext", hresult, layer=self._layer, path=name)

    def write(self, data: bytes) -> None:
        """Write the next bytes of the entry's backup stream."""
        hresult = ffi.vmcompute().ImportLayerWrite(self._context.value, data, len(data))
        errors.check_hresult("ImportLayerWrite", hresult, layer=self._layer)

    def close(self) -> None:
        """End the import; harmless when called twice."""
        context, self._context = self._context, ctypes.c_size_t()
        if context.value:
            hresult = ffi.vmcompute().ImportLayerEnd(context.value)
            errors.check_hresult("ImportLayerEnd", hresult, layer=self._layer)


@dataclasses.dataclass(frozen=True, slots=True)
class ExportedEntry:
    """One entry of an :class:`ExportStream`.

    Attributes:
        name: its path in the layer, with ``\\`` between the parts.
        size: the size of its data in bytes.
        metadata: attributes and times; None: the entry says that the path is deleted.
    """

    name: str
    size: int
    metadata: FileMetadata | None


class ExportStream:
    """ExportLayerBegin, Next, Read and End: a layer read entry by entry."""

    _BUFFER = 64 * 1024

    def __init__(self, flavour: Flavour, path: str, chain: Sequence[str]) -> None:
        self._layer = path
        self._context = ctypes.c_size_t()
        layers = descriptors(chain)
        hresult = ffi.vmcompute().ExportLayerBegin(
            _driver_info(flavour), ffi.wide(path), layers, len(chain), ctypes.byref(self._context)
        )
        errors.check_hresult("ExportLayerBegin", hresult, layer=path)

    def next(self) -> ExportedEntry | None:
        """The next entry; None at the end."""
        name = ctypes.c_void_p()
        info = ffi.FileBasicInfo()
        size = ctypes.c_int64()
        deleted = ctypes.c_uint32()
        hresult = ffi.vmcompute().ExportLayerNext(
            self._context.value,
            ctypes.byref(name),
            ctypes.byref(info),
            ctypes.byref(size),
            ctypes.byref(deleted),
        )
        if errors.win32_from_hresult(hresult) == errors.ERROR_NO_MORE_FILES:
            return None
        errors.check_hresult("ExportLayerNext", hresult, layer=self._layer)
        metadata = FileMetadata(
            FileAttributes(info.file_attributes),
            info.creation_time,
            info.last_access_time,
            info.last_write_time,
            info.change_time,
        )
        return ExportedEntry(
            take_string(name).removeprefix("\\"), size.value, None if deleted.value else metadata
        )

    def read(self) -> bytes:
        """The next bytes of the entry's backup stream; b"" at its end."""
        buffer = ctypes.create_string_buffer(self._BUFFER)
        count = ctypes.c_uint32()
        hresult = ffi.vmcompute().ExportLayerRead(
            self._context.value, buffer, self._BUFFER, ctypes.byref(count)
        )
        errors.check_hresult("ExportLayerRead", hresult, layer=self._layer)
        return buffer.raw[: count.value]

    def close(self) -> None:
        """End the export; harmless when called twice."""
        context, self._context = self._context, ctypes.c_size_t()
        if context.value:
            hresult = ffi.vmcompute().ExportLayerEnd(context.value)
            errors.check_hresult("ExportLayerEnd", hresult, layer=self._layer)
