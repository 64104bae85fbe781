"""Security descriptors as text: SDDL, both ways.

The language is that of [MS-DTYP] 2.5.1 and of Windows' ConvertStringSecurityDescriptorToSecurityDescriptor
and ConvertSecurityDescriptorToStringSecurityDescriptor; what is written is written as Windows writes it.

Reading is as tolerant as Windows is (names in any case, blanks in most places) but never guesses: numbers
that are too large are refused, not clamped.  Writing refuses what the text cannot carry, rather than losing
it; what is not carried, because it has no meaning, is where the parts stand, padding, and an ACL's revision.
"""

from __future__ import annotations

import re
import uuid
from types import MappingProxyType
from typing import Final

from winlayers.errors import SddlError, SecurityDescriptorError
from winlayers.win32.security.ace import CONDITIONAL_TYPES, Ace, AceFlags, AceType, AnyAce
from winlayers.win32.security.acl import Acl
from winlayers.win32.security.claims import Claim
from winlayers.win32.security.conditions import condition_to_bytes, parse_condition
from winlayers.win32.security.descriptor import Control, Layout, SecurityDescriptor
from winlayers.win32.security.rights import format_rights, parse_rights
from winlayers.win32.security.sddl_conditions import (
    format_claim,
    format_condition,
    parse_claim,
    parse_condition_text,
)
from winlayers.win32.security.sddl_text import WHITESPACE, Cursor, ascii_upper
from winlayers.win32.security.sid import NO_DOMAINS, WELL_KNOWN_SIDS, Domains, Sid

__all__ = ["bytes_to_sddl", "format_sddl", "parse_sddl", "sddl_to_bytes"]

_ACE_TYPES: Final = MappingProxyType(
    {
        "A": AceType.ACCESS_ALLOWED,
        "D": AceType.ACCESS_DENIED,
        "AU": AceType.SYSTEM_AUDIT,
        "AL": AceType.SYSTEM_ALARM,
        "OA": AceType.ACCESS_ALLOWED_OBJECT,
        "OD": AceType.ACCESS_DENIED_OBJECT,
        "OU": AceType.SYSTEM_AUDIT_OBJECT,
        "OL": AceType.SYSTEM_ALARM_OBJECT,
        "XA": AceType.ACCESS_ALLOWED_CALLBACK,
        "XD": AceType.ACCESS_DENIED_CALLBACK,
        "ZA": AceType.ACCESS_ALLOWED_CALLBACK_OBJECT,
        "XU": AceType.SYSTEM_AUDIT_CALLBACK,
        "ML": AceType.SYSTEM_MANDATORY_LABEL,
        "RA": AceType.SYSTEM_RESOURCE_ATTRIBUTE,
        "SP": AceType.SYSTEM_SCOPED_POLICY_ID,
        "TL": AceType.SYSTEM_PROCESS_TRUST_LABEL,
        "FL": AceType.SYSTEM_ACCESS_FILTER,
    }
)
_ACE_TYPE_NAMES: Final = MappingProxyType({int(kind): name for name, kind in _ACE_TYPES.items()})
# In the order in which Windows writes them.  TP is the name of SA's bit in an access filter.
_ACE_FLAGS: Final = MappingProxyType(
    {
        "OI": AceFlags.OBJECT_INHERIT,
        "CI": AceFlags.CONTAINER_INHERIT,
        "NP": AceFlags.NO_PROPAGATE_INHERIT,
        "IO": AceFlags.INHERIT_ONLY,
        "ID": AceFlags.INHERITED,
        "SA": AceFlags.SUCCESSFUL_ACCESS,
        "FA": AceFlags.FAILED_ACCESS,
        "CR": AceFlags.CRITICAL,
    }
)
_TRUST_PROTECTED: Final = "TP"
_NULL_ACL: Final = "NO_ACCESS_CONTROL"
_FIELD: Final = re.compile(r"[^;()]*")
_WORD: Final = re.compile(r"([A-Za-z]{2}) *")
_GUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_EVERYONE: Final = WELL_KNOWN_SIDS["WD"]
# An ACL's flags and the control bits that they are; the SACL's bits are the DACL's shifted by one.
_DACL_FLAGS: Final = MappingProxyType(
    {
        "P": Control.DACL_PROTECTED,
        "AR": Control.DACL_AUTO_INHERIT_REQ,
        "AI": Control.DACL_AUTO_INHERITED,
    }
)
_MAX_ACES: Final = 0xFFFF // 16


def sddl_to_bytes(
    text: str,
    *,
    machine_sid: Sid | str | None = None,
    domain_sid: Sid | str | None = None,
    forest_sid: Sid | str | None = None,
    layout: Layout = Layout.ACLS_FIRST,
) -> bytes:
    """The self-relative descriptor that *text* describes.

    Args:
        text: SDDL.
        machine_sid: the local account domain, for the aliases LA and LG.
        domain_sid: the Active Directory domain, for DA, DU, DC and the like.
        forest_sid: the forest's root domain, for EA, SA, RO, EK; None: *domain_sid*.
        layout: the order of the parts; the default is what Windows writes here.

    Raises:
        SddlError: the text is malformed, or describes what no descriptor can hold.
    """
    domains = _domains(machine_sid, domain_sid, forest_sid)
    try:
        return parse_sddl(text, domains).to_bytes(layout)
    except SddlError:
        raise
    except SecurityDescriptorError as error:
        raise SddlError(error.message) from error


def bytes_to_sddl(
    data: bytes,
    *,
    machine_sid: Sid | str | None = None,
    domain_sid: Sid | str | None = None,
    forest_sid: Sid | str | None = None,
    strict: bool = True,
) -> str:
    """The SDDL of the self-relative descriptor *data*.

    Args:
        data: the descriptor.
        machine_sid, domain_sid, forest_sid: SIDs of these domains are written as aliases where there is one.
        strict: as for :func:`format_sddl`.

    Raises:
        SddlError: SDDL cannot say what the descriptor says.
        SecurityDescriptorError: *data* is malformed.
    """
    domains = _domains(machine_sid, domain_sid, forest_sid)
    return format_sddl(SecurityDescriptor.from_bytes(data), domains, strict=strict)


def _domains(*sids: Sid | str | None) -> Domains:
    machine, domain, forest = [Sid.parse(sid) if isinstance(sid, str) else sid for sid in sids]
    return Domains(machine, domain, forest)


# -- reading ----------------------------------------------------------------------------------------


def parse_sddl(text: str, domains: Domains = NO_DOMAINS) -> SecurityDescriptor:
    """The descriptor that *text* describes.

    Raises:
        SddlError: the text is malformed.
    """
    cursor = Cursor(text, domains)
    sids: dict[str, Sid] = {}
    acls: dict[str, Acl | None] = {}
    control = Control.SELF_RELATIVE
    cursor.skip()
    while cursor.at < len(text):
        tag = cursor.peek()
        if tag not in "OGDS" or cursor.peek(2)[1:] != ":":
            cursor.fail("expected O:, G:, D: or S:")
        if tag in sids or tag in acls:
            cursor.fail(f"a second {tag}:")
        cursor.at += 2
        cursor.skip()
        if tag in "OG":
            sids[tag] = cursor.sid()
        else:
            acls[tag], bits = _parse_acl(cursor)
            control |= (
                Control.DACL_PRESENT | bits if tag == "D" else Control.SACL_PRESENT | Control(bits << 1)
            )
        cursor.skip()
    return SecurityDescriptor(sids.get("O"), sids.get("G"), acls.get("S"), acls.get("D"), control)


def _parse_acl(cursor: Cursor) -> tuple[Acl | None, Control]:
    """An ACL, None for a NULL one, and the control bits of its flags as those of a DACL."""
    bits = Control(0)
    is_null = False
    while not is_null:
        for name, bit in _DACL_FLAGS.items():
            if cursor.take_word(name):
                bits |= bit
                break
        else:
            is_null = cursor.take_word(_NULL_ACL)
            if not is_null:
                break
        cursor.skip()
    aces: list[AnyAce] = []
    while cursor.peek() == "(":
        if is_null:
            cursor.fail(f"entries after {_NULL_ACL}")
        if len(aces) >= _MAX_ACES:
            cursor.fail("more entries than an ACL can hold")
        aces.append(_parse_ace(cursor))
        cursor.skip()
    return (None if is_null else Acl.of(aces)), bits


def _parse_ace(cursor: Cursor) -> Ace:
    start = cursor.at
    cursor.expect("(")
    fields = []
    for _ in range(5):
        found = cursor.match(_FIELD)
        fields.append(found[0] if found is not None else "")
        cursor.expect(";")
    kind = _ACE_TYPES.get(ascii_upper(fields[0].strip(" ")))
    if kind is None:
        cursor.fail(f"unknown ACE type {fields[0][:20]!r}", start)
    flags = _parse_flags(fields[1])
    mask = parse_rights(fields[2])
    guids = [_parse_guid(cursor, text, start) for text in fields[3:]]
    cursor.skip()
    found_alias = cursor.peek(2)[1:] != "-"
    sid = cursor.sid()
    if found_alias:
        cursor.skip()
    data = b""
    if kind in CONDITIONAL_TYPES:
        cursor.expect(";")
        data = condition_to_bytes(parse_condition_text(cursor))
        cursor.skip(WHITESPACE)
    elif kind is AceType.SYSTEM_RESOURCE_ATTRIBUTE:
        if sid != _EVERYONE:
            cursor.fail("a resource attribute belongs to WD")
        cursor.expect(";")
        data = parse_claim(cursor).to_bytes()
        cursor.skip(WHITESPACE)
    cursor.expect(")")
    try:
        return Ace(kind, flags, mask, sid, guids[0], guids[1], 0, data)
    except SecurityDescriptorError as error:
        cursor.fail(error.message, start)


def _parse_flags(text: str) -> int:
    flags = at = 0
    text = text.strip(" ")
    while at < len(text):
        found = _WORD.match(text, at)
        name = "" if found is None else found[1].upper()
        if found is None or (name != _TRUST_PROTECTED and name not in _ACE_FLAGS):
            raise SddlError(f"unknown ACE flag {text[at : at + 2]!r} in {text[:100]!r}")
        flags |= AceFlags.SUCCESSFUL_ACCESS if name == _TRUST_PROTECTED else _ACE_FLAGS[name]
        at = found.end()
    return flags


def _parse_guid(cursor: Cursor, text: str, start: int) -> uuid.UUID | None:
    if not text.strip(" "):
        return None
    if _GUID.fullmatch(text) is None:
        cursor.fail(f"malformed GUID {text[:50]!r}", start)
    return uuid.UUID(text)


# -- writing ----------------------------------------------------------------------------------------


def format_sddl(descriptor: SecurityDescriptor, domains: Domains = NO_DOMAINS, *, strict: bool = True) -> str:
    """*descriptor* as SDDL.

    Args:
        domains: SIDs of these domains are written as aliases where there is one.
        strict: whether to refuse a descriptor that its text would not give back; otherwise what has no text
            is left out where the rest stands without it (control bits such as DACL_DEFAULTED), as Windows
            does.

    Raises:
        SddlError: SDDL cannot say what the descriptor says.
    """
    parts = []
    if descriptor.owner is not None:
        parts.append(f"O:{_format_sid(descriptor.owner, domains)}")
    if descriptor.group is not None:
        parts.append(f"G:{_format_sid(descriptor.group, domains)}")
    control = descriptor.full_control
    if control & Control.DACL_PRESENT:
        parts.append("D:" + _format_acl(descriptor.dacl, control, domains))
    if control & Control.SACL_PRESENT:
        parts.append("S:" + _format_acl(descriptor.sacl, Control(control >> 1), domains))
    text = "".join(parts)
    if strict:
        _check_faithful(descriptor, text, domains)
    return text


def _format_sid(sid: Sid, domains: Domains) -> str:
    return domains.alias(sid) or str(sid)


def _format_acl(acl: Acl | None, bits: Control, domains: Domains) -> str:
    flags = "".join(name for name, bit in _DACL_FLAGS.items() if bits & bit)
    if acl is None:
        return flags + _NULL_ACL
    return flags + "".join([_format_ace(ace, domains) for ace in acl.aces])


def _format_ace(ace: AnyAce, domains: Domains) -> str:
    kind = _ACE_TYPE_NAMES.get(ace.type)
    if kind is None or not isinstance(ace, Ace):
        raise SddlError(f"ACE of type {ace.type:#04x} has no text")
    flags = "".join([name for name, bit in _ACE_FLAGS.items() if ace.flags & bit])
    if ace.type == AceType.SYSTEM_ACCESS_FILTER:
        flags = flags.replace("SA", _TRUST_PROTECTED)
    fields = [
        kind,
        flags,
        format_rights(ace.mask, ace.type),
        "" if ace.object_type is None else str(ace.object_type),
        "" if ace.inherited_object_type is None else str(ace.inherited_object_type),
        _format_sid(ace.sid, domains),
    ]
    try:
        if ace.type in CONDITIONAL_TYPES:
            fields.append(format_condition(parse_condition(ace.application_data), domains))
        elif ace.type == AceType.SYSTEM_RESOURCE_ATTRIBUTE:
            fields.append(format_claim(Claim.from_bytes(ace.application_data), domains))
    except SddlError:
        raise
    except SecurityDescriptorError as error:
        raise SddlError(f"{kind} ACE has no text: {error.message}") from error
    return f"({';'.join(fields)})"


def _check_faithful(descriptor: SecurityDescriptor, text: str, domains: Domains) -> None:
    """Read *text* back, to be sure that nothing is lost in it.

    Raises:
        SddlError: what *text* does not give back.
    """
    again = parse_sddl(text, domains)
    if descriptor.full_control != again.full_control:
        lost = Control(descriptor.full_control ^ again.full_control)
        raise SddlError(
            f"control bits {lost:#x} ({lost.name}) have no text", hint="strict=False leaves them out"
        )
    if descriptor.sbz1:
        raise SddlError(f"the resource manager control {descriptor.sbz1:#x} has no text")
    if (descriptor.owner, descriptor.group) != (again.owner, again.group):
        raise SddlError("the owner or group does not survive as text")
    for name, before, after in (("SACL", descriptor.sacl, again.sacl), ("DACL", descriptor.dacl, again.dacl)):
        if before is None or after is None:
            continue
        for index, (ace, ace_again) in enumerate(zip(before.aces, after.aces, strict=True)):
            if _meaning(ace) != _meaning(ace_again):
                raise SddlError(f"{name}: ACE {index} holds what has no text")


def _meaning(ace: AnyAce) -> object:
    """What *ace* says, whatever the padding and layout of its application data."""
    if not isinstance(ace, Ace):
        return ace
    data: object = ace.application_data
    if ace.type in CONDITIONAL_TYPES:
        data = parse_condition(ace.application_data)
    elif ace.type == AceType.SYSTEM_RESOURCE_ATTRIBUTE:
        data = Claim.from_bytes(ace.application_data)
    return (
        ace.type,
        ace.flags,
        ace.mask,
        ace.sid,
        ace.object_type,
        ace.inherited_object_type,
        ace.object_flags,
        data,
    )
