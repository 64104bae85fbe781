"""Tar streams, and Windows metadata inside them.

- :class:`TarReader`, :class:`TarWriter`: members in and out, as Go's ``archive/tar`` reads and writes them.
"""

from winlayers.tar.header import Format, TarHeader
from winlayers.tar.reader import SkippingSource, Source, TarReader
from winlayers.tar.writer import Sink, TarWriter

__all__ = ["Format", "Sink", "SkippingSource", "Source", "TarHeader", "TarReader", "TarWriter"]
