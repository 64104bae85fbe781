"""A small Windows image that can be made anywhere, always the same bytes: for the demo, tests and benchmarks.

Three layers in the shapes that real ones have:

1. a base: ``Files``, ``Hives``, ``UtilityVM``; files of WinSxS hard-linked into System32, security
   descriptors, extended attributes, alternate data streams, a junction, a symbolic link, names beyond ASCII;
2. an update: directory names in another letter case, replaced, deleted and re-linked files, a whiteout of
   what is not there, hive deltas;
3. an application, with few vendor records, as Linux tools write it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from winlayers.images import mediatypes
from winlayers.images.compression import Compressor
from winlayers.images.digest import digest_of
from winlayers.images.documents import Descriptor, compact_json, manifest_bytes
from winlayers.images.layout import OciLayout
from winlayers.images.platforms import Platform
from winlayers.layers.service import EntryKind, LayerEntry
from winlayers.tar import TarHeader, TarWriter
from winlayers.tar.backuptar import write_layer_entry
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.regf import minimal_hive
from winlayers.win32.reparse import MountPoint, SymbolicLink
from winlayers.win32.security import sddl_to_bytes

TAG = "sample"
OS_VERSION = "10.0.20348.2227"
_TIME = 133_486_272_001_234_567
"""2024-01-02 and a fraction that seconds and nanoseconds of a power of two would lose."""
_INSTALLER = sddl_to_bytes(
    "O:S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
    "G:S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
    "D:PAI(A;OICIIO;GA;;;CO)(A;OICIIO;GA;;;SY)(A;;0x1301bf;;;SY)(A;OICIIO;GA;;;BA)(A;;0x1301bf;;;BA)"
    "(A;OICIIO;GXGR;;;BU)(A;;0x1200a9;;;BU)"
)
_PLAIN = sddl_to_bytes("O:BAG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)")


def _metadata(
    attributes: FileAttributes,
    *,
    tick: int = 0,
    security: bytes | None = _PLAIN,
    eas: tuple[ExtendedAttribute, ...] = (),
    reparse: bytes | None = None,
) -> FileMetadata:
    time = _TIME + tick * 10_000_000
    return FileMetadata(attributes, time, time + 1, time + 2, time + 3, security, eas, reparse)


class _Layer:
    """Collects a layer's members."""

    def __init__(self, tick: int) -> None:
        self._out = io.BytesIO()
        self._writer = TarWriter(self._out)
        self._tick = tick

    def _put(self, entry: LayerEntry, streams: Sequence[DataStream] = ()) -> None:
        for _ in write_layer_entry(self._writer, entry, streams):
            pass

    def directory(self, path: str, *, security: bytes | None = _PLAIN, reparse: bytes | None = None) -> None:
        attributes = FileAttributes.DIRECTORY
        if reparse is not None:
            attributes |= FileAttributes.REPARSE_POINT
        metadata = _metadata(attributes, tick=self._tick, security=security, reparse=reparse)
        self._put(LayerEntry(path, EntryKind.DIRECTORY, metadata))

    def file(
        self,
        path: str,
        data: bytes,
        *,
        attributes: FileAttributes = FileAttributes.ARCHIVE,
        security: bytes | None = _PLAIN,
        eas: tuple[ExtendedAttribute, ...] = (),
        streams: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        metadata = _metadata(attributes, tick=self._tick, security=security, eas=eas)
        parts = [DataStream(name, len(content), [content]) for name, content in (("", data), *streams)]
        self._put(LayerEntry(path, EntryKind.FILE, metadata, len(data)), parts)

    def symbolic_link(self, path: str, target: str) -> None:
        metadata = _metadata(
            FileAttributes.ARCHIVE | FileAttributes.REPARSE_POINT,
            tick=self._tick,
            reparse=SymbolicLink.to(target).to_bytes(),
        )
        self._put(LayerEntry(path, EntryKind.FILE, metadata))

    def hard_link(self, path: str, target: str) -> None:
        self._put(LayerEntry(path, EntryKind.LINK, link_target=target))

    def whiteout(self, path: str) -> None:
        self._put(LayerEntry(path, EntryKind.WHITEOUT))

    def bare(self, name: str, data: bytes | None = None) -> None:
        """A member without vendor records, as tools on Linux write it."""
        header = TarHeader(name, mtime=(1_700_000_000, 0), mode=0o755 if data is None else 0o644)
        if data is None:
            header.typeflag = "5"
        else:
            header.size = len(data)
        self._writer.write_header(header)
        if data is not None:
            self._writer.write(data)

    def tar(self) -> bytes:
        self._writer.close()
        return self._out.getvalue()


def _content(label: str, size: int) -> bytes:
    """*size* bytes that look like a program: repeating, but not only."""
    block = hashlib.sha512(label.encode("utf-8")).digest() + bytes(64) + label.encode("utf-8")
    return b"MZ" + (block * (size // len(block) + 1))[: max(0, size - 2)]


_HIVES = ("DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM")
_DELTAS = ("DefaultUser_Delta", "Sam_Delta", "Security_Delta", "Software_Delta", "System_Delta")


def base_layer() -> bytes:
    """The base layer's tar."""
    layer = _Layer(0)
    for path in ("Files", "Hives", "UtilityVM", "UtilityVM/Files"):
        layer.directory(path)
    for path in (
        "Files/ProgramData",
        "Files/Users",
        "Files/Users/Public",
        "Files/Windows",
        "Files/Windows/Globalization",
        "Files/Windows/System32",
        "Files/Windows/System32/config",
        "Files/Windows/System32/drivers",
        "Files/Windows/WinSxS",
        "Files/Windows/WinSxS/amd64_kernel_10.0.20348.1",
    ):
        layer.directory(path, security=_INSTALLER if "Windows" in path else _PLAIN)
    store = "Files/Windows/WinSxS/amd64_kernel_10.0.20348.1"
    for name, size in (("kernel32.dll", 61_440), ("ntdll.dll", 98_304), ("cmd.exe", 40_960)):
        kernel_purge = ExtendedAttribute("$KERNEL.PURGE.APPXFICACHE", b"\x01\x02\x03" + name.encode("ascii"))
        layer.file(f"{store}/{name}", _content(name, size), security=_INSTALLER, eas=(kernel_purge,))
        layer.hard_link(f"Files/Windows/System32/{name}", f"{store}/{name}")
    layer.file("Files/Windows/win.ini", b"; for 16-bit app support\r\n[fonts]\r\n", security=_INSTALLER)
    layer.file(
        "Files/Windows/Globalization/sort.nls",
        _content("sort", 20_000),
        attributes=FileAttributes.READONLY | FileAttributes.ARCHIVE,
        security=_INSTALLER,
    )
    layer.file(
        "Files/Windows/System32/drivers/étalon-模式.sys", _content("driver", 12_345), security=_INSTALLER
    )
    layer.file(
        "Files/Users/Public/notes.txt",
        b"downloaded\r\n",
        streams=[("Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n"), ("summary", b"a second stream")],
    )
    layer.directory("Files/Documents and Settings", reparse=MountPoint.to("C:\\Users").to_bytes())
    layer.symbolic_link("Files/Users/All Users.lnk", "..\\ProgramData")
    for name in _HIVES:
        layer.file(f"Files/Windows/System32/config/{name}", minimal_hive(file_name=name), security=_INSTALLER)
    layer.directory("UtilityVM/Files/EFI")
    layer.file("UtilityVM/Files/EFI/bootmgfw.efi", _content("bootmgfw", 30_000), security=_INSTALLER)
    layer.hard_link("UtilityVM/Files/ntdll.dll", f"{store}/ntdll.dll")
    return layer.tar()


def update_layer() -> bytes:
    """The update's tar: on top of :func:`base_layer`."""
    layer = _Layer(86_400)
    layer.directory("Files")
    layer.directory("Hives")
    # Servicing tools write other letter cases than the base has: it is one directory all the same.
    for path in ("Files/WINDOWS", "Files/WINDOWS/system32", "Files/WINDOWS/WinSxS"):
        layer.directory(path, security=_INSTALLER)
    store = "Files/WINDOWS/WinSxS/amd64_kernel_10.0.20348.2227"
    layer.directory(store, security=_INSTALLER)
    layer.file(f"{store}/kernel32.dll", _content("kernel32.dll, patched", 62_000), security=_INSTALLER)
    layer.hard_link("Files/WINDOWS/system32/kernel32.dll", f"{store}/kernel32.dll")
    layer.hard_link(
        "Files/WINDOWS/system32/cmd-copy.exe", "Files/Windows/WinSxS/amd64_kernel_10.0.20348.1/cmd.exe"
    )
    layer.directory("Files/WINDOWS/Globalization", security=_INSTALLER)
    layer.file("Files/WINDOWS/Globalization/new.nls", _content("new", 8_000), security=_INSTALLER)
    layer.whiteout("Files/Windows/Globalization/sort.nls")
    layer.whiteout("Files/Windows/never-was-there.dll")
    for name in _DELTAS:
        layer.file(f"Hives/{name}", minimal_hive(file_name=name), security=_INSTALLER)
    return layer.tar()


def application_layer() -> bytes:
    """The application's tar: on top of :func:`update_layer`."""
    layer = _Layer(0)
    layer.bare("Files/")
    layer.bare("Files/app/")
    layer.bare("Files/app/app.exe", _content("the application", 150_000))
    layer.bare("Files/app/app.config.json", b'{"listen": 8080}\n')
    layer.bare("Hives/")
    return layer.tar()


def layer_tars() -> Iterator[tuple[str, bytes]]:
    """What made each layer, and its tar, base first."""
    yield f"Apply image {OS_VERSION.rpartition('.')[0]}.1", base_layer()
    yield f"Install update {OS_VERSION}", update_layer()
    yield "ADD app /app", application_layer()


def write_sample_image(
    folder: str | os.PathLike[str], tag: str = TAG, *, docker: bool = False, compression: str = "gzip"
) -> str:
    """Write the image into the OCI image layout *folder*, new or existing; return the manifest's digest.

    Args:
        docker: with Docker's media types.
        compression: of the layers: ``gzip``, ``zstd`` or ``none``.
    """
    layout = OciLayout.create(Path(folder))
    manifest_type = mediatypes.DOCKER_MANIFEST if docker else mediatypes.OCI_MANIFEST
    layers, diff_ids, history = [], [], []
    for created_by, tar in layer_tars():
        compressor = Compressor(compression)
        blob = compressor.compress(tar) + compressor.flush()
        media_type = mediatypes.layer_type(manifest_type, compression)
        layers.append(Descriptor(media_type, layout.write(blob), len(blob)))
        diff_ids.append(digest_of(tar))
        history.append({"created": "2024-01-01T00:00:00Z", "created_by": created_by})
    config = compact_json(
        {
            "created": "2024-01-01T00:00:00Z",
            "architecture": "amd64",
            "os": "windows",
            "os.version": OS_VERSION,
            "config": {"Cmd": ["c:\\app\\app.exe"], "User": "ContainerUser", "ArgsEscaped": True},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        }
    )
    config_type = mediatypes.DOCKER_CONFIG if docker else mediatypes.OCI_CONFIG
    raw = manifest_bytes(manifest_type, Descriptor(config_type, layout.write(config), len(config)), layers)
    platform = Platform(os_version=OS_VERSION)
    layout.tag(tag, Descriptor(manifest_type, layout.write(raw), len(raw), platform=platform))
    return digest_of(raw)
