"""Security descriptors in self-relative form.

Layout ([MS-DTYP] 2.4.6), little-endian::

    u8  revision (1)
    u8  resource manager control, where the control says so; else zero
    u16 control
    u32 offset of the owner SID, 0: none
    u32 offset of the group SID, 0: none
    u32 offset of the SACL
    u32 offset of the DACL
    the four parts, in any order, gaps allowed

An ACL is there if its PRESENT bit is set; with offset 0 it is then a NULL ACL, which is not the same as an
empty one: a NULL DACL allows everything to everybody, an empty one nothing to anybody.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import Final

from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security.acl import Acl
from winlayers.win32.security.sid import Sid

__all__ = ["Control", "Layout", "SecurityDescriptor", "validate"]

HEADER: Final = struct.Struct("<BBHIIII")
REVISION: Final = 1
_ACL_REVISIONS: Final = range(2, 5)


class Control(enum.IntFlag):
    """Control bits (winnt.h, without the ``SE_``)."""

    OWNER_DEFAULTED = 0x0001
    GROUP_DEFAULTED = 0x0002
    DACL_PRESENT = 0x0004
    DACL_DEFAULTED = 0x0008
    SACL_PRESENT = 0x0010
    SACL_DEFAULTED = 0x0020
    DACL_TRUSTED = 0x0040
    SERVER_SECURITY = 0x0080
    DACL_AUTO_INHERIT_REQ = 0x0100
    SACL_AUTO_INHERIT_REQ = 0x0200
    DACL_AUTO_INHERITED = 0x0400
    SACL_AUTO_INHERITED = 0x0800
    DACL_PROTECTED = 0x1000
    SACL_PROTECTED = 0x2000
    RM_CONTROL_VALID = 0x4000
    SELF_RELATIVE = 0x8000


# Plain numbers for the parser: arithmetic on enum flags is several times slower.
_SELF_RELATIVE: Final = int(Control.SELF_RELATIVE)
_SACL_PRESENT: Final = int(Control.SACL_PRESENT)
_DACL_PRESENT: Final = int(Control.DACL_PRESENT)


class Layout(enum.Enum):
    """In which order a new descriptor's parts stand.

    Readers must not care, but bytes are compared and hashed, so it is worth being the same as Windows.
    """

    ACLS_FIRST = "sacl, dacl, owner, group"
    """What ConvertStringSecurityDescriptorToSecurityDescriptor writes (recordings in Samba's test data)."""

    OWNER_FIRST = "owner, group, dacl, sacl"
    """What BuildKit's constants have, one of which is what a directory inherits, and what Wine writes."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Placement:
    """Where the parts of a parsed descriptor stood, and what stood between them.

    Attributes:
        offsets: the four offset fields (owner, group, SACL, DACL), as they came.
        size: the length of the whole.
        gaps: (offset, bytes) of all that belongs to no part.
    """

    offsets: tuple[int, int, int, int]
    size: int
    gaps: tuple[tuple[int, bytes], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SecurityDescriptor:
    """A security descriptor.

    Attributes:
        owner, group: None: none.
        sacl, dacl: None: absent, or NULL where the control's PRESENT bit is set.
        control: all bits as they came; SELF_RELATIVE and the PRESENT bits of ACLs given are added when bytes
            are made.
        sbz1: the resource manager control byte; means something only with RM_CONTROL_VALID.

    ``from_bytes(b).to_bytes() == b`` for every valid *b*: where the parts stood and what lay between them is
    remembered.  A descriptor made in another way, :func:`dataclasses.replace` included, is laid out anew.
    """

    owner: Sid | None = None
    group: Sid | None = None
    sacl: Acl | None = None
    dacl: Acl | None = None
    control: Control = Control.SELF_RELATIVE
    sbz1: int = 0
    _placement: _Placement | None = dataclasses.field(default=None, init=False, compare=False, repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> SecurityDescriptor:
        """The descriptor that *data* is.

        Raises:
            SecurityDescriptorError: cut off, of another revision, in absolute form, or a part is malformed.
        """
        data = bytes(data)
        if len(data) < HEADER.size:
            raise SecurityDescriptorError(
                f"security descriptor: {len(data)} bytes, fewer than the {HEADER.size} of its header"
            )
        revision, sbz1, bits, *offsets = HEADER.unpack_from(data)
        if revision != REVISION:
            raise SecurityDescriptorError(f"security descriptor: revision {revision}, only 1 exists")
        if not bits & _SELF_RELATIVE:
            raise SecurityDescriptorError(
                "security descriptor in absolute form: it holds pointers, not offsets",
                hint="make it self-relative where it comes from",
            )
        at_owner, at_group, at_sacl, at_dacl = offsets
        for name, offset in zip(("owner", "group", "SACL", "DACL"), offsets, strict=True):
            if 0 < offset < HEADER.size:
                raise SecurityDescriptorError(f"security descriptor: {name} at {offset}, inside the header")
        # Offsets of ACLs that are not present mean nothing; they are remembered, not followed.
        has_sacl = bits & _SACL_PRESENT and at_sacl
        has_dacl = bits & _DACL_PRESENT and at_dacl
        made = cls(
            Sid.from_bytes(data, at_owner) if at_owner else None,
            Sid.from_bytes(data, at_group) if at_group else None,
            Acl.from_bytes(data, at_sacl) if has_sacl else None,
            Acl.from_bytes(data, at_dacl) if has_dacl else None,
            Control(bits),
            sbz1,
        )
        placement = made._place(data, (at_owner, at_group, at_sacl, at_dacl))
        object.__setattr__(made, "_placement", placement)  # frozen for everybody else
        return made

    def to_bytes(self, layout: Layout | None = None) -> bytes:
        """The self-relative form.

        Args:
            layout: None: as it was parsed, ACLS_FIRST for a new descriptor.

        Raises:
            SecurityDescriptorError: an ACL is larger than an ACL can be.
        """
        if layout is None and self._placement is not None:
            return self._fill(self._placement)
        parts = self._parts()
        order = (2, 3, 0, 1) if layout is not Layout.OWNER_FIRST else (0, 1, 3, 2)
        offsets = [0, 0, 0, 0]
        size = HEADER.size
        for index in order:
            part = parts[index]
            if part is not None:
                size = (size + 3) & ~3
                offsets[index] = size
                size += len(part)
        owner, group, sacl, dacl = offsets
        return self._fill(_Placement((owner, group, sacl, dacl), (size + 3) & ~3, ()))

    @property
    def full_control(self) -> Control:
        """The control with SELF_RELATIVE and the PRESENT bits of the ACLs that are there."""
        control = self.control | Control.SELF_RELATIVE
        if self.sacl is not None:
            control |= Control.SACL_PRESENT
        if self.dacl is not None:
            control |= Control.DACL_PRESENT
        return control

    def _parts(self) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None]:
        """Owner, group, SACL and DACL as bytes."""
        return (
            None if self.owner is None else self.owner.to_bytes(),
            None if self.group is None else self.group.to_bytes(),
            None if self.sacl is None else self.sacl.to_bytes(),
            None if self.dacl is None else self.dacl.to_bytes(),
        )

    def _place(self, data: bytes, offsets: tuple[int, int, int, int]) -> _Placement:
        at_owner, at_group, at_sacl, at_dacl = offsets
        spans = [(0, HEADER.size)]
        spans += [
            (at, at + sid.size)
            for at, sid in ((at_owner, self.owner), (at_group, self.group))
            if sid is not None
        ]
        spans += [
            (at, at + int.from_bytes(data[at + 2 : at + 4], "little"))  # an ACL has its size there
            for at, acl in ((at_sacl, self.sacl), (at_dacl, self.dacl))
            if acl is not None
        ]
        gaps = []
        reached = 0
        for start, stop in sorted(spans):
            if start > reached:
                gaps.append((reached, data[reached:start]))
            reached = max(reached, stop)
        if reached < len(data):
            gaps.append((reached, data[reached:]))
        return _Placement(offsets, len(data), tuple(gaps))

    def _fill(self, placement: _Placement) -> bytes:
        image = bytearray(placement.size)
        HEADER.pack_into(image, 0, REVISION, self.sbz1, int(self.full_control), *placement.offsets)
        for offset, content in placement.gaps:
            image[offset : offset + len(content)] = content
        for offset, part in zip(placement.offsets, self._parts(), strict=True):
            if part is not None:
                image[offset : offset + len(part)] = part
        return bytes(image)


def validate(data: bytes) -> None:
    """Check that Windows would take *data* as a self-relative security descriptor.

    Beyond what :meth:`SecurityDescriptor.from_bytes` needs, this asks for what Windows'
    RtlValidRelativeSecurityDescriptor asks for: parts, ACL sizes and ACE sizes on multiples of four, ACL
    revisions 2 to 4.

    Raises:
        SecurityDescriptorError: what is wrong.
    """
    descriptor = SecurityDescriptor.from_bytes(data)
    _, _, _, *offsets = HEADER.unpack_from(data)
    present = (descriptor.owner, descriptor.group, descriptor.sacl, descriptor.dacl)
    for name, part, offset in zip(("owner", "group", "SACL", "DACL"), present, offsets, strict=True):
        if part is not None and offset % 4:
            raise SecurityDescriptorError(f"security descriptor: {name} at {offset}, not a multiple of 4")
    for name, acl in (("SACL", descriptor.sacl), ("DACL", descriptor.dacl)):
        if acl is not None:
            _validate_acl(name, acl)


def _validate_acl(name: str, acl: Acl) -> None:
    if acl.revision not in _ACL_REVISIONS:
        raise SecurityDescriptorError(f"{name}: revision {acl.revision}, must be 2 to 4")
    for index, ace in enumerate(acl.aces):
        size = len(ace.to_bytes())
        if size % 4:
            raise SecurityDescriptorError(f"{name}: ACE {index} has size {size}, not a multiple of 4")
    if len(acl.slack) % 4:
        raise SecurityDescriptorError(f"{name}: its size is not a multiple of 4")
