"""What changes between two security descriptors, entry by entry, in SDDL and in words."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator

from winlayers.errors import SecurityDescriptorError
from winlayers.inspection.facts import sddl_text
from winlayers.win32.security import (
    Ace,
    AceFlags,
    AceType,
    AnyAce,
    Control,
    SecurityDescriptor,
    Sid,
    format_sddl,
)
from winlayers.win32.security.acl import Acl
from winlayers.win32.security.rights import (
    FILE_ALL_ACCESS,
    FILE_GENERIC_EXECUTE,
    FILE_GENERIC_READ,
    FILE_GENERIC_WRITE,
    map_generic_file_rights,
)

_NAMES = {
    "S-1-1-0": "Everyone",
    "S-1-3-0": "CREATOR OWNER",
    "S-1-3-1": "CREATOR GROUP",
    "S-1-3-4": "OWNER RIGHTS",
    "S-1-5-11": "Authenticated Users",
    "S-1-5-18": "SYSTEM",
    "S-1-5-19": "LOCAL SERVICE",
    "S-1-5-20": "NETWORK SERVICE",
    "S-1-5-32-544": "Administrators",
    "S-1-5-32-545": "Users",
    "S-1-5-32-546": "Guests",
    "S-1-5-32-547": "Power Users",
    "S-1-5-32-551": "Backup Operators",
    "S-1-5-32-568": "IIS_IUSRS",
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464": "TrustedInstaller",
    "S-1-5-93-2-1": "ContainerAdministrator",
    "S-1-5-93-2-2": "ContainerUser",
    "S-1-15-2-1": "ALL APPLICATION PACKAGES",
    "S-1-15-2-2": "ALL RESTRICTED APPLICATION PACKAGES",
    "S-1-16-4096": "Low integrity",
    "S-1-16-8192": "Medium integrity",
    "S-1-16-12288": "High integrity",
    "S-1-16-16384": "System integrity",
}
"""Accounts that occur on containers' files, by SID ([MS-DTYP] 2.4.2.4; S-1-5-93 are containers')."""

_DELETE = 0x10000
_MODIFY = FILE_GENERIC_READ | FILE_GENERIC_WRITE | FILE_GENERIC_EXECUTE | _DELETE
_RIGHTS = (
    (FILE_ALL_ACCESS, "full control"),
    (_MODIFY, "modify"),
    (FILE_GENERIC_READ | FILE_GENERIC_WRITE | FILE_GENERIC_EXECUTE, "read, write & execute"),
    (FILE_GENERIC_READ | FILE_GENERIC_WRITE, "read & write"),
    (FILE_GENERIC_READ | FILE_GENERIC_EXECUTE, "read & execute"),
    (FILE_GENERIC_READ, "read"),
    (FILE_GENERIC_WRITE, "write"),
    (FILE_GENERIC_EXECUTE, "execute"),
)
_VERBS = {
    AceType.ACCESS_ALLOWED: "allow",
    AceType.ACCESS_DENIED: "deny",
    AceType.SYSTEM_AUDIT: "audit",
    AceType.SYSTEM_MANDATORY_LABEL: "label",
    AceType.ACCESS_ALLOWED_CALLBACK: "allow on a condition",
    AceType.ACCESS_DENIED_CALLBACK: "deny on a condition",
}
_SYNCHRONIZE = 0x100000


@dataclasses.dataclass(frozen=True, slots=True)
class AccessLine:
    """One line of a comparison.

    Attributes:
        sign: ``+`` for what is new, ``-`` for what is gone, a blank for what stays.
        sddl: the part of the descriptor (``O:BA``, ``(A;;FA;;;SY)``).
        words: what it means.
    """

    sign: str
    sddl: str
    words: str


def compare_access(before: bytes | None, after: bytes | None) -> list[AccessLine]:
    """The parts of two descriptors, those that differ marked; None is no descriptor at all."""
    old, new = list(_parts(before)), list(_parts(after))
    lines = []
    matcher = difflib.SequenceMatcher(None, [p[0] for p in old], [p[0] for p in new], autojunk=False)
    for action, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if action == "equal":
            lines += [AccessLine(" ", *part) for part in old[old_from:old_to]]
            continue
        lines += [AccessLine("-", *part) for part in old[old_from:old_to]]
        lines += [AccessLine("+", *part) for part in new[new_from:new_to]]
    return lines


def same_access(before: bytes | None, after: bytes | None) -> bool:
    """Whether two descriptors say the same; how their parts are laid out does not matter."""
    return before == after or (before is not None and after is not None and _equal(before, after))


def _equal(before: bytes, after: bytes) -> bool:
    try:
        return SecurityDescriptor.from_bytes(before) == SecurityDescriptor.from_bytes(after)
    except SecurityDescriptorError:
        return False


def account(sid: Sid) -> str:
    """A SID as people call it, else its text."""
    return _NAMES.get(str(sid), str(sid))


def _parts(data: bytes | None) -> Iterator[tuple[str, str]]:
    if data is None:
        return
    try:
        descriptor = SecurityDescriptor.from_bytes(data)
    except SecurityDescriptorError:
        yield sddl_text(data) or "", "malformed"
        return
    if descriptor.owner is not None:
        yield (
            _text(SecurityDescriptor(owner=descriptor.owner), f"O:{descriptor.owner}"),
            (f"owner {account(descriptor.owner)}"),
        )
    if descriptor.group is not None:
        yield (
            _text(SecurityDescriptor(group=descriptor.group), f"G:{descriptor.group}"),
            (f"group {account(descriptor.group)}"),
        )
    yield from _acl_parts(
        "D", descriptor.dacl, descriptor.control, Control.DACL_PRESENT, Control.DACL_PROTECTED
    )
    yield from _acl_parts(
        "S", descriptor.sacl, descriptor.control, Control.SACL_PRESENT, Control.SACL_PROTECTED
    )


def _acl_parts(
    letter: str, acl: Acl | None, control: Control, present: Control, protected: Control
) -> Iterator[tuple[str, str]]:
    if acl is None:
        if control & present:
            yield (
                f"{letter}:NO_ACCESS_CONTROL",
                "anyone may do anything" if letter == "D" else "nothing audited",
            )
        return
    if control & protected:
        yield f"{letter}:P", "does not inherit from the directory above"
    for ace in acl.aces:
        whole = (
            SecurityDescriptor(dacl=Acl.of([ace]))
            if letter == "D"
            else SecurityDescriptor(sacl=Acl.of([ace]))
        )
        yield _text(whole, f"{letter}:(type {ace.type:#x})")[2:], describe_ace(ace)


def _text(descriptor: SecurityDescriptor, fallback: str) -> str:
    try:
        return format_sddl(descriptor, strict=False)
    except SecurityDescriptorError:
        return fallback


def describe_ace(ace: AnyAce) -> str:
    """An access control entry in words: ``allow Users read & execute (inherited)``."""
    if not isinstance(ace, Ace):
        return f"an entry of type {ace.type:#04x}"
    verb = _VERBS.get(AceType(ace.type), AceType(ace.type).name.lower().replace("_", " "))
    words = [verb, account(ace.sid)]
    if ace.type != AceType.SYSTEM_MANDATORY_LABEL:
        words.append(_rights_words(ace.mask))
    return " ".join(words) + _inheritance_words(AceFlags(ace.flags))


def _rights_words(mask: int) -> str:
    mapped = map_generic_file_rights(mask)
    for wanted, words in _RIGHTS:
        if mapped | _SYNCHRONIZE == wanted | _SYNCHRONIZE:
            return words
    return f"rights {mask:#x}"


def _inheritance_words(flags: AceFlags) -> str:
    words = []
    if flags & AceFlags.INHERITED:
        words.append("inherited")
    inherit = flags & (AceFlags.OBJECT_INHERIT | AceFlags.CONTAINER_INHERIT)
    if inherit:
        reach = {
            AceFlags.OBJECT_INHERIT: "files",
            AceFlags.CONTAINER_INHERIT: "folders",
        }.get(inherit, "folders and files")
        words.append(f"for {reach} below{' only' if flags & AceFlags.INHERIT_ONLY else ''}")
    return f" ({', '.join(words)})" if words else ""
