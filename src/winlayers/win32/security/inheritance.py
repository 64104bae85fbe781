"""The descriptor of a new file or directory, as Windows computes it from its parent's.

Rules: [MS-DTYP] 2.5.3.4 and "ACE inheritance rules" of the Windows documentation.  Two things that they leave
open were taken from tests that their authors ran against Windows: on NTFS a child is marked as inherited
(INHERITED on its ACEs, AUTO_INHERITED in its control) only if the parent's control says AUTO_INHERITED
(Samba, smbtorture's smb2.acls.INHERITFLAGS); and an explicit ACL where nothing is auto-inherited has its
generic rights mapped, but is not split (ReactOS, the kernel-mode test SeInheritance).
"""

from __future__ import annotations

import dataclasses
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

_OI: Final = AceFlags.OBJECT_INHERIT
_CI: Final = AceFlags.CONTAINER_INHERIT
_NP: Final = AceFlags.NO_PROPAGATE_INHERIT
_IO: Final = AceFlags.INHERIT_ONLY
_ID: Final = AceFlags.INHERITED
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
        layout: the order of the parts; the default is what a backup of a file gives.

    Raises:
        SecurityDescriptorError: an argument is malformed, or an ACL grows beyond what an ACL can hold.
    """
    above = SecurityDescriptor() if parent is None else SecurityDescriptor.from_bytes(parent)
    asked = SecurityDescriptor() if creator is None else SecurityDescriptor.from_bytes(creator)
    new_owner = asked.owner or _sid(owner, "owner") or _ADMINISTRATORS
    new_group = asked.group or _sid(group, "group") or _SYSTEM
    rules = _Rules(is_directory, new_owner, new_group)

    auto_dacl = auto_inherit
    auto_sacl = auto_inherit
    if auto_inherit is None:
        auto_dacl = bool(above.control & Control.DACL_AUTO_INHERITED)
        auto_sacl = bool(above.control & Control.SACL_AUTO_INHERITED)
    fallback = _default_dacl(new_owner) if default_dacl is None else Acl.from_bytes(default_dacl)

    dacl, dacl_bits = rules.compute(
        above.dacl, asked.dacl, asked.full_control, fallback, auto=bool(auto_dacl)
    )
    sacl, sacl_bits = rules.compute(
        above.sacl, asked.sacl, Control(asked.full_control >> 1), None, auto=bool(auto_sacl), system=True
    )
    # A SACL's control bits are a DACL's shifted by one, but for PRESENT and DEFAULTED.
    if sacl_bits & Control.DACL_PRESENT:
        sacl_bits ^= Control.DACL_PRESENT
        control = Control(sacl_bits << 1) | Control.SACL_PRESENT
    else:
        control = Control(0)
    return SecurityDescriptor(new_owner, new_group, sacl, dacl, control | dacl_bits).to_bytes(layout)


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
        parent: Acl | None,
        creator: Acl | None,
        creator_control: Control,
        default: Acl | None,
        *,
        auto: bool,
        system: bool = False,
    ) -> tuple[Acl | None, Control]:
        """The new ACL and its control bits, those of a SACL given as those of a DACL.

        Args:
            parent: the parent's ACL.
            creator, creator_control: the ACL asked for; whether there is one, and how it is marked.
            default: what there is when nothing else gives an ACL.
            auto: whether inheritance is automatic.
            system: whether it is a SACL.
        """
        marks = Control.DACL_AUTO_INHERITED if auto else Control(0)
        inherited = list(self._inherited(parent, _ID if auto else AceFlags(0)))
        is_asked = _present(creator_control, system=system)
        if is_asked and creator_control & Control.DACL_DEFAULTED and inherited:
            is_asked = False  # only a default: what is inherited goes before it
        if is_asked:
            protected = bool(creator_control & Control.DACL_PROTECTED)
            if protected:
                marks = Control.DACL_PROTECTED
                inherited = [ace for ace in inherited if system and ace.type in _THROUGH_PROTECTION]
            if creator is None and not (system and inherited):
                return None, marks | Control.DACL_PRESENT
            explicit = (
                [] if creator is None else list(self._explicit(creator, auto=auto, protected=protected))
            )
            joined = [*explicit, *inherited] if auto or protected else explicit
            return Acl.of(joined), marks | Control.DACL_PRESENT
        if inherited:
            return Acl.of(inherited), marks | Control.DACL_PRESENT
        if default is None:
            return None, Control(0)
        return Acl.of(
            [self._effective(ace, AceFlags(0)) for ace in default.aces]
        ), marks | Control.DACL_PRESENT

    def _inherited(self, parent: Acl | None, mark: AceFlags) -> Iterator[AnyAce]:
        for ace in () if parent is None else parent.aces:
            applies = bool(ace.flags & (_CI if self.is_directory else _OI))
            passes_on = self.is_directory and not ace.flags & _NP and bool(ace.flags & (_CI | _OI))
            inheritable = AceFlags(ace.flags) & (_CI | _OI)
            if not applies:
                if passes_on:  # of no effect here, but on files below
                    yield _with_flags(ace, inheritable | _IO | mark)
                continue
            effective = self._effective(ace, mark)
            if not passes_on:
                yield effective
            elif _with_flags(effective, AceFlags(0)) == _with_flags(ace, AceFlags(0)):
                yield _with_flags(ace, inheritable | mark)
            else:
                # What is effective here differs from what is passed on, so there are two.
                yield effective
                yield _with_flags(ace, inheritable | _IO | mark)

    def _explicit(self, creator: Acl, *, auto: bool, protected: bool) -> Iterator[AnyAce]:
        for ace in creator.aces:
            if ace.flags & _ID:
                # Not explicit at all: it came from some parent; what this one passes on is added anyway.
                if not protected:
                    continue
                ace = _with_flags(ace, AceFlags(ace.flags & _INHERITANCE & ~_ID))
            flags = AceFlags(ace.flags & _INHERITANCE)
            if flags & _IO:
                yield ace
            elif not auto and not protected:
                yield dataclasses.replace(ace, mask=_mapped(ace)) if isinstance(ace, Ace) else ace
            elif not flags & (_CI | _OI):
                yield self._effective(ace, AceFlags(0))
            else:
                effective = self._effective(ace, AceFlags(0))
                if _with_flags(effective, flags) == ace:
                    yield ace
                else:
                    yield effective
                    yield _with_flags(ace, flags | _IO)

    def _effective(self, ace: AnyAce, mark: AceFlags) -> AnyAce:
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
            flags=int((ace.flags & ~_INHERITANCE) | mark),
            mask=_mapped(ace),
            sid=sid,
            inherited_object_type=None,
        )


def _present(control: Control, *, system: bool) -> bool:
    # Shifted by one, SACL_PRESENT (0x10) is 0x08, not DACL_PRESENT's 0x04.
    return bool(control & (Control(0x08) if system else Control.DACL_PRESENT))


def _mapped(ace: Ace) -> int:
    return ace.mask if ace.type in _NO_ACCESS_MASK else map_generic_file_rights(ace.mask)


def _with_flags(ace: AnyAce, flags: AceFlags) -> AnyAce:
    """*ace* with *flags* as its inheritance flags; those of auditing stay."""
    return dataclasses.replace(ace, flags=int((ace.flags & ~_INHERITANCE) | flags))
