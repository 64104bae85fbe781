"""Security identifiers: binary form, text form, and the two-letter aliases that SDDL has for them.

Layout ([MS-DTYP] 2.4.2.2), all integers little-endian but the authority::

    u8  revision (1)
    u8  count of sub-authorities (0 to 15)
    u8  authority[6], big-endian
    u32 sub-authority[count]

Aliases are those of [MS-DTYP] 2.5.1.1 and of the ``SDDL_*`` constants of sddl.h.  Some stand for accounts of
the local machine, of its domain or of the forest's root domain; those need that domain's SID, given with
:class:`Domains`.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from types import MappingProxyType
from typing import Final

from winlayers.errors import SddlError, SecurityDescriptorError

__all__ = ["MAX_SUBAUTHORITIES", "NO_DOMAINS", "WELL_KNOWN_SIDS", "Domains", "Sid"]

MAX_SUBAUTHORITIES: Final = 15
_TEXT = re.compile(r"[Ss]-1-(0[xX][0-9A-Fa-f]+|[0-9]+)((?:-(?:0[xX][0-9A-Fa-f]+|[0-9]+))*)")


@dataclasses.dataclass(frozen=True, slots=True)
class Sid:
    """A security identifier.

    Attributes:
        authority: the 48-bit identifier authority.
        subauthorities: up to 15 unsigned 32-bit numbers; the last one is the RID where there is a domain.
    """

    authority: int
    subauthorities: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.authority < 1 << 48:
            raise SecurityDescriptorError(f"SID: authority {self.authority} does not fit in 48 bits")
        if len(self.subauthorities) > MAX_SUBAUTHORITIES:
            raise SecurityDescriptorError(
                f"SID: {len(self.subauthorities)} sub-authorities, at most {MAX_SUBAUTHORITIES} are possible"
            )
        for number in self.subauthorities:
            if not 0 <= number < 1 << 32:
                raise SecurityDescriptorError(f"SID: sub-authority {number} does not fit in 32 bits")

    @classmethod
    def from_bytes(cls, data: bytes, offset: int = 0, end: int | None = None) -> Sid:
        """The SID at *offset* of *data*, which may go on behind it, but not past *end*.

        Raises:
            SecurityDescriptorError: cut off, of another revision, or with more than 15 sub-authorities.
        """
        limit = len(data) if end is None else end
        if offset < 0 or offset + 8 > limit:
            raise SecurityDescriptorError(f"SID at offset {offset}: cut off")
        revision, count = data[offset], data[offset + 1]
        if revision != 1:
            raise SecurityDescriptorError(f"SID at offset {offset}: revision {revision}, only 1 exists")
        if count > MAX_SUBAUTHORITIES:
            raise SecurityDescriptorError(
                f"SID at offset {offset}: {count} sub-authorities, at most {MAX_SUBAUTHORITIES} are possible"
            )
        if offset + 8 + 4 * count > limit:
            raise SecurityDescriptorError(f"SID at offset {offset}: cut off")
        authority = int.from_bytes(data[offset + 2 : offset + 8], "big")
        return cls(authority, struct.unpack_from(f"<{count}I", data, offset + 8))

    @classmethod
    def parse(cls, text: str) -> Sid:
        """The SID that *text*, ``S-1-...``, names; numbers may be decimal or ``0x`` hexadecimal.

        Raises:
            SddlError: not of that form, or a number too large for its field (Windows clamps such numbers;
                nobody means what that gives).
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise SddlError(f"malformed SID {text[:200]!r}")
        numbers = [_number(part) for part in match[2].split("-")[1:]]
        try:
            return cls(_number(match[1]), tuple(numbers))
        except SddlError:
            raise
        except SecurityDescriptorError as error:
            raise SddlError(f"malformed SID {text[:200]!r}: {error.message}") from error

    @property
    def size(self) -> int:
        """The number of bytes of the binary form."""
        return 8 + 4 * len(self.subauthorities)

    def to_bytes(self) -> bytes:
        """The binary form."""
        count = len(self.subauthorities)
        head = bytes((1, count)) + self.authority.to_bytes(6, "big")
        return head + struct.pack(f"<{count}I", *self.subauthorities)

    def with_rid(self, rid: int) -> Sid:
        """The account *rid* of the domain that this SID names."""
        return Sid(self.authority, (*self.subauthorities, rid))

    def __str__(self) -> str:
        # Windows writes an authority of more than 32 bits in hexadecimal.
        authority = f"{self.authority}" if self.authority < 1 << 32 else f"0x{self.authority:X}"
        return "-".join(["S-1", authority, *map(str, self.subauthorities)])


def _number(text: str) -> int:
    """A part of a SID's text.  No field holds more than 48 bits, so long ones are not converted at all."""
    if len(text) > 32:
        raise SddlError(f"malformed SID: the number {text[:32]}... is too large")
    return int(text, 16) if text[:2] in ("0x", "0X") else int(text, 10)


def _builtin(rid: int) -> Sid:
    return Sid(5, (32, rid))


WELL_KNOWN_SIDS: Final = MappingProxyType(
    {
        "WD": Sid(1, (0,)),  # Everyone
        "CO": Sid(3, (0,)),  # CREATOR OWNER
        "CG": Sid(3, (1,)),  # CREATOR GROUP
        "OW": Sid(3, (4,)),  # OWNER RIGHTS
        "NU": Sid(5, (2,)),  # NETWORK
        "IU": Sid(5, (4,)),  # INTERACTIVE
        "SU": Sid(5, (6,)),  # SERVICE
        "AN": Sid(5, (7,)),  # ANONYMOUS LOGON
        "ED": Sid(5, (9,)),  # ENTERPRISE DOMAIN CONTROLLERS
        "PS": Sid(5, (10,)),  # SELF
        "AU": Sid(5, (11,)),  # Authenticated Users
        "RC": Sid(5, (12,)),  # RESTRICTED
        "SY": Sid(5, (18,)),  # SYSTEM
        "LS": Sid(5, (19,)),  # LOCAL SERVICE
        "NS": Sid(5, (20,)),  # NETWORK SERVICE
        "WR": Sid(5, (33,)),  # WRITE RESTRICTED
        "BA": _builtin(544),  # Administrators
        "BU": _builtin(545),  # Users
        "BG": _builtin(546),  # Guests
        "PU": _builtin(547),  # Power Users
        "AO": _builtin(548),  # Account Operators
        "SO": _builtin(549),  # Server Operators
        "PO": _builtin(550),  # Print Operators
        "BO": _builtin(551),  # Backup Operators
        "RE": _builtin(552),  # Replicator
        "RU": _builtin(554),  # Pre-Windows 2000 Compatible Access
        "RD": _builtin(555),  # Remote Desktop Users
        "NO": _builtin(556),  # Network Configuration Operators
        "MU": _builtin(558),  # Performance Monitor Users
        "LU": _builtin(559),  # Performance Log Users
        "IS": _builtin(568),  # IIS_IUSRS
        "CY": _builtin(569),  # Cryptographic Operators
        "ER": _builtin(573),  # Event Log Readers
        "CD": _builtin(574),  # Certificate Service DCOM Access
        "RA": _builtin(575),  # RDS Remote Access Servers
        "ES": _builtin(576),  # RDS Endpoint Servers
        "MS": _builtin(577),  # RDS Management Servers
        "HA": _builtin(578),  # Hyper-V Administrators
        "AA": _builtin(579),  # Access Control Assistance Operators
        "RM": _builtin(580),  # Remote Management Users
        "UD": Sid(5, (84, 0, 0, 0, 0, 0)),  # User Mode Drivers
        "AC": Sid(15, (2, 1)),  # ALL APPLICATION PACKAGES
        "AS": Sid(18, (1,)),  # Authentication authority asserted identity
        "SS": Sid(18, (2,)),  # Service asserted identity
        "LW": Sid(16, (0x1000,)),  # Low mandatory level
        "ME": Sid(16, (0x2000,)),  # Medium
        "MP": Sid(16, (0x2100,)),  # Medium plus
        "HI": Sid(16, (0x3000,)),  # High
        "SI": Sid(16, (0x4000,)),  # System
    }
)

# RIDs of accounts in the machine's own domain, in its Active Directory domain, in the forest's root domain.
_MACHINE_RIDS: Final = MappingProxyType({"LA": 500, "LG": 501})
_DOMAIN_RIDS: Final = MappingProxyType(
    {
        "DA": 512,  # Domain Admins
        "DU": 513,  # Domain Users
        "DG": 514,  # Domain Guests
        "DC": 515,  # Domain Computers
        "DD": 516,  # Domain Controllers
        "CA": 517,  # Cert Publishers
        "PA": 520,  # Group Policy Creator Owners
        "CN": 522,  # Cloneable Domain Controllers
        "AP": 525,  # Protected Users
        "KA": 526,  # Key Admins
        "RS": 553,  # RAS and IAS Servers
    }
)
_FOREST_RIDS: Final = MappingProxyType({"RO": 498, "SA": 518, "EA": 519, "EK": 527})

_ALIASES_BY_SID: Final = MappingProxyType({sid: alias for alias, sid in WELL_KNOWN_SIDS.items()})


@dataclasses.dataclass(frozen=True, slots=True)
class Domains:
    """The domains that domain-relative aliases stand for; None: not known, the alias is refused.

    Attributes:
        machine: the SID of the local account domain (``LA``, ``LG``).
        domain: the SID of the Active Directory domain (``DA``, ``DU``, ``DC`` ...).
        forest: the SID of the forest's root domain (``EA``, ``SA``, ``RO``, ``EK``); None: *domain*.
    """

    machine: Sid | None = None
    domain: Sid | None = None
    forest: Sid | None = None

    def resolve(self, alias: str) -> Sid:
        """The SID of a two-letter *alias*, in upper case.

        Raises:
            SddlError: no such alias, or its domain is not known here.
        """
        fixed = WELL_KNOWN_SIDS.get(alias)
        if fixed is not None:
            return fixed
        for kind, rids, domain in self._relative():
            if alias in rids:
                if domain is None:
                    raise SddlError(
                        f"SID alias {alias!r} belongs to a {kind} that is not known here",
                        hint=f"give {kind}_sid, or write the SID out",
                    )
                return domain.with_rid(rids[alias])
        raise SddlError(f"unknown SID alias {alias!r}")

    def alias(self, sid: Sid) -> str | None:
        """The alias of *sid*, None if it has none."""
        fixed = _ALIASES_BY_SID.get(sid)
        if fixed is not None:
            return fixed
        if len(sid.subauthorities) < 2:
            return None
        domain_of_sid = Sid(sid.authority, sid.subauthorities[:-1])
        for _, rids, domain in self._relative():
            if domain == domain_of_sid:
                for alias, rid in rids.items():
                    if rid == sid.subauthorities[-1]:
                        return alias
        return None

    def _relative(self) -> tuple[tuple[str, MappingProxyType[str, int], Sid | None], ...]:
        return (
            ("machine", _MACHINE_RIDS, self.machine),
            ("domain", _DOMAIN_RIDS, self.domain),
            ("forest", _FOREST_RIDS, self.forest or self.domain),
        )


NO_DOMAINS: Final = Domains()
