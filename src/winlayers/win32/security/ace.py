"""Access control entries, all types of winnt.h; unknown types are kept as they are.

Layout ([MS-DTYP] 2.4.4), little-endian::

    u8  type
    u8  flags
    u16 size of the whole entry
    u32 access mask
    -- object types only:
    u32 object flags: 1 object type present, 2 inherited object type present
    GUID object type, where present
    GUID inherited object type, where present
    -- all:
    SID
    application data up to the size: the condition of a callback type, the claim of a resource attribute,
    padding; nothing elsewhere
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import uuid
from typing import Final, TypeAlias

from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security.sid import Sid

__all__ = [
    "CONDITIONAL_TYPES",
    "OBJECT_TYPES",
    "Ace",
    "AceFlags",
    "AceType",
    "AnyAce",
    "RawAce",
    "read_ace",
]


class AceType(enum.IntEnum):
    """ACE types (winnt.h)."""

    ACCESS_ALLOWED = 0x00
    ACCESS_DENIED = 0x01
    SYSTEM_AUDIT = 0x02
    SYSTEM_ALARM = 0x03
    ACCESS_ALLOWED_COMPOUND = 0x04
    ACCESS_ALLOWED_OBJECT = 0x05
    ACCESS_DENIED_OBJECT = 0x06
    SYSTEM_AUDIT_OBJECT = 0x07
    SYSTEM_ALARM_OBJECT = 0x08
    ACCESS_ALLOWED_CALLBACK = 0x09
    ACCESS_DENIED_CALLBACK = 0x0A
    ACCESS_ALLOWED_CALLBACK_OBJECT = 0x0B
    ACCESS_DENIED_CALLBACK_OBJECT = 0x0C
    SYSTEM_AUDIT_CALLBACK = 0x0D
    SYSTEM_ALARM_CALLBACK = 0x0E
    SYSTEM_AUDIT_CALLBACK_OBJECT = 0x0F
    SYSTEM_ALARM_CALLBACK_OBJECT = 0x10
    SYSTEM_MANDATORY_LABEL = 0x11
    SYSTEM_RESOURCE_ATTRIBUTE = 0x12
    SYSTEM_SCOPED_POLICY_ID = 0x13
    SYSTEM_PROCESS_TRUST_LABEL = 0x14
    SYSTEM_ACCESS_FILTER = 0x15


class AceFlags(enum.IntFlag):
    """ACE flags (winnt.h).  0x40 is TRUST_PROTECTED_FILTER on an access filter."""

    OBJECT_INHERIT = 0x01
    CONTAINER_INHERIT = 0x02
    NO_PROPAGATE_INHERIT = 0x04
    INHERIT_ONLY = 0x08
    INHERITED = 0x10
    CRITICAL = 0x20
    SUCCESSFUL_ACCESS = 0x40
    FAILED_ACCESS = 0x80


OBJECT_TYPES: Final = frozenset(
    {
        AceType.ACCESS_ALLOWED_OBJECT,
        AceType.ACCESS_DENIED_OBJECT,
        AceType.SYSTEM_AUDIT_OBJECT,
        AceType.SYSTEM_ALARM_OBJECT,
        AceType.ACCESS_ALLOWED_CALLBACK_OBJECT,
        AceType.ACCESS_DENIED_CALLBACK_OBJECT,
        AceType.SYSTEM_AUDIT_CALLBACK_OBJECT,
        AceType.SYSTEM_ALARM_CALLBACK_OBJECT,
    }
)
CONDITIONAL_TYPES: Final = frozenset(
    {
        AceType.ACCESS_ALLOWED_CALLBACK,
        AceType.ACCESS_DENIED_CALLBACK,
        AceType.ACCESS_ALLOWED_CALLBACK_OBJECT,
        AceType.ACCESS_DENIED_CALLBACK_OBJECT,
        AceType.SYSTEM_AUDIT_CALLBACK,
        AceType.SYSTEM_ALARM_CALLBACK,
        AceType.SYSTEM_AUDIT_CALLBACK_OBJECT,
        AceType.SYSTEM_ALARM_CALLBACK_OBJECT,
        AceType.SYSTEM_ACCESS_FILTER,
    }
)
# A compound ACE has two SIDs and never occurs on files; it is kept raw like a type from the future.
_WITH_ONE_SID: Final = frozenset(AceType) - {AceType.ACCESS_ALLOWED_COMPOUND}

_HEADER: Final = struct.Struct("<BBH")
_U32: Final = struct.Struct("<I")
_OBJECT_TYPE_PRESENT: Final = 1
_INHERITED_OBJECT_TYPE_PRESENT: Final = 2
_MAX_SIZE: Final = 0xFFFF


@dataclasses.dataclass(frozen=True, slots=True)
class Ace:
    """An entry of a known type.

    Attributes:
        type: an :class:`AceType` other than ACCESS_ALLOWED_COMPOUND.
        flags: :class:`AceFlags`, as one byte.
        mask: the access mask; for a mandatory label its policy.
        sid: the trustee, or the label, the policy, the trust level.
        object_type, inherited_object_type: for object types; None: not present.
        object_flags: bits of the object flags other than the two that say which GUIDs are present.
        application_data: what follows the SID, padding included.
    """

    type: int
    flags: int
    mask: int
    sid: Sid
    object_type: uuid.UUID | None = None
    inherited_object_type: uuid.UUID | None = None
    object_flags: int = 0
    application_data: bytes = b""

    def __post_init__(self) -> None:
        if self.type not in _WITH_ONE_SID:
            raise SecurityDescriptorError(f"ACE type {self.type:#x} is not known; keep it as a RawAce")
        if not 0 <= self.flags <= 0xFF or not 0 <= self.mask <= 0xFFFFFFFF:
            raise SecurityDescriptorError(
                f"ACE flags {self.flags:#x} or mask {self.mask:#x} do not fit in their fields"
            )
        with_guids = self.object_type is not None or self.inherited_object_type is not None
        if self.type not in OBJECT_TYPES and (with_guids or self.object_flags):
            raise SecurityDescriptorError(f"an ACE of type {AceType(self.type).name} has no object types")

    @property
    def is_object(self) -> bool:
        """Whether the entry has object flags and can have GUIDs."""
        return self.type in OBJECT_TYPES

    def to_bytes(self) -> bytes:
        """The binary form.

        Raises:
            SecurityDescriptorError: larger than an entry can be.
        """
        parts = [_U32.pack(self.mask)]
        if self.is_object:
            flags = self.object_flags & ~(_OBJECT_TYPE_PRESENT | _INHERITED_OBJECT_TYPE_PRESENT)
            if self.object_type is not None:
                flags |= _OBJECT_TYPE_PRESENT
            if self.inherited_object_type is not None:
                flags |= _INHERITED_OBJECT_TYPE_PRESENT
            parts.append(_U32.pack(flags))
            parts += [guid.bytes_le for guid in (self.object_type, self.inherited_object_type) if guid]
        parts += [self.sid.to_bytes(), self.application_data]
        return _with_header(self.type, self.flags, b"".join(parts))


@dataclasses.dataclass(frozen=True, slots=True)
class RawAce:
    """An entry of a type that is not known here: everything behind the header as it came.

    Attributes:
        type, flags: one byte each.
        body: the bytes behind the four bytes of the header.
    """

    type: int
    flags: int
    body: bytes

    @property
    def is_object(self) -> bool:
        """Never: what the entry has is not known."""
        return False

    def to_bytes(self) -> bytes:
        """The binary form."""
        return _with_header(self.type, self.flags, self.body)


AnyAce: TypeAlias = Ace | RawAce


def _with_header(kind: int, flags: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    if size > _MAX_SIZE:
        raise SecurityDescriptorError(
            f"an ACE of {size} bytes is larger than an ACE can be ({_MAX_SIZE} bytes)"
        )
    return _HEADER.pack(kind, flags, size) + body


def read_ace(data: bytes, offset: int, end: int) -> tuple[AnyAce, int]:
    """The entry at *offset* of *data* and its size; nothing past *end* is read.

    Raises:
        SecurityDescriptorError: cut off, or its SID is malformed.
    """
    if offset + _HEADER.size > end:
        raise SecurityDescriptorError(f"ACE at offset {offset}: cut off")
    kind, flags, size = _HEADER.unpack_from(data, offset)
    stop = offset + size
    if size < _HEADER.size or stop > end:
        raise SecurityDescriptorError(f"ACE at offset {offset}: size {size} does not fit in its ACL")
    start = offset + _HEADER.size
    if kind not in _WITH_ONE_SID:
        return RawAce(kind, flags, data[start:stop]), size
    try:
        return _read_known(data, kind, flags, start, stop), size
    except struct.error as error:
        raise SecurityDescriptorError(
            f"ACE at offset {offset}: size {size} is too small for its type"
        ) from error


def _read_known(data: bytes, kind: int, flags: int, start: int, stop: int) -> Ace:
    body = data[start:stop]
    (mask,) = _U32.unpack_from(body, 0)
    at = 4
    guids: list[uuid.UUID | None] = [None, None]
    object_flags = 0
    if kind in OBJECT_TYPES:
        (object_flags,) = _U32.unpack_from(body, at)
        at += 4
        for index, bit in enumerate((_OBJECT_TYPE_PRESENT, _INHERITED_OBJECT_TYPE_PRESENT)):
            if object_flags & bit:
                (raw,) = struct.unpack_from("16s", body, at)
                guids[index] = uuid.UUID(bytes_le=raw)
                at += 16
        object_flags &= ~(_OBJECT_TYPE_PRESENT | _INHERITED_OBJECT_TYPE_PRESENT)
    sid = Sid.from_bytes(data, start + at, stop)
    return Ace(kind, flags, mask, sid, guids[0], guids[1], object_flags, body[at + sid.size :])
