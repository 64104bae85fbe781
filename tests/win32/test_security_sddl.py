"""SDDL, both ways; bytes are those that Windows gives for the same text."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from tests.support import VECTORS
from winlayers.errors import SddlError, SecurityDescriptorError
from winlayers.win32.security import (
    WELL_KNOWN_SIDS,
    Ace,
    AceType,
    Acl,
    Control,
    RawAce,
    SecurityDescriptor,
    Sid,
    bytes_to_sddl,
    parse_sddl,
    sddl_to_bytes,
)

DOMAIN = "S-1-5-21-1111111111-2222222222-3333333333"


def only_ace(text: str) -> Ace:
    descriptor = parse_sddl(text)
    acl = descriptor.dacl or descriptor.sacl
    assert acl is not None
    (ace,) = acl.aces
    assert isinstance(ace, Ace)
    return ace


def test_every_alias_is_read_and_written() -> None:
    for alias, sid in WELL_KNOWN_SIDS.items():
        data = sddl_to_bytes(f"O:{alias}D:(A;;FA;;;{sid})")
        descriptor = SecurityDescriptor.from_bytes(data)
        assert descriptor.owner == sid
        assert bytes_to_sddl(data) == f"O:{alias}D:(A;;FA;;;{alias})"


@pytest.mark.parametrize(
    ("alias", "rid"),
    [
        ("LA", 500), ("LG", 501), ("DA", 512), ("DU", 513), ("DG", 514), ("DC", 515), ("DD", 516),
        ("CA", 517),
        ("SA", 518), ("EA", 519), ("PA", 520), ("CN", 522), ("AP", 525), ("KA", 526), ("EK", 527),
        ("RO", 498),
        ("RS", 553),
    ],
)  # fmt: skip
def test_aliases_of_a_domain_need_the_domain(alias: str, rid: int) -> None:
    text = f"O:{alias}"
    kind = {"LA": "machine", "LG": "machine", "SA": "forest", "EA": "forest", "EK": "forest", "RO": "forest"}
    name = f"{kind.get(alias, 'domain')}_sid"
    with pytest.raises(SddlError, match=f"give {name}"):
        sddl_to_bytes(text)
    data = sddl_to_bytes(text, **{name: DOMAIN})  # type: ignore[arg-type]  # one of three SIDs, by name
    assert bytes_to_sddl(data) == f"O:{DOMAIN}-{rid}"
    assert bytes_to_sddl(data, **{name: Sid.parse(DOMAIN)}) == text  # type: ignore[arg-type]  # as above


def test_the_forest_root_is_the_domain_unless_it_is_another() -> None:
    assert sddl_to_bytes("O:EA", domain_sid=DOMAIN) == sddl_to_bytes("O:EA", forest_sid=DOMAIN)


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("", 0), ("0", 0), ("0x1200a9", 0x1200A9), ("010", 8), ("19", 19), ("GA", 0x10000000),
        ("GR", 0x80000000),
        ("GW", 0x40000000), ("GX", 0x20000000), ("RC", 0x20000), ("SD", 0x10000), ("WD", 0x40000),
        ("WO", 0x80000),
        ("RP", 0x10), ("WP", 0x20), ("CC", 1), ("DC", 2), ("LC", 4), ("SW", 8), ("LO", 0x80),
        ("DT", 0x40),
        ("CR", 0x100), ("FA", 0x1F01FF), ("FR", 0x120089), ("FW", 0x120116), ("FX", 0x1200A0),
        ("KA", 0xF003F),
        ("KR", 0x20019), ("KW", 0x20006), ("KX", 0x20019), ("NW", 1), ("NR", 2), ("NX", 4),
        ("FRFW", 0x12019F),
        ("frfw", 0x12019F), ("FR FW", 0x12019F), (" 0x1", 1),
    ],
)  # fmt: skip
def test_rights_are_read(text: str, mask: int) -> None:
    assert only_ace(f"D:(A;;{text};;;WD)").mask == mask


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (0, ""), (0x1F01FF, "FA"), (0x20019, "KR"), (0xF003F, "KA"), (0x1200A9, "0x1200a9"),
        (0x20000, "RC"),
        (0xF01FF, "CCDCLCSWRPWPDTLOCRSDRCWDWO"), (0xF0000000, "GAGXGWGR"), (0x200, "0x200"), (3, "CCDC"),
    ],
)  # fmt: skip
def test_rights_are_written_as_windows_does(mask: int, text: str) -> None:
    ace = Ace(AceType.ACCESS_ALLOWED, 0, mask, WELL_KNOWN_SIDS["WD"])
    assert bytes_to_sddl(SecurityDescriptor(dacl=Acl.of([ace])).to_bytes()) == f"D:(A;;{text};;;WD)"


@pytest.mark.parametrize(
    ("text", "kind", "flags"),
    [
        ("D:(A;OICINPIOID;FA;;;WD)", 0, 0x1F),
        ("D:(D;;FA;;;WD)", 1, 0),
        ("S:(AU;SAFA;FA;;;WD)", 2, 0xC0),
        ("S:(AL;;FA;;;WD)", 3, 0),
        ("D:(OA;;CR;ab721a53-1e2f-11d0-9819-00aa0040529b;;WD)", 5, 0),
        ("D:(OD;CI;CR;;bf967aba-0de6-11d0-a285-00aa003049e2;WD)", 6, 2),
        ("S:(OU;SA;CR;;;WD)", 7, 0x40),
        ("S:(OL;;CR;;;WD)", 8, 0),
        ("D:(XA;;FX;;;WD;(@USER.a))", 9, 0),
        ("D:(XD;;FX;;;WD;(@USER.a))", 10, 0),
        ("D:(ZA;;FX;ab721a53-1e2f-11d0-9819-00aa0040529b;;WD;(@USER.a))", 11, 0),
        ("S:(XU;;FX;;;WD;(@USER.a))", 13, 0),
        ("S:(ML;;NWNRNX;;;LW)", 17, 0),
        ('S:(RA;;;;;WD;("n",TI,0x0,1))', 18, 0),
        ("S:(SP;;;;;S-1-17-1)", 19, 0),
        ("S:(TL;;RP;;;S-1-19-512-4096)", 20, 0),
        ("S:(FL;TP;FX;;;WD;(@USER.a))", 21, 0x40),
        ("D:(A;CR;FA;;;WD)", 0, 0x20),
    ],
)
def test_types_and_flags(text: str, kind: int, flags: int) -> None:
    ace = only_ace(text)
    assert (ace.type, ace.flags) == (kind, flags)
    assert bytes_to_sddl(sddl_to_bytes(text)) == text


@pytest.mark.parametrize(
    ("text", "control"),
    [
        ("", 0x8000), ("D:", 0x8004), ("D:P", 0x9004), ("D:AR", 0x8104), ("D:AI", 0x8404),
        ("D:PARAI", 0x9504),
        ("S:P", 0xA010), ("S:AR", 0x8210), ("S:AI", 0x8810), ("D:PAIS:PAI", 0xBC14),
        ("D:NO_ACCESS_CONTROL", 0x8004),
        ("D:PNO_ACCESS_CONTROL", 0x9004), ("S:NO_ACCESS_CONTROL", 0x8010),
    ],
)  # fmt: skip
def test_control_bits(text: str, control: int) -> None:
    data = sddl_to_bytes(text)
    assert int(SecurityDescriptor.from_bytes(data).control) == control
    assert bytes_to_sddl(data) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (" O:AA G:WD ", "O:AAG:WD"),
        ("D: P (A; ;GA;;; wd) (a;;gr;; ;s-1-1-0)", "D:P(A;;GA;;;WD)(A;;GR;;;WD)"),
        ("D:pai(A;oi ci;FA;;;WD )", "D:PAI(A;OICI;FA;;;WD)"),
        ("S:D:", "D:S:"),
        ("O:S-1-0x5-0x20-0x220D:", "O:BAD:"),
        ("O:S-1-5-32-0xDD:", "O:S-1-5-32-13D:"),
        ("O:S-1-0x10000000F-1", "O:S-1-0x10000000F-1"),
        ("O:S-1-4294967296-1", "O:S-1-0x100000000-1"),
        ("D:(A;;LCRPLORCRPRP;;;AU)", "D:(A;;LCRPLORC;;;AU)"),
        ("D:(A;; ;;;AU)", "D:(A;;;;;AU)"),
    ],
)
def test_what_windows_tolerates(text: str, meant: str) -> None:
    assert sddl_to_bytes(text) == sddl_to_bytes(meant)
    assert bytes_to_sddl(sddl_to_bytes(text)) == meant


@pytest.mark.parametrize(
    "text",
    [
        "Z:", "d:", "D :", "O:", "O:S", "O:S-", "O:S-1", "O:S-1-", "O:S-2-5-18", "O:XX",
        "O:S-1-5-18junk", "O:SYO:SY",
        "D:D:", "D:P:", "D:(A;;GA;;)", "D:(A;;GA;;;WD", "D:(A;;GA;;;WD;)", "D:((A;;GA;;;WD))",
        "D:(Q;;GA;;;WD)",
        "D:(A;QQ;GA;;;WD)", "D:(A;OIC;GA;;;WD)", "D:(A;;QQ;;;WD)", "D:(A;;GA ;;;WD)", "D:(A;;G A;;;WD)",
        "D:(A;;0x1 ;;;WD)", "D:(A;;0x;;;WD)", "D:(A;;08;;;WD)", "D:(A;;0x100000000;;;WD)",
        "D:(A;;-1;;;WD)",
        "D:(A;;GA;;;S-1-1-0 )", "D:(A;;GA;;;S-1-5-4294967296)", "D:(A;;GA;;;S-1-0x1000000000000-1)",
        "D:(OA;;GA;ab721a53;;WD)", "D:(OA;;GA;{ab721a53-1e2f-11d0-9819-00aa0040529b};;WD)",
        "D:(OA;;GA; ab721a53-1e2f-11d0-9819-00aa0040529b;;WD)",
        "D:(A;;GA;ab721a53-1e2f-11d0-9819-00aa0040529b;;WD)",
        "D:NO_ACCESS_CONTROL(A;;GA;;;WD)", "D:(XA;;GA;;;WD)", "D:(XA;;GA;;;WD;)",
        "S:(RA;;;;;SY;(\"n\",TI,0,1))",
        "O:S-1-5-" + "1-" * 15 + "1", "O:S-1-5-" + "9" * 5000, "O:S-1-" + "9" * 99,
        "D:(A;;" + "9" * 5000 + ";;;WD)",
        "D:(\u0100;;GA;;;WD)", "O:\u00df\u00df",
        # What Unicode's upper case makes Latin letters of: a long s, an i without a dot.
        "O:\u017f-1-5-18", "D:A\u0131", "D:(A;O\u0131;GA;;;WD)", "D:(A;;\u017fD;;;WD)",
        "S:(\u017fP;;;;;S-1-17-1)",
        "D:(XA;;GA;;;WD;(@U\u017fER.a == 1))", "D:(XA;;GA;;;WD;(a == \u017fID(BA)))",
        "S:(RA;;;;;WD;(\"n\",T\u0131,0,1))",
    ],
)  # fmt: skip
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(SddlError):
        sddl_to_bytes(text)


def test_an_error_says_where() -> None:
    with pytest.raises(
        SddlError, match=re.escape("SDDL at character 15: expected O:, G:, D: or S:, at 'X:'")
    ):
        sddl_to_bytes("D:(A;;FA;;;WD) X:")


def test_more_than_an_acl_can_hold_is_an_sddl_error() -> None:
    with pytest.raises(SddlError, match="larger than an ACL can be"):
        sddl_to_bytes("D:" + "(A;;GA;;;WD)" * 4000)
    with pytest.raises(SddlError, match="more entries than an ACL can hold"):
        sddl_to_bytes("D:" + "(A;;GA;;;WD)" * 5000)


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        (SecurityDescriptor(dacl=Acl(), control=Control.DACL_DEFAULTED), "DACL_DEFAULTED"),
        (SecurityDescriptor(control=Control.DACL_PROTECTED), "DACL_PROTECTED"),
        (SecurityDescriptor(control=Control.RM_CONTROL_VALID, sbz1=3), "RM_CONTROL_VALID"),
        (SecurityDescriptor(sbz1=3), "resource manager control 0x3"),
        (SecurityDescriptor(dacl=Acl((RawAce(0x50, 0, b""),))), "ACE of type 0x50 has no text"),
        (SecurityDescriptor(dacl=Acl((RawAce(4, 0, b""),))), "ACE of type 0x04 has no text"),
        (SecurityDescriptor(sacl=Acl((Ace(15, 0, 0, Sid(1)),))), "ACE of type 0x0f has no text"),
        (
            SecurityDescriptor(dacl=Acl((Ace(0, 0, 0, Sid(1), application_data=b"more"),))),
            "DACL: ACE 0 holds",
        ),
        (SecurityDescriptor(dacl=Acl((Ace(5, 0, 0, Sid(1), object_flags=8),))), "DACL: ACE 0 holds"),
        (SecurityDescriptor(dacl=Acl((Ace(9, 0, 0, Sid(1)),))), "XA ACE has no text"),
        (SecurityDescriptor(dacl=Acl((Ace(9, 0, 0, Sid(1), application_data=b"abcd"),))), "not 'artx'"),
        (
            SecurityDescriptor(sacl=Acl((Ace(18, 0, 0, Sid(1), application_data=b"abcd"),))),
            "RA ACE has no text",
        ),
    ],
)
def test_what_has_no_text_is_refused_rather_than_lost(descriptor: SecurityDescriptor, message: str) -> None:
    data = descriptor.to_bytes()
    with pytest.raises(SddlError, match=message):
        bytes_to_sddl(data)


def test_lenient_text_leaves_out_what_windows_leaves_out() -> None:
    data = SecurityDescriptor(dacl=Acl(), control=Control.DACL_DEFAULTED | Control.OWNER_DEFAULTED).to_bytes()
    assert bytes_to_sddl(data, strict=False) == "D:"
    with pytest.raises(SecurityDescriptorError):
        bytes_to_sddl(data[:10], strict=False)


def test_recordings_of_windows_itself() -> None:
    """JSON files of {SDDL as Windows writes it: bytes as Windows makes them}, where such are at hand."""
    paths = sorted((VECTORS / "sddl").glob("*.json*"))
    if not paths:
        pytest.skip("no recordings of Windows' own conversions")
    compared = 0
    for path in paths:
        data = path.read_bytes()
        cases = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        for text, numbers in cases.items():
            wanted = bytes(numbers)
            domain = domain_of(text, wanted)
            made = sddl_to_bytes(text, machine_sid=domain, domain_sid=domain)
            if SecurityDescriptor.from_bytes(wanted).to_bytes() != wanted:
                pytest.fail(f"{path.name}: {text} does not come back byte for byte")
            if not has_slack(wanted):
                assert made == wanted, (path.name, text)
                compared += 1
            written = bytes_to_sddl(wanted, machine_sid=domain, domain_sid=domain)
            assert sddl_to_bytes(written, machine_sid=domain, domain_sid=domain) == made, (path.name, text)
    assert compared


def domain_of(text: str, data: bytes) -> Sid | None:
    """The domain that aliases in *text* stand for, found in the bytes."""
    if not re.search(r"[;:(](?:LA|LG|EK|DA|DU|EA)(?:[);DGS]|$)", text):
        return None
    for match in re.finditer(rb"\x01\x05\x00{5}\x05\x15\x00{3}.{16}", data, re.DOTALL):
        sid = Sid.from_bytes(data, match.start())
        if sid.subauthorities[-1] in (500, 501, 512, 513, 519, 527):
            return Sid(sid.authority, sid.subauthorities[:-1])
    return None


def has_slack(data: bytes) -> bool:
    """Whether an ACL has unused bytes: then it was made from another text than the one that stands by it."""
    descriptor = SecurityDescriptor.from_bytes(data)
    return any(acl is not None and acl.slack for acl in (descriptor.sacl, descriptor.dacl))
