"""Windows security descriptors: binary, text and inheritance, as pure functions.

- :class:`SecurityDescriptor`, :class:`Acl`, :class:`Ace`, :class:`Sid`: parse, change, build, losslessly;
- :func:`validate`: whether Windows would take a descriptor;
- :func:`sddl_to_bytes`, :func:`bytes_to_sddl`: SDDL both ways;
- :func:`inherit`: the descriptor of a new file or directory.
"""

from winlayers.win32.security.ace import Ace, AceFlags, AceType, AnyAce, RawAce
from winlayers.win32.security.acl import Acl
from winlayers.win32.security.claims import Claim, ClaimType
from winlayers.win32.security.descriptor import Control, Layout, SecurityDescriptor, validate
from winlayers.win32.security.inheritance import inherit
from winlayers.win32.security.sddl import bytes_to_sddl, format_sddl, parse_sddl, sddl_to_bytes
from winlayers.win32.security.sid import WELL_KNOWN_SIDS, Domains, Sid

__all__ = [
    "WELL_KNOWN_SIDS",
    "Ace",
    "AceFlags",
    "AceType",
    "Acl",
    "AnyAce",
    "Claim",
    "ClaimType",
    "Control",
    "Domains",
    "Layout",
    "RawAce",
    "SecurityDescriptor",
    "Sid",
    "bytes_to_sddl",
    "format_sddl",
    "inherit",
    "parse_sddl",
    "sddl_to_bytes",
    "validate",
]
