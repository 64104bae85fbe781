"""Access control lists.

Layout ([MS-DTYP] 2.4.5), little-endian::

    u8  revision: 2, or 4 where there are object ACEs
    u8  zero
    u16 size of the whole list
    u16 count of entries
    u16 zero
    entries
    unused bytes up to the size
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable
from typing import Final

from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security.ace import AnyAce, read_ace

__all__ = ["ACL_REVISION", "ACL_REVISION_DS", "Acl"]

ACL_REVISION: Final = 2
ACL_REVISION_DS: Final = 4
_HEADER: Final = struct.Struct("<BBHHH")
_MAX_SIZE: Final = 0xFFFF


@dataclasses.dataclass(frozen=True, slots=True)
class Acl:
    """An access control list, with everything that its bytes say.

    Attributes:
        aces: the entries, in order.
        revision: 2 to 4; other values are kept, but not valid.
        sbz1, sbz2: the fields that should be zero, as they came.
        slack: unused bytes behind the entries, counted in the list's size.
    """

    aces: tuple[AnyAce, ...] = ()
    revision: int = ACL_REVISION
    sbz1: int = 0
    sbz2: int = 0
    slack: bytes = b""

    @classmethod
    def of(cls, aces: Iterable[AnyAce]) -> Acl:
        """A list of *aces* with the lowest revision that they allow, which is what Windows writes."""
        entries = tuple(aces)
        with_objects = any(ace.is_object for ace in entries)
        return cls(entries, ACL_REVISION_DS if with_objects else ACL_REVISION)

    @classmethod
    def from_bytes(cls, data: bytes, offset: int = 0) -> Acl:
        """The list at *offset* of *data*, which may go on behind it.

        Raises:
            SecurityDescriptorError: cut off, or its entries do not fit in it.
        """
        if offset < 0 or offset + _HEADER.size > len(data):
            raise SecurityDescriptorError(f"ACL at offset {offset}: cut off")
        revision, sbz1, size, count, sbz2 = _HEADER.unpack_from(data, offset)
        end = offset + size
        if size < _HEADER.size or end > len(data):
            raise SecurityDescriptorError(
                f"ACL at offset {offset}: size {size} does not fit in the descriptor"
            )
        aces = []
        at = offset + _HEADER.size
        for _ in range(count):
            ace, length = read_ace(data, at, end)
            aces.append(ace)
            at += length
        return cls(tuple(aces), revision, sbz1, sbz2, data[at:end])

    def to_bytes(self) -> bytes:
        """The binary form.

        Raises:
            SecurityDescriptorError: more than 65,535 bytes or entries.
        """
        body = b"".join([ace.to_bytes() for ace in self.aces]) + self.slack
        size = _HEADER.size + len(body)
        if size > _MAX_SIZE:
            raise SecurityDescriptorError(
                f"an ACL of {size} bytes is larger than an ACL can be ({_MAX_SIZE} bytes)"
            )
        return _HEADER.pack(self.revision, self.sbz1, size, len(self.aces), self.sbz2) + body
