"""Conditional expressions and resource attributes, in binary and in SDDL; bytes as Windows makes them."""

from __future__ import annotations

import re

import pytest

from winlayers.errors import SddlError, SecurityDescriptorError
from winlayers.win32.security import (
    WELL_KNOWN_SIDS,
    Ace,
    AceType,
    Acl,
    Claim,
    ClaimType,
    SecurityDescriptor,
    Sid,
    bytes_to_sddl,
    parse_sddl,
    sddl_to_bytes,
)
from winlayers.win32.security.conditions import Integer, Token, condition_to_bytes, parse_condition

USER, RESOURCE, DEVICE, LOCAL = 0xF9, 0xFA, 0xFB, 0xF8
EVERYONE = WELL_KNOWN_SIDS["WD"]
MAX_U64 = (1 << 64) - 1


def condition(text: str) -> bytes:
    """The application data of the ACE with the condition *text*."""
    acl = parse_sddl(f"D:(XA;;FX;;;WD;{text})").dacl
    assert acl is not None
    ace = acl.aces[0]
    assert isinstance(ace, Ace)
    return ace.application_data


def printed(data: bytes) -> str:
    """The condition's text that application data *data* gives."""
    ace = Ace(AceType.ACCESS_ALLOWED_CALLBACK, 0, 0, EVERYONE, application_data=data)
    text = bytes_to_sddl(SecurityDescriptor(dacl=Acl.of([ace])).to_bytes())
    assert text.startswith("D:(XA;;;;;WD;")
    return text[len("D:(XA;;;;;WD;") : -1]


def test_the_layout_of_each_token() -> None:
    data = condition('(@User.Title=="PM" && (@User.Division=="Finance" || @User.Division =="Sales"))')
    title = "f9 0a000000 5400690074006c006500"
    division = "f9 10000000 4400690076006900730069006f006e00"
    assert data == bytes.fromhex(
        f"61727478 {title} 10 04000000 50004d00 80"
        f"{division} 10 0e000000 460069006e0061006e0063006500 80"
        f"{division} 10 0a000000 530061006c0065007300 80 a1 a0 000000"
    )
    assert condition("(Member_of_Any{SID(S-1-222-333)})") == bytes.fromhex(
        "61727478 50 11000000 51 0c000000 01010000000000de4d010000 8b 00"
    )
    assert condition("(a == #0102)") == bytes.fromhex("61727478 f8 02000000 6100 18 02000000 0102 80 00")
    assert condition("(@Device.bb == 0xffffffffff)") == bytes.fromhex(
        "61727478 fb 04000000 62006200 04 ffffffffff000000 03 03 80 000000"
    )


@pytest.mark.parametrize(
    ("text", "value", "sign", "base"),
    [
        ("0", 0, 3, 2), ("17", 17, 3, 2), ("+17", 17, 1, 2), ("-17", -17, 2, 2), ("021", 17, 3, 1),
        ("-021", -17, 2, 1),
        ("0x11", 17, 3, 3), ("-0x11", -17, 2, 3), ("-0", 0, 2, 2), ("00", 0, 3, 1),
        ("0xffffffffffffffff", -1, 3, 3),
        ("9223372036854775807", (1 << 63) - 1, 3, 2), ("-9223372036854775808", -(1 << 63), 2, 2),
    ],
)  # fmt: skip
def test_integers_keep_sign_and_base(text: str, value: int, sign: int, base: int) -> None:
    data = condition(f"(a == {text})")
    assert parse_condition(data)[1] == Token(0x04, Integer(value, sign, base))
    assert printed(data) == f"(a == {text})"


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("(a && @USER.b || c)", "a b && c ||"),
        ("(a || @USER.b && c)", "a b c && ||"),
        ("(a || b || c)", "a b || c ||"),
        ("(a && (b || c))", "a b c || &&"),
        ("((a || b) && c)", "a b || c &&"),
        ("(!(a) && !@USER.b)", "a ! b ! &&"),
        ("(Exists a && Not_Exists @USER.b)", "a Exists b Not_Exists &&"),
        ("(a == @USER.b != @USER.c)", "a b == c !="),
    ],
)
def test_precedence(text: str, order: str) -> None:
    names = {0xA0: "&&", 0xA1: "||", 0xA2: "!", 0x87: "Exists", 0x8D: "Not_Exists", 0x80: "==", 0x81: "!="}
    tokens = parse_condition(condition(text))
    assert " ".join(str(token.value or names[token.code]) for token in tokens) == order


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("(@User.Title == \"\")", "(@USER.Title == \"\")"),
        ("(! (Member_of{SID(AA)}))", "(!(Member_of {SID(AA)}))"),
        ("(Device_Member_of{SID(AA)} || Member_of{SID(WD)})",
        "((Device_Member_of {SID(AA)}) || (Member_of {SID(WD)}))"),
        ("(@USER.A && @Device.B && @USER.C)", "(((@USER.A) && (@DEVICE.B)) && (@USER.C))"),
        ("(@User.Project Any_of @Resource.Project)", "(@USER.Project Any_of @RESOURCE.Project)"),
        ("(@Device.colour == {\"orange\",\"blue\"})", "(@DEVICE.colour == {\"orange\", \"blue\"})"),
        ("(OctetStringType==#1#2#3##)", "(OctetStringType == #01020300)"),
        ("(member_of((sid(s-1-1-0))))", "(Member_of SID(WD))"),
        ("(mEMBER_of{SID(S-1-1-0)})", "(Member_of {SID(WD)})"),
        ("(@USER.ad://ext/Silo == \"x\")", "(@USER.ad://ext/Silo == \"x\")"),
        ("(WIN://SYSAPPID Contains \"x\")", "(WIN://SYSAPPID Contains \"x\")"),
        ("(@USER.%0041%002c%d83d%de00 < 1)", "(@USER.A%002c%d83d%de00 < 1)"),
        ("(@USER.\U0001f600 not_contains 1)", "(@USER.%d83d%de00 Not_Contains 1)"),
        ("(!(@USER.a Not_Any_of {}))", "(!(@USER.a Not_Any_of {}))"),
        ("(77 >= 77)", "(77 >= 77)"),
        ("(((a)))", "(a)"),
    ],
)  # fmt: skip
def test_conditions_are_written_as_windows_does(text: str, written: str) -> None:
    assert printed(condition(text)) == written
    assert condition(written) == condition(text)


def test_every_operator_survives() -> None:
    for name in ("==", "!=", "<", "<=", ">", ">=", "Contains", "Any_of", "Not_Contains", "Not_Any_of"):
        assert printed(condition(f"(a {name} 1)")) == f"(a {name} 1)"
    for name in ("Member_of", "Member_of_any", "Device_Member_of", "Device_Member_of_Any"):
        for operator in (name, f"Not_{name}".replace("any", "Any")):
            assert printed(condition(f"({operator} {{SID(BA)}})")) == f"({operator} {{SID(BA)}})"


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "()", "(", "(a", "(a ==)", "(== a)", "(a = 1)", "(a == a)", "(a == b == c)", "(!)",
        "(!!(a))",
        "(! Member_of{SID(BA)})", "(a &&)", "(a & b)", "(&& a)", "(a || )", "(a b)", "(Member_of)",
        "(Member_of {)",
        "(Member_of {SID(BA)", "(Member_of {SID(BA) SID(BA)})", "(Member_of {SID(ernie)})",
        "(Member_ofSID(BA))",
        "(Member_of {{SID(BA)}})", "(Exists)", "(Exists 'a')", "(@User. == 1)", "(@Nobody.a == 1)",
        "(a == \"x)",
        "(a == #g)", "(a == 08)", "(a == 0x)", "(a == 1x)", "(a == 9223372036854775808)",
        "(a == 0x10000000000000000)",
        "(a == -9223372036854775809)", "(a == " + "9" * 5000 + ")", "(@USER.%00 == 1)",
        "(@USER.%zzzz == 1)",
        "(a == (1)", "(a == ((@USER.b)))", "(a))", "(a) junk",
    ],
)  # fmt: skip
def test_malformed_conditions_are_refused(text: str) -> None:
    with pytest.raises(SddlError):
        sddl_to_bytes(f"D:(XA;;FX;;;WD;{text})")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((), "leave 0 values"),
        ((Token(USER, "a"), Token(USER, "b")), "leave 2 values"),
        ((Token(0x80),), "lacks its operands"),
        ((Token(LOCAL, "a"), Token(0xA0)), "lacks its operands"),
        ((Token(USER, "a"), Token(0x10, 'say "hi"'), Token(0x80)), "SDDL at character"),
        ((Token(USER, "a"), Token(0x01, Integer(1)), Token(0x80)), "holds what has no text"),
        ((Token(USER, "a"), Token(0x04, Integer(-1)), Token(0x80)), "holds what has no text"),
        ((Token(USER, "a"), Token(0x04, Integer(1, 4, 2)), Token(0x80)), "sign 4 and base 2 has no text"),
        ((Token(LOCAL, "with blank"),), "SDDL at character"),
        ((Token(USER, "a"), Token(LOCAL, "b"), Token(0x80)), "SDDL at character"),
    ],
)
def test_conditions_without_text_are_refused_not_changed(tokens: tuple[Token, ...], message: str) -> None:
    data = condition_to_bytes(tokens)
    assert parse_condition(data) == tokens
    with pytest.raises(SddlError, match=message):
        printed(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "not 'artx'"),
        ("61727478 00 01", "token 0 at offset 4 is not padding"),
        ("61727478 7f", "token 0x7f at offset 4 is not known"),
        ("61727478 04 00", "token at offset 4 is cut off"),
        ("61727478 10 00", "token at offset 4 is cut off"),
        ("61727478 10 04000000 6100", "token at offset 4 is cut off"),
        ("61727478 f9 03000000 610062", "odd number of bytes"),
        ("61727478 51 10000000 010100000000000100000000 00000000", "shorter than its token"),
        ("61727478 51 08000000 0101000000000001", "cut off"),
        ("61727478 50 05000000 50 00000000", "token 0x50 at offset 9 inside a composite is not known"),
        ("61727478 50 01000000 80", "token 0x80 at offset 9 inside a composite"),
    ],
)
def test_malformed_binary_conditions_are_named(data: str, message: str) -> None:
    with pytest.raises(SecurityDescriptorError, match=re.escape(message)):
        parse_condition(bytes.fromhex(data))


# -- resource attributes ----------------------------------------------------------------------------


def claim_bytes(text: str) -> bytes:
    acl = parse_sddl(f"S:(RA;;;;;WD;{text})").sacl
    assert acl is not None
    ace = acl.aces[0]
    assert isinstance(ace, Ace)
    return ace.application_data


def test_the_layout_of_a_claim() -> None:
    assert claim_bytes('("colour",TS,0,"blue", "red")') == bytes.fromhex(
        "18000000 0300 0000 00000000 02000000 26000000 30000000"
        "63006f006c006f00750072000000 62006c00750065000000 7200650064000000"
    )
    assert claim_bytes('("colOIr",TU,0xe,244)') == bytes.fromhex(
        "14000000 0200 0000 0e000000 01000000 22000000 63006f006c004f00490072000000 f400000000000000 0000"
    )


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ('("n",TI,0x0,-8,7774)', Claim("n", ClaimType.INT64, (-8, 7774))),
        ('("n",TU,0xffffffff,18446744073709551615)', Claim("n", ClaimType.UINT64, (MAX_U64,), 0xFFFFFFFF)),
        ('("n",TS,0x3,"","a,b)")', Claim("n", ClaimType.STRING, ("", "a,b)"), 3)),
        ('("n",TD,0x0,BA,S-1-2-3)', Claim("n", ClaimType.SID, (WELL_KNOWN_SIDS["BA"], Sid(2, (3,))))),
        ('("n",TB,0x0,1,0)', Claim("n", ClaimType.BOOLEAN, (1, 0))),
        ('("n",TX,0x0,0fff,00)', Claim("n", ClaimType.OCTET_STRING, (b"\x0f\xff", b"\0"))),
        ('("n%0016%002c",TI,0x0)', Claim("n\x16,", ClaimType.INT64)),
    ],
)  # fmt: skip
def test_claims_survive(text: str, claim: Claim) -> None:
    data = claim_bytes(text)
    assert Claim.from_bytes(data) == claim
    assert len(data) % 4 == 0
    assert bytes_to_sddl(sddl_to_bytes(f"S:(RA;;;;;WD;{text})")) == f"S:(RA;;;;;WD;{text})"


def test_claims_are_read_tolerantly() -> None:
    assert claim_bytes(' ( "n" , tx , 07 , abc , ## )') == claim_bytes('("n",TX,0x7,0abc,00)')


@pytest.mark.parametrize(
    "text",
    [
        "", "()", '("")', '("n")', '("n",TI)', '("n",TQ,0,1)', '("n",TI,x,1)', '("n",TI,-1,1)',
        '("n",TI,0x100000000)',
        '("n",TI,0,)', '("n",TI,0,1', '("n",TI,0,"a")', '("n",TU,0,-1)',
        '("n",TU,0,18446744073709551616)',
        '("n",TB,0,2)', '("n",TS,0,a)', '("n",TS,0,"a)', '("n",TD,0,1)', '("n",TX,0,)', '("n",TX,0,zz)',
        '("n%0000",TI,0,1)', '("n",TS,0,"\0")', '("n",TU,0,09)', '("n",TI,0,9223372036854775808)',
    ],
)  # fmt: skip
def test_malformed_claims_are_refused(text: str) -> None:
    with pytest.raises(SddlError):
        sddl_to_bytes(f"S:(RA;;;;;WD;{text})")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("00" * 15, "fewer than its header"),
        ("10000000 0400 0000 00000000 00000000 0000", "values of type 4 are not known"),
        ("10000000 0100 0000 00000000 ffffff7f 0000", "2147483647 values do not fit"),
        ("ff000000 0100 0000 00000000 00000000 0000", "string at offset 255 does not end"),
        ("10000000 0100 0000 00000000 00000000 6100", "string at offset 16 does not end"),
        ("14000000 0100 0000 00000000 01000000 14000000 0000", "value at offset 20 is cut off"),
        ("14000000 1000 0000 00000000 01000000 16000000 0000 05000000 01", "value at offset 22 is cut off"),
        (
            "14000000 0500 0000 00000000 01000000 16000000 0000 10000000 010100000000000100000000 00000000",
            "shorter",
        ),
        (
            "18000000 0300 0000 00000000 02000000 18000000 18000000" + "6100" * 20 + "0000",
            "overlap each other",
        ),
    ],
)
def test_malformed_binary_claims_are_named(data: str, message: str) -> None:
    with pytest.raises(SecurityDescriptorError, match=message):
        Claim.from_bytes(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (Claim("n", ClaimType.INT64, ("text",)), "a value of type str is not INT64"),
        (Claim("n", ClaimType.STRING, (1,)), "a value of type int is not STRING"),
        (Claim("n", ClaimType.UINT64, (-1,)), "does not fit UINT64"),
        (Claim("n\0", ClaimType.INT64), "a zero character"),
    ],
)
def test_claims_that_cannot_be(claim: Claim, message: str) -> None:
    with pytest.raises(SecurityDescriptorError, match=message):
        claim.to_bytes()


def test_claims_without_text_are_refused() -> None:
    for claim in (
        Claim("n", ClaimType.STRING, ('say "hi"',)),
        Claim("n", ClaimType.OCTET_STRING, (b"",)),
        Claim("n", ClaimType.INT64, (1,), reserved=1),
    ):
        ace = Ace(AceType.SYSTEM_RESOURCE_ATTRIBUTE, 0, 0, EVERYONE, application_data=claim.to_bytes())
        with pytest.raises(SddlError, match="has no text"):
            bytes_to_sddl(SecurityDescriptor(sacl=Acl.of([ace])).to_bytes())
