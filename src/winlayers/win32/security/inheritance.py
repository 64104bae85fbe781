"""The descriptor of a new file or directory, as Windows computes it from its parent's.

Rules: [MS-DTYP] 2.5.3.4 and "ACE inheritance rules" of the Windows documentation.  Two things that they leave
open were taken from tests that their authors ran against Windows: on NTFS a child is marked as inherited
(INHERITED on its ACEs, AUTO_INHERITED in its control) only if the parent's control says AUTO_INHERITED
(Samba, smbtorture's smb2.acls.INHERITFLAGS); and an explicit ACL where nothing is auto-inherited has its
generic rights mapped, but is not split (ReactOS, the kernel-mode test SeInheritance).  One was seen in what
icacls lists on real systems: where CREATOR OWNER becomes an owner who has those rights by an earlier ACE,
there is no second one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Final

from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security.ace import Ace, AceFlags, AceType, AnyAce
from winlayers.win32.security.acl import Acl
from winlayers.win32.security.descriptor import Control, Layout, SecurityDescriptor
from winlayers.win32.security.rights import (
    GENERIC_ALL,
    GENERIC_EXECUTE,
    GENERIC_READ,
    map_generic_file_rights,
)
from winlayers.win32.security.sid import WELL_KNOWN_SIDS, Sid

__all__ = ["inherit"]

# Plain numbers: arithmetic on enum flags is several times slower.
_OI: Final = int(AceFlags.OBJECT_INHERIT)
_CI: Final = int(AceFlags.CONTAINER_INHERIT)
_NP: Final = int(AceFlags.NO_PROPAGATE_INHERIT)
_IO: Final = int(AceFlags.INHERIT_ONLY)
_ID: Final = int(AceFlags.INHERITED)
_INHERITANCE: Final = _OI | _CI | _NP | _IO | _ID
_CREATOR_OWNER: Final = WELL_KNOWN_SIDS["CO"]
_CREATOR_GROUP: Final = WELL_KNOWN_SIDS["CG"]
_SYSTEM: Final = WELL_KNOWN_SIDS["SY"]
_ADMINISTRATORS: Final = WELL_KNOWN_SIDS["BA"]
_READ_CONTROL: Final = 0x00020000
# Types whose mask is no access mask: a label's policy, and those where it is unused.
_NO_ACCESS_MASK: Final = frozenset(
    {
        AceType.SYSTEM_MANDATORY_LABEL,
        AceType.SYSTEM_RESOURCE_ATTRIBUTE,
        AceType.SYSTEM_SCOPED_POLICY_ID,
    }
)
# These are inherited even by a protected SACL.
_THROUGH_PROTECTION: Final = frozenset({AceType.SYSTEM_RESOURCE_ATTRIBUTE, AceType.SYSTEM_SCOPED_POLICY_ID})
# An object type without a GUID of the object becomes the plain type (when the inherited GUID is dropped).
_PLAIN_TYPES: Final = {
    AceType.ACCESS_ALLOWED_OBJECT: AceType.ACCESS_ALLOWED,
    AceType.ACCESS_DENIED_OBJECT: AceType.ACCESS_DENIED,
    AceType.SYSTEM_AUDIT_OBJECT: AceType.SYSTEM_AUDIT,
    AceType.SYSTEM_ALARM_OBJECT: AceType.SYSTEM_ALARM,
    AceType.ACCESS_ALLOWED_CALLBACK_OBJECT: AceType.ACCESS_ALLOWED_CALLBACK,
    AceType.ACCESS_DENIED_CALLBACK_OBJECT: AceType.ACCESS_DENIED_CALLBACK,
    AceType.SYSTEM_AUDIT_CALLBACK_OBJECT: AceType.SYSTEM_AUDIT_CALLBACK,
    AceType.SYSTEM_ALARM_CALLBACK_OBJECT: AceType.SYSTEM_ALARM_CALLBACK,
}


def inherit(
    parent: bytes | None,
    *,
    is_directory: bool,
    owner: bytes | None = None,
    group: bytes | None = None,
    creator: bytes | None = None,
    default_dacl: bytes | None = None,
    auto_inherit: bool | None = None,
    layout: Layout = Layout.OWNER_FIRST,
) -> bytes:
    """The descriptor of a new file or directory.

    Args:
        parent: the directory's self-relative descriptor; None: there is none.
        is_directory: whether the new object is a directory.
        owner: the creating user's default owner, as a binary SID; None: Administrators, the default owner of
            whoever runs as an administrator or as SYSTEM.
        group: the creating user's primary group; None: SYSTEM, as in containers.
        creator: a descriptor that the creator asks for; its owner and group go before *owner* and *group*.
        default_dacl: the creating user's default DACL, as a binary ACL, for where nothing is inherited; None:
            what Windows gives: full control for owner and SYSTEM, or, where SYSTEM itself is the owner, full
            control for it and read and execute for Administrators.
        auto_inherit: whether what is inherited is marked as such, and joined with what *creator* asks for
            (the flags SEF_DACL_AUTO_INHERIT, SEF_SACL_AUTO_INHERIT of CreatePrivateObjectSecurityEx); None:
            as NTFS decides, that is where the parent's control says AUTO_INHERITED, for each ACL by itself.
        layout: the order of the parts.

    Raises:
        SecurityDescriptorError: an argument is malformed, or an ACL grows beyond what an ACL can hold.
    """
    optional = [
        None if data is None else bytes(data) for data in (parent, owner, group, creator, default_dacl)
    ]
    return _inherit(*optional, is_directory=is_directory, auto_inherit=auto_inherit, layout=layout)


@functools.lru_cache(maxsize=256)  # trees have many files, but few different parents
def _inherit(
    parent: bytes | None,
    owner: bytes | None,
    group: bytes | None,
    creator: bytes | None,
    default_dacl: bytes | None,
    *,
    is_directory: bool,
    auto_inherit: bool | None,
    layout: Layout,
) -> bytes:
    above = SecurityDescriptor() if parent is None else SecurityDescriptor.from_bytes(parent)
    asked = SecurityDescriptor() if creator is None else SecurityDescriptor.from_bytes(creator)
    new_owner = asked.owner or _sid(owner, "owner") or _ADMINISTRATORS
    new_group = asked.group or _sid(group, "group") or _SYSTEM
    rules = _Rules(is_directory, new_owner, new_group)
    fallback = _default_dacl(new_owner) if default_dacl is None else Acl.from_bytes(default_dacl)

    acls = []
    control = Control.SELF_RELATIVE
    for bits, parent_acl, asked_acl, default in (
        (_DACL, above.dacl, asked.dacl, fallback),
        (_SACL, above.sacl, asked.sacl, None),
    ):
        auto = bool(above.control & bits.auto_inherited) if auto_inherit is None else auto_inherit
        acl, set_bits = rules.compute(bits, parent_acl, asked_acl, asked.full_control, default, auto=auto)
        acls.append(acl)
        control |= set_bits
    dacl, sacl = acls
    return SecurityDescriptor(new_owner, new_group, sacl, dacl, control).to_bytes(layout)


@dataclasses.dataclass(frozen=True, slots=True)
class _AclBits:
    """The control bits of one of the two ACLs."""

    present: Control
    defaulted: Control
    protected: Control
    auto_inherited: Control


_DACL: Final = _AclBits(
    Control.DACL_PRESENT, Control.DACL_DEFAULTED, Control.DACL_PROTECTED, Control.DACL_AUTO_INHERITED
)
_SACL: Final = _AclBits(
    Control.SACL_PRESENT, Control.SACL_DEFAULTED, Control.SACL_PROTECTED, Control.SACL_AUTO_INHERITED
)


def _sid(data: bytes | None, name: str) -> Sid | None:
    if data is None:
        return None
    sid = Sid.from_bytes(data)
    if sid.size != len(data):
        raise SecurityDescriptorError(f"{name}: {len(data) - sid.size} bytes behind the SID")
    return sid


def _default_dacl(owner: Sid) -> Acl:
    if owner == _SYSTEM:
        others = GENERIC_READ | GENERIC_EXECUTE | _READ_CONTROL
        return Acl.of([_allow(_SYSTEM, GENERIC_ALL), _allow(_ADMINISTRATORS, others)])
    return Acl.of([_allow(owner, GENERIC_ALL), _allow(_SYSTEM, GENERIC_ALL)])


def _allow(sid: Sid, mask: int) -> Ace:
    return Ace(AceType.ACCESS_ALLOWED, 0, mask, sid)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rules:
    """How ACEs become those of the new object.

    Attributes:
        is_directory: whether it is a container.
        owner, group: what CREATOR OWNER and CREATOR GROUP become.
    """

    is_directory: bool
    owner: Sid
    group: Sid

    def compute(
        self,
        bits: _AclBits,
        parent: Acl | None,
        creator: Acl | None,
        creator_control: Control,
        default: Acl | None,
        *,
        auto: bool,
    ) -> tuple[Acl | None, Control]:
        """The new ACL and its control bits.

        Args:
            bits: the control bits of this kind of ACL.
            parent: the parent's ACL.
            creator, creator_control: the ACL asked for; whether there is one, and how it is marked.
            default: what there is when nothing else gives an ACL.
            auto: whether inheritance is automatic.
        """
        marks = bits.present | (bits.auto_inherited if auto else Control(0))
        inherited = list(self._inherited(parent, _ID if auto else 0))
        is_asked = bool(creator_control & bits.present)
        if is_asked and creator_control & bits.defaulted and inherited:
            is_asked = False  # only a default: what is inherited goes before it
        if is_asked:
            protected = bool(creator_control & bits.protected)
            if protected:
                marks = bits.present | bits.protected
                inherited = [ace for ace in inherited if ace.type in _THROUGH_PROTECTION]
            if creator is None:
                return None, marks
            explicit = list(self._explicit(creator, auto=auto, protected=protected))
            return Acl.of([*explicit, *inherited] if auto or protected else explicit), marks
        if inherited:
            return Acl.of(inherited), marks
        if default is None:
            return None, Control(0)
        return Acl.of([self._effective(ace, 0) for ace in default.aces]), marks

    def _inherited(self, parent: Acl | None, mark: int) -> Iterator[AnyAce]:
        granted: dict[object, int] = {}  # what earlier ACEs, marked as inherited, have in effect already
        for ace in () if parent is None else parent.aces:
            applies = bool(ace.flags & (_CI if self.is_directory else _OI))
            passes_on = self.is_directory and not ace.flags & _NP and bool(ace.flags & (_CI | _OI))
            inheritable = ace.flags & (_CI | _OI)
            if not applies:
                if passes_on:  # of no effect here, but on files below
                    yield _with_flags(ace, inheritable | _IO | mark)
                continue
            effective = self._effective(ace, mark)
            is_changed = _with_flags(effective, 0) != _with_flags(ace, 0)
            is_known = bool(mark) and _is_granted(effective, granted)
            if passes_on and not is_changed:
                yield _with_flags(ace, inheritable | mark)
                continue
            if not (is_changed and is_known):
                yield effective
            if passes_on:  # what is effective here differs from what is passed on, so there are two
                yield _with_flags(ace, inheritable | _IO | mark)

    def _explicit(self, creator: Acl, *, auto: bool, protected: bool) -> Iterator[AnyAce]:
        for ace in creator.aces:
            if ace.flags & _ID:
                # Not explicit at all: it came from some parent; what this one passes on is added anyway.
                if not protected:
                    continue
                ace = _with_flags(ace, ace.flags & _INHERITANCE & ~_ID)
            flags = ace.flags & _INHERITANCE
            if flags & _IO:
                yield ace
            elif not auto and not protected:
                yield dataclasses.replace(ace, mask=_mapped(ace)) if isinstance(ace, Ace) else ace
            elif not flags & (_CI | _OI):
                yield self._effective(ace, 0)
            else:
                effective = self._effective(ace, 0)
                if _with_flags(effective, flags) == ace:
                    yield ace
                else:
                    yield effective
                    yield _with_flags(ace, flags | _IO)

    def _effective(self, ace: AnyAce, mark: int) -> AnyAce:
        """*ace* as it takes effect on the new object, and on nothing below."""
        if not isinstance(ace, Ace):
            return _with_flags(ace, mark)
        sid = {_CREATOR_OWNER: self.owner, _CREATOR_GROUP: self.group}.get(ace.sid, ace.sid)
        kind = ace.type
        if ace.inherited_object_type is not None and ace.object_type is None and not ace.object_flags:
            kind = _PLAIN_TYPES.get(AceType(ace.type), ace.type)
        return dataclasses.replace(
            ace,
            type=kind,
            flags=(ace.flags & ~_INHERITANCE) | mark,
            mask=_mapped(ace),
            sid=sid,
            inherited_object_type=None,
        )


def _is_granted(ace: AnyAce, granted: dict[object, int]) -> bool:
    """Whether *granted* has all that *ace* says; if not, it is put there."""
    if not isinstance(ace, Ace):
        return False
    key = dataclasses.replace(ace, mask=0)
    before = granted.get(key, 0)
    granted[key] = before | ace.mask
    return before != 0 and ace.mask & ~before == 0


def _mapped(ace: Ace) -> int:
    return ace.mask if ace.type in _NO_ACCESS_MASK else map_generic_file_rights(ace.mask)


def _with_flags(ace: AnyAce, flags: int) -> AnyAce:
    """*ace* with *flags* as its inheritance flags; those of auditing stay."""
    return dataclasses.replace(ace, flags=(ace.flags & ~_INHERITANCE) | flags)
