"""A file's backup stream read from Windows as metadata and data streams.

``BackupRead`` gives one file's streams in one pass, and what describes the file mostly comes before its data.
Where something may follow the data (extended attributes, a reparse buffer) or the size is only known at the
end (sparse files) the file is read twice, so that nothing is lost; all other files are read once, as hcsshim
does.
"""

from __future__ import annotations

from collections.abc import Iterator

from winlayers.layers.native import files
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.backupstream import BackupStreamReader, ByteSource, StreamHeader, StreamId
from winlayers.win32.ea import parse_eas
from winlayers.win32.filestreams import (
    IGNORED_STREAMS,
    MAX_METADATA_SIZE,
    FileStreams,
    alternate_stream_name,
    iter_data_streams,
    scan_file_streams,
)
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata

_TWO_PASSES = FileAttributes.REPARSE_POINT | FileAttributes.SPARSE_FILE


class FileContent:
    """The content of one open file, to be read in order and then closed (the file itself stays open)."""

    def __init__(
        self, file: files.WinFile, basic: FileMetadata, *, security: bool, path: str | None = None
    ) -> None:
        """Read up to the data.

        Args:
            file: the file, open for reading.
            basic: its attributes and times.
            security: read its security descriptor too.
            path: its path in the layer, for messages.
        """
        self._path = path
        self._source = file.backup_reader(security=security)
        try:
            if basic.attributes & _TWO_PASSES or file.ea_size():
                found = scan_file_streams(self._source, path=path)
                self._source.close()
                if not basic.is_directory:
                    file.seek(0)  # nothing says that BackupRead begins anywhere but at the file's position
                self._source = file.backup_reader(security=security)
                self.metadata = found.apply_to(basic)
                self._streams = iter_data_streams(self._source, found, path=path)
            else:
                self.metadata, self._streams = read_once(self._source, basic, path)
        except BaseException:
            self._source.close()
            raise

    def streams(self) -> Iterator[DataStream]:
        """The data streams, each to be read before the next is taken."""
        return self._streams

    def close(self) -> None:
        """Release what is held."""
        self._source.close()


def read_once(
    source: ByteSource, basic: FileMetadata, path: str | None
) -> tuple[FileMetadata, Iterator[DataStream]]:
    """A file's metadata and its data streams, in one pass over *source*.

    Raises:
        BackupStreamError: the stream is malformed, or metadata follows the data (now or when read on).
    """
    reader = BackupStreamReader(source, path=path)
    found, first = _read_head(reader)
    return found.apply_to(basic), _read_data(reader, first, path)


def _read_head(reader: BackupStreamReader) -> tuple[FileStreams, StreamHeader | None]:
    """What stands before the data, and the header of the first data stream (None: there is none)."""
    security: bytes | None = None
    reparse: bytes | None = None
    eas: list[ExtendedAttribute] = []
    header = reader.next()
    while header is not None and header.id not in (StreamId.DATA, StreamId.ALTERNATE_DATA):
        if header.id == StreamId.SECURITY_DATA:
            security = reader.read_all(MAX_METADATA_SIZE)
        elif header.id == StreamId.EA_DATA:
            eas += parse_eas(reader.read_all(MAX_METADATA_SIZE))
        elif header.id == StreamId.REPARSE_DATA:
            reparse = reader.read_all(MAX_METADATA_SIZE)
        elif header.id not in IGNORED_STREAMS:
            raise reader.error(f"unexpected stream id {header.id}")
        header = reader.next()
    return FileStreams(security, tuple(eas), reparse), header


def _read_data(
    reader: BackupStreamReader, header: StreamHeader | None, path: str | None
) -> Iterator[DataStream]:
    while header is not None:
        if header.id == StreamId.DATA:
            yield DataStream("", header.size, reader.chunks())
        elif header.id == StreamId.ALTERNATE_DATA:
            yield DataStream(alternate_stream_name(header.name, path=path), header.size, reader.chunks())
        elif header.id not in IGNORED_STREAMS:
            raise reader.error(f"a stream of id {header.id} follows the data of a file that has none")
        header = reader.next()
