"""tar-split: a tar taken apart into what it says about its members and what its members hold, and put
together again.

The format and the tool are Vincent Batts' (``github.com/vbatts/tar-split``); dockerd, containers/storage
and others keep it beside unpacked layers so that an export gives the very bytes of the import.  It is a
sequence of entries: raw segments (headers, padding, whatever follows the archive) and file entries (name,
size, CRC-64 of the content) in the order of the stream, each a line of JSON, the lines mostly gzipped.

- :class:`Disassembler`, :func:`disassemble`: a tar stream to entries, the stream passing through unchanged;
- :func:`reassemble`: entries and the files' contents to the stream;
- :class:`EntryWriter`, :func:`read_entries`: the format on disk.
"""

from winlayers.tar.tarsplit.disassembler import Disassembler, Disassembly, PayloadSink, disassemble
from winlayers.tar.tarsplit.entries import Entry, EntryWriter, FileEntry, Segment, read_entries
from winlayers.tar.tarsplit.reassembler import reassemble

__all__ = [
    "Disassembler",
    "Disassembly",
    "Entry",
    "EntryWriter",
    "FileEntry",
    "PayloadSink",
    "Segment",
    "disassemble",
    "read_entries",
    "reassemble",
]
