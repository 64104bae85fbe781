"""Layers and images for the tests, made from plain descriptions."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from winlayers.images import mediatypes
from winlayers.images.compression import Compressor
from winlayers.images.digest import digest_of
from winlayers.images.documents import Descriptor, compact_json, manifest_bytes
from winlayers.images.layout import OciLayout
from winlayers.images.platforms import Platform
from winlayers.layers.service import EntryKind, LayerEntry
from winlayers.tar import TarWriter
from winlayers.tar.backuptar import write_layer_entry
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, FileMetadata

TIME = 133_486_272_001_234_567


@dataclasses.dataclass(frozen=True)
class File:
    """A file in a layer; ``data`` None: a directory."""

    data: bytes | None = b""
    attributes: FileAttributes = FileAttributes.ARCHIVE
    write_time: int = TIME
    security: bytes | None = None
    reparse: bytes | None = None
    streams: tuple[tuple[str, bytes], ...] = ()

    @property
    def metadata(self) -> FileMetadata:
        """Its metadata."""
        attributes = self.attributes
        if self.data is None:
            attributes = attributes & ~FileAttributes.ARCHIVE | FileAttributes.DIRECTORY
        if self.reparse is not None:
            attributes |= FileAttributes.REPARSE_POINT
        return FileMetadata(attributes, TIME, TIME, self.write_time, TIME, self.security, (), self.reparse)


DIRECTORY = File(None)


@dataclasses.dataclass(frozen=True)
class Link:
    """A hard link."""

    target: str


GONE = None
"""A whiteout."""


def layer_tar(entries: Sequence[tuple[str, File | Link | None]]) -> bytes:
    """A layer's tar."""
    out = io.BytesIO()
    writer = TarWriter(out)
    for path, what in entries:
        streams: list[DataStream] = []
        if what is None:
            entry = LayerEntry(path, EntryKind.WHITEOUT)
        elif isinstance(what, Link):
            entry = LayerEntry(path, EntryKind.LINK, link_target=what.target)
        else:
            kind = EntryKind.DIRECTORY if what.data is None else EntryKind.FILE
            data = what.data or b""
            entry = LayerEntry(path, kind, what.metadata, len(data))
            if what.data is not None and what.reparse is None:
                streams.append(DataStream("", len(data), [data]))
            streams += [DataStream(name, len(content), [content]) for name, content in what.streams]
        for _ in write_layer_entry(writer, entry, streams):
            pass
    writer.close()
    return out.getvalue()


def write_image(folder: Path, tag: str, tars: Sequence[bytes], *, compression: str = "gzip") -> str:
    """Write an image of these layers into the layout *folder*; return its transport name."""
    layout = OciLayout.create(folder)
    layers, diff_ids = [], []
    for tar in tars:
        compressor = Compressor(compression)
        blob = compressor.compress(tar) + compressor.flush()
        media_type = mediatypes.layer_type(mediatypes.OCI_MANIFEST, compression)
        layers.append(Descriptor(media_type, layout.write(blob), len(blob)))
        diff_ids.append(digest_of(tar))
    config = compact_json(
        {
            "architecture": "amd64",
            "os": "windows",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"step {n}"} for n in range(1, len(tars) + 1)],
        }
    )
    named = Descriptor(mediatypes.OCI_CONFIG, layout.write(config), len(config))
    raw = manifest_bytes(mediatypes.OCI_MANIFEST, named, layers)
    layout.tag(tag, Descriptor(mediatypes.OCI_MANIFEST, layout.write(raw), len(raw), platform=Platform()))
    return f"oci:{folder}:{tag}"
