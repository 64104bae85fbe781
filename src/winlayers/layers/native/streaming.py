"""Layer reader and writer through the streaming calls of Server 2016's previews.

Source: hcsshim of 2016, ``importlayer.go`` and ``exportlayer.go``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from winlayers.errors import HcsError, LayerContentError
from winlayers.layers.native import paths, restore, vmcompute
from winlayers.layers.native.content import read_once
from winlayers.layers.native.privileges import READ, WRITE, privileges
from winlayers.layers.service import EntryKind, Flavour, LayerEntry, LayerReader, LayerWriter
from winlayers.win32.filestreams import write_file_streams
from winlayers.win32.metadata import DataStream, FileMetadata


class _Source:
    """``read(n)`` over what ExportLayerRead gives."""

    def __init__(self, stream: vmcompute.ExportStream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            with privileges(*READ):
                self._rest = memoryview(self._stream.read())
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


class StreamingReader(LayerReader):
    """Reads a layer entry by entry from HCS itself.

    Each stream can be read once only, so a file whose extended attributes come after its data is refused.
    """

    def __init__(self, flavour: Flavour, path: str, chain: Sequence[str]) -> None:
        with privileges(*READ):
            self._stream = vmcompute.ExportStream(flavour, path, chain)

    def __iter__(self) -> Iterator[tuple[LayerEntry, Iterable[DataStream]]]:
        while True:
            with privileges(*READ):
                found = self._stream.next()
            if found is None:
                return
            name = found.name.replace("\\", "/")
            if found.metadata is None:
                yield LayerEntry(name, EntryKind.WHITEOUT), ()
                continue
            metadata, streams = read_once(_Source(self._stream), found.metadata, name)
            kind = EntryKind.DIRECTORY if metadata.is_directory else EntryKind.FILE
            yield LayerEntry(name, kind, metadata, found.size), streams

    def close(self) -> None:
        self._stream.close()


class StreamingWriter(LayerWriter):
    """Writes a layer entry by entry to HCS itself, which knows no hard links here."""

    def __init__(self, flavour: Flavour, path: str, chain: Sequence[str]) -> None:
        with privileges(*WRITE):
            self._stream = vmcompute.ImportStream(flavour, path, chain)
        self._finished = False
        self._counted = restore.Counted()

    def add(self, path: str, metadata: FileMetadata, streams: Iterable[DataStream] = ()) -> None:
        name = paths.entry_path(path)
        with privileges(*WRITE):
            self._stream.next(name, metadata)
            sink = restore.BufferedSink(self._stream.write)
            streams = restore.with_unnamed_stream(metadata, self._counted.pass_through(streams))
            write_file_streams(metadata, streams, sink, path=path)
            sink.flush()

    def add_link(self, path: str, target: str) -> None:
        raise LayerContentError(f"the streaming calls can't make a hard link to {target}", path=path)

    def remove(self, path: str) -> None:
        with privileges(*WRITE):
            self._stream.next(paths.entry_path(path), None)

    def commit(self) -> int:
        if self._finished:
            raise ValueError("the writer is closed")
        self._finished = True
        with privileges(*WRITE):
            self._stream.close()
        return self._counted.total

    def abort(self) -> None:
        if not self._finished:
            self._finished = True
            with privileges(*WRITE), contextlib.suppress(HcsError):
                self._stream.close()
