"""Small layer tars for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence

from winlayers.tar.backuptar import write_entry
from winlayers.tar.header import TarHeader
from winlayers.tar.layertar import TarLayerWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata
from winlayers.win32.security import sddl_to_bytes

DIRECTORY = FileMetadata(FileAttributes.DIRECTORY, 1, 2, 3, 4)
FILE = FileMetadata(FileAttributes.ARCHIVE, 132000000000000001, 2, 132000000000000003, 4)
SDDL = "O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)"


def stream(data: bytes, name: str = "") -> DataStream:
    """A stream of these bytes."""
    return DataStream(name, len(data), (data,))


class LayerTar:
    """Builds a layer's tar, entry by entry."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self.writer = TarLayerWriter(self._buffer)

    def directory(self, path: str, metadata: FileMetadata = DIRECTORY) -> LayerTar:
        self.writer.add(path, metadata)
        return self

    def file(
        self,
        path: str,
        data: bytes = b"",
        metadata: FileMetadata = FILE,
        streams: Sequence[tuple[str, bytes]] = (),
    ) -> LayerTar:
        parts = [stream(data), *(stream(content, name) for name, content in streams)]
        self.writer.add(path, metadata, parts)
        return self

    def link(self, path: str, target: str) -> LayerTar:
        self.writer.add_link(path, target)
        return self

    def remove(self, path: str) -> LayerTar:
        self.writer.remove(path)
        return self

    def hide(self, path: str) -> LayerTar:
        self.writer.hide(path)
        return self

    def raw(self, header: TarHeader, data: bytes = b"") -> LayerTar:
        self.writer.tar.write_header(header)
        self.writer.tar.write(data)
        return self

    def bytes(self) -> bytes:
        self.writer.close()
        return self._buffer.getvalue()


def base_tar() -> LayerTar:
    """The roots and a few directories of a base layer."""
    descriptor = sddl_to_bytes(SDDL)
    directory = FileMetadata(FileAttributes.DIRECTORY, 10, 20, 30, 40, descriptor)
    tar = LayerTar()
    for path in ("Files", "Files/Windows", "Files/Windows/System32", "Hives", "UtilityVM", "UtilityVM/Files"):
        tar.directory(path, directory)
    return tar


__all__ = ["DIRECTORY", "FILE", "SDDL", "LayerTar", "base_tar", "stream", "write_entry"]
