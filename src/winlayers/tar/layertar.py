"""A layer's tar as a sequence of files, links and whiteouts, and back.

A file is a member and the members of its alternate streams behind it.  What the names of members say is not
judged here (``..``, absolute paths, device names): whoever makes files of them must.

Sources: hcsshim ``pkg/ociwclayer/import.go`` and ``export.go``; go-winio ``backuptar/tar.go``; Docker's image
specification v1.2 for ``.wh.`` and ``.wh..wh..opq``.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Callable, Iterable, Iterator

from winlayers.errors import FormatError, InvalidNameError, TarError
from winlayers.tar.backuptar import (
    FILE_ATTRIBUTES,
    OPAQUE_MARKER,
    WHITEOUT_PREFIX,
    EntryKind,
    link_header,
    metadata_from_header,
    opaque_name,
    path_of_name,
    whiteout_name,
    write_entry,
    write_layer_entry,
)
from winlayers.tar.header import (
    BLOCK,
    CHAR,
    DIRECTORY,
    FIFO,
    LINK,
    PAX_GLOBAL,
    REGULAR,
    SYMLINK,
    TarHeader,
)
from winlayers.tar.reader import TarReader
from winlayers.tar.writer import Sink, TarWriter
from winlayers.win32.backupstream import ByteSink
from winlayers.win32.filestreams import write_file_streams
from winlayers.win32.metadata import DataStream, FileMetadata

_NO_DATA = frozenset((SYMLINK, DIRECTORY, CHAR, BLOCK, FIFO))


@dataclasses.dataclass(slots=True)
class TarDataStream(DataStream):
    """A data stream in a tar, with the header of its member (which knows where its data is stored)."""

    header: TarHeader


@dataclasses.dataclass(slots=True)
class LayerTarEntry:
    """One entry of a layer's tar.

    Attributes:
        kind: what it is.  A reparse point is a FILE or DIRECTORY whose metadata holds a reparse buffer; a
            device or FIFO is a FILE without any data stream.
        path: the Windows path as the member's name gives it, ``/``-separated, not cleaned; of a whiteout: the
            path deleted; of an opaque marker: the directory.
        header: the member's header.
        metadata: for files and directories; for links whose records have some that is well-formed; else None.
        size: bytes in the unnamed data stream.
        link_target: of a hard link, the target's path.
        streams: the data streams, to be read before the next entry is taken: the unnamed one first, unless
            the file has none, then the alternate ones.  The sizes of sparse members count their holes.
    """

    kind: EntryKind
    path: str
    header: TarHeader
    metadata: FileMetadata | None
    size: int
    link_target: str | None
    streams: Iterable[TarDataStream]


def entries_from_tar(reader: TarReader) -> Iterator[LayerTarEntry]:
    """The entries of a layer's tar, lazily.

    Global PAX headers are passed over: their records hold for nothing in Go's reader, and they are no files.

    Raises:
        TarError, and the errors of :func:`~winlayers.tar.backuptar.metadata_from_header`.
    """
    return _Entries(reader)


class _Entries:
    def __init__(self, reader: TarReader) -> None:
        self._reader = reader
        self._streams: _Streams | None = None

    def __iter__(self) -> Iterator[LayerTarEntry]:
        return self

    def __next__(self) -> LayerTarEntry:
        header = self._next_header()
        while header is not None and header.typeflag == PAX_GLOBAL:
            header = self._reader.next()
        if header is None:
            raise StopIteration
        base = posixpath.basename(header.name.rstrip("/"))
        if base.startswith(WHITEOUT_PREFIX):
            return _whiteout(header, base)
        streams = self._streams = _Streams(self._reader, header)
        path = path_of_name(header.name)
        if header.typeflag == LINK:
            target = path_of_name(header.linkname)
            return LayerTarEntry(EntryKind.LINK, path, header, _link_metadata(header), 0, target, streams)
        metadata = metadata_from_header(header)
        is_directory = header.typeflag == DIRECTORY or (header.typeflag == SYMLINK and metadata.is_directory)
        kind = EntryKind.DIRECTORY if is_directory else EntryKind.FILE
        return LayerTarEntry(kind, path, header, metadata, streams.data_size, None, streams)

    def _next_header(self) -> TarHeader | None:
        streams, self._streams = self._streams, None
        return self._reader.next() if streams is None else streams.finish()


class _Streams:
    """The data streams of one entry: its own data, and the members behind it that are named after it."""

    def __init__(self, reader: TarReader, header: TarHeader) -> None:
        self._reader = reader
        self._header: TarHeader | None = header
        self._at_file = True
        self._ended = False
        self._passed_over = False
        name = header.name.rstrip("/")
        self._prefixes = (f"{name}:", f"{header.name}:")
        self._has_data = header.typeflag not in _NO_DATA and header.typeflag != LINK
        self.data_size = header.size if self._has_data else 0

    def __iter__(self) -> Iterator[TarDataStream]:
        return self

    def __next__(self) -> TarDataStream:
        header = self._header
        if self._at_file and header is not None:
            self._at_file = False
            if self._has_data:
                return TarDataStream("", header.size, self._chunks(header), header)
        if self._ended:
            if self._passed_over:
                raise self._too_late()
            raise StopIteration
        header = self._header = self._reader.next()
        if header is None or not self._is_stream(header):
            self._ended = True
            raise StopIteration
        prefix = next(prefix for prefix in self._prefixes if header.name.startswith(prefix))
        stream = path_of_name(header.name[len(prefix) :])
        if not stream:
            raise InvalidNameError("an alternate data stream has no name", path=path_of_name(header.name))
        return TarDataStream(stream, header.size, self._chunks(header), header)

    def _is_stream(self, header: TarHeader) -> bool:
        return header.typeflag == REGULAR and header.name.startswith(self._prefixes)

    def _chunks(self, header: TarHeader) -> Iterator[bytes | memoryview]:
        if header is not self._header:
            raise self._too_late()
        for chunk in self._reader.chunks():
            yield chunk
            if header is not self._header:
                raise self._too_late()

    def _too_late(self) -> TarError:
        return TarError("a data stream was read after the tar had gone on", path=self._prefixes[0][:-1])

    def finish(self) -> TarHeader | None:
        """Pass over what is left; return the first header that is not of this entry."""
        unread = sum(1 for _ in self)
        header, self._header = self._header, None
        self._passed_over = unread > 0
        return header


def _link_metadata(header: TarHeader) -> FileMetadata | None:
    """What a hard link's records say; the reference does not look at them, so nothing in them is an error."""
    if FILE_ATTRIBUTES not in header.pax:
        return None
    try:
        return metadata_from_header(header)
    except FormatError:
        return None


def _whiteout(header: TarHeader, base: str) -> LayerTarEntry:
    """A whiteout, of whatever type its member is; a trailing slash does not make it another name."""
    parent = path_of_name(posixpath.dirname(header.name.rstrip("/")))
    if base == OPAQUE_MARKER:
        return LayerTarEntry(EntryKind.OPAQUE, _clean(parent), header, None, 0, None, ())
    path = posixpath.join(parent, path_of_name(base[len(WHITEOUT_PREFIX) :]))
    return LayerTarEntry(EntryKind.WHITEOUT, _clean(path), header, None, 0, None, ())


def _clean(path: str) -> str:
    """*path* as Go's ``path.Join`` cleans it ("" for the root)."""
    if not path:
        return path
    path = posixpath.normpath(path)
    if path == ".":
        return ""
    return path[1:] if path.startswith("//") else path


# -- writing ----------------------------------------------------------------------------------------

Content = Callable[[], tuple[FileMetadata, Iterable[DataStream]]]
"""Opens what a link leads to: its metadata and its streams."""


class TarLayerWriter:
    """Writes a layer's tar, entry by entry, parents first.

    Args:
        sink: where the tar goes.
        hard_links: write hard links as links, as hcsshim and containerd do; otherwise each name of a file as
            a file of its own, as dockerd does.
    """

    def __init__(self, sink: Sink, *, hard_links: bool = True) -> None:
        self.tar = TarWriter(sink)
        self._hard_links = hard_links

    def add(
        self,
        path: str,
        metadata: FileMetadata,
        streams: Iterable[DataStream] = (),
        *,
        is_directory: bool | None = None,
    ) -> None:
        """Add a file or directory; errors as :func:`~winlayers.tar.backuptar.write_entry`."""
        write_entry(self.tar, path, metadata, streams, is_directory=is_directory)

    def add_link(
        self,
        path: str,
        target: str,
        metadata: FileMetadata | None = None,
        streams: Iterable[DataStream] = (),
        *,
        content: Content | None = None,
    ) -> None:
        """Add a hard link.

        Args:
            path: the link.
            target: the path of the file, under the first name that was written.
            metadata: the file's metadata; None writes neither attributes nor times.
            streams: alternate streams recorded with the link itself (none as a rule: the file has them).
            content: opens the file, where links are written as files.

        Raises:
            TarError: links are to be written as files, and there is no *content*.
        """
        if not self._hard_links:
            if content is None:
                raise TarError("a link is to be written as a file, but its content is not at hand", path=path)
            write_entry(self.tar, path, *content())
            return
        entry = LayerTarEntry(
            EntryKind.LINK, path, link_header(path, target, metadata), metadata, 0, target, ()
        )
        for _ in write_layer_entry(self.tar, entry, streams):
            pass

    def remove(self, path: str) -> None:
        """Record that *path* is deleted."""
        self.tar.write_header(TarHeader(whiteout_name(path)))

    def hide(self, path: str) -> None:
        """Record that the directory *path* hides all that lies below (which Windows does not understand)."""
        self.tar.write_header(TarHeader(opaque_name(path)))

    def add_entry(self, entry: LayerTarEntry) -> None:
        """Copy an entry of another tar, under its very name (but for slashes at its end)."""
        name = entry.header.name.rstrip("/")
        for _ in write_layer_entry(self.tar, entry, entry.streams, name=name):
            pass

    def close(self) -> None:
        """End the tar; the sink stays open."""
        self.tar.close()


def write_backup_stream(entry: LayerTarEntry, sink: ByteSink) -> None:
    """Write a file's or directory's Win32 backup stream, as BackupWrite takes it.

    Raises:
        TarError: the entry is no file or directory.
        BackupStreamError, ExtendedAttributeError: it can't be written.
    """
    if entry.metadata is None or entry.kind not in (EntryKind.FILE, EntryKind.DIRECTORY):
        raise TarError(f"a {entry.kind.value} has no backup stream", path=entry.path)
    write_file_streams(entry.metadata, entry.streams, sink, path=entry.path)
