"""Windows data formats as pure functions and small classes on bytes: no I/O, any operating system.

What most callers need is here; the modules hold more:

- :mod:`~winlayers.win32.metadata`, :mod:`~winlayers.win32.attributes`: what NTFS knows of a file;
- :mod:`~winlayers.win32.filetime`: times, exactly;
- :mod:`~winlayers.win32.names`: NTFS names, their equality, order and validity;
- :mod:`~winlayers.win32.reparse`, :mod:`~winlayers.win32.ea`: reparse points, extended attributes;
- :mod:`~winlayers.win32.backupstream`, :mod:`~winlayers.win32.filestreams`: backup streams, one by one and as
  files;
- :mod:`~winlayers.win32.regf`: registry hives.

A name is loaded with its module when it is first used, so that importing one module costs only that one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from winlayers.win32.attributes import (
        FileAttributes,
    )
    from winlayers.win32.backupstream import (
        BackupStreamReader,
        BackupStreamWriter,
        StreamAttributes,
        StreamHeader,
        StreamId,
    )
    from winlayers.win32.ea import (
        build_eas,
        parse_eas,
    )
    from winlayers.win32.filestreams import (
        FileContent,
        FileStreams,
        StreamInfo,
        iter_data_streams,
        read_file_streams,
        read_transport_file,
        scan_file_streams,
        write_file_streams,
        write_transport_file,
    )
    from winlayers.win32.filetime import (
        filetime_from_pax,
        filetime_from_unix,
        filetime_to_pax,
        unix_from_filetime,
    )
    from winlayers.win32.metadata import (
        DataStream,
        ExtendedAttribute,
        FileMetadata,
    )
    from winlayers.win32.names import (
        decode_wtf8,
        encode_wtf8,
        fold_key,
        host_original,
        host_safe,
        is_reserved_device_name,
        normalize_layer_path,
        sort_key,
        split_path,
        split_stream,
        upcase,
        validate_component,
        validate_path,
    )
    from winlayers.win32.regf import (
        HiveHeader,
        minimal_hive,
        validate_hive_header,
    )
    from winlayers.win32.reparse import (
        MountPoint,
        RawReparse,
        ReparsePoint,
        ReparseTag,
        SymbolicLink,
        drive_path,
        is_canonical,
        parse_reparse,
        posix_target,
    )

_HOMES: dict[str, str] = {
    "FileAttributes": "attributes",
    "BackupStreamReader": "backupstream",
    "BackupStreamWriter": "backupstream",
    "StreamAttributes": "backupstream",
    "StreamHeader": "backupstream",
    "StreamId": "backupstream",
    "build_eas": "ea",
    "parse_eas": "ea",
    "FileContent": "filestreams",
    "FileStreams": "filestreams",
    "StreamInfo": "filestreams",
    "iter_data_streams": "filestreams",
    "read_file_streams": "filestreams",
    "read_transport_file": "filestreams",
    "scan_file_streams": "filestreams",
    "write_file_streams": "filestreams",
    "write_transport_file": "filestreams",
    "filetime_from_pax": "filetime",
    "filetime_from_unix": "filetime",
    "filetime_to_pax": "filetime",
    "unix_from_filetime": "filetime",
    "DataStream": "metadata",
    "ExtendedAttribute": "metadata",
    "FileMetadata": "metadata",
    "decode_wtf8": "names",
    "encode_wtf8": "names",
    "fold_key": "names",
    "host_original": "names",
    "host_safe": "names",
    "is_reserved_device_name": "names",
    "normalize_layer_path": "names",
    "sort_key": "names",
    "split_path": "names",
    "split_stream": "names",
    "upcase": "names",
    "validate_component": "names",
    "validate_path": "names",
    "HiveHeader": "regf",
    "minimal_hive": "regf",
    "validate_hive_header": "regf",
    "MountPoint": "reparse",
    "RawReparse": "reparse",
    "ReparsePoint": "reparse",
    "ReparseTag": "reparse",
    "SymbolicLink": "reparse",
    "drive_path": "reparse",
    "is_canonical": "reparse",
    "parse_reparse": "reparse",
    "posix_target": "reparse",
}

__all__ = [
    "BackupStreamReader",
    "BackupStreamWriter",
    "DataStream",
    "ExtendedAttribute",
    "FileAttributes",
    "FileContent",
    "FileMetadata",
    "FileStreams",
    "HiveHeader",
    "MountPoint",
    "RawReparse",
    "ReparsePoint",
    "ReparseTag",
    "StreamAttributes",
    "StreamHeader",
    "StreamId",
    "StreamInfo",
    "SymbolicLink",
    "build_eas",
    "decode_wtf8",
    "drive_path",
    "encode_wtf8",
    "filetime_from_pax",
    "filetime_from_unix",
    "filetime_to_pax",
    "fold_key",
    "host_original",
    "host_safe",
    "is_canonical",
    "is_reserved_device_name",
    "iter_data_streams",
    "minimal_hive",
    "normalize_layer_path",
    "parse_eas",
    "parse_reparse",
    "posix_target",
    "read_file_streams",
    "read_transport_file",
    "scan_file_streams",
    "sort_key",
    "split_path",
    "split_stream",
    "unix_from_filetime",
    "upcase",
    "validate_component",
    "validate_hive_header",
    "validate_path",
    "write_file_streams",
    "write_transport_file",
]

if not TYPE_CHECKING:  # else every misspelt name would pass for an object

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
