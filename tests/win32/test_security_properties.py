"""Properties of security descriptors: identities both ways, and nothing but the package's errors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.win32 import security_strategies as make
from winlayers.errors import SddlError, SecurityDescriptorError
from winlayers.win32.security import (
    WELL_KNOWN_SIDS,
    Ace,
    AceType,
    Acl,
    Claim,
    Domains,
    Layout,
    SecurityDescriptor,
    Sid,
    bytes_to_sddl,
    format_sddl,
    inherit,
    parse_sddl,
    sddl_to_bytes,
    validate,
)
from winlayers.win32.security.conditions import Token, condition_to_bytes, parse_condition


@given(make.sids)
def test_a_sid_survives_bytes_and_text(sid: Sid) -> None:
    assert Sid.from_bytes(sid.to_bytes()) == sid
    assert Sid.parse(str(sid)) == sid


@given(make.descriptors, st.sampled_from(Layout))
def test_a_descriptor_survives_bytes(descriptor: SecurityDescriptor, layout: Layout) -> None:
    data = descriptor.to_bytes(layout)
    validate(data)
    again = SecurityDescriptor.from_bytes(data)
    assert (again.owner, again.group) == (descriptor.owner, descriptor.group)
    assert (again.sacl, again.dacl) == (descriptor.sacl, descriptor.dacl)
    assert (again.control, again.sbz1) == (descriptor.full_control, descriptor.sbz1)
    assert again.to_bytes() == data


@given(make.descriptors, st.data())
def test_what_parses_comes_back_byte_for_byte(descriptor: SecurityDescriptor, data: st.DataObject) -> None:
    image = bytearray(descriptor.to_bytes() + data.draw(st.binary(max_size=8), "trailer"))
    for _ in range(data.draw(st.integers(0, 3), "changes")):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(make.U8)
    try:
        parsed = SecurityDescriptor.from_bytes(bytes(image))
    except SecurityDescriptorError:
        return
    assert parsed.to_bytes() == bytes(image)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_the_package_errors(data: bytes) -> None:
    header = bytes.fromhex("0100149c140000001400000014000000") + data
    for image in (data, header):
        for function in (validate, bytes_to_sddl, lambda sd: inherit(sd, is_directory=True)):
            try:
                function(image)
            except SecurityDescriptorError:
                pass
    for parse in (parse_condition, Claim.from_bytes):
        try:
            parse(b"artx" + data)
            parse(data)
        except SecurityDescriptorError:
            pass


@given(make.conditions)
def test_a_condition_survives_bytes(tokens: tuple[Token, ...]) -> None:
    data = condition_to_bytes(tokens)
    assert len(data) % 4 == 0
    assert parse_condition(data) == tokens


@given(make.claims)
def test_a_claim_survives_bytes(claim: Claim) -> None:
    assert Claim.from_bytes(claim.to_bytes()) == claim


@given(make.sddl_descriptors)
@settings(max_examples=300)
def test_a_descriptor_survives_text(descriptor: SecurityDescriptor) -> None:
    text = format_sddl(descriptor)
    again = parse_sddl(text)
    assert again == descriptor
    assert bytes_to_sddl(sddl_to_bytes(text)) == text
    assert sddl_to_bytes(text) == descriptor.to_bytes(Layout.ACLS_FIRST)


@given(make.sddl_descriptors, make.sids.filter(lambda sid: 0 < len(sid.subauthorities) < 15))
def test_domains_change_the_text_but_not_what_it_says(descriptor: SecurityDescriptor, domain: Sid) -> None:
    domains = Domains(domain, domain, domain)
    assert parse_sddl(format_sddl(descriptor, domains), domains) == descriptor


@given(make.descriptors)
def test_strict_text_gives_everything_back_or_refuses(descriptor: SecurityDescriptor) -> None:
    try:
        text = format_sddl(descriptor)
    except SddlError:
        return
    again = parse_sddl(text)
    assert (again.owner, again.group, again.full_control) == (
        descriptor.owner,
        descriptor.group,
        descriptor.full_control,
    )
    for before, after in ((descriptor.sacl, again.sacl), (descriptor.dacl, again.dacl)):
        assert before is None or (after is not None and len(after.aces) == len(before.aces))


@given(make.sddl_like_text | st.text(max_size=40))
@settings(max_examples=500)
def test_arbitrary_text_raises_only_sddl_errors_and_what_parses_prints(text: str) -> None:
    try:
        data = sddl_to_bytes(text)
    except SddlError:
        return
    validate(data)
    assert sddl_to_bytes(bytes_to_sddl(data)) == data


@given(make.descriptors, st.booleans(), st.none() | st.booleans())
def test_what_is_inherited_is_valid_and_marked_as_it_should(
    parent: SecurityDescriptor, is_directory: bool, auto: bool | None
) -> None:
    child_bytes = inherit(parent.to_bytes(), is_directory=is_directory, auto_inherit=auto)
    validate(child_bytes)
    child = SecurityDescriptor.from_bytes(child_bytes)
    assert child.dacl is not None
    for acl in (child.sacl, child.dacl):
        for ace in () if acl is None else acl.aces:
            assert is_directory or ace.flags & 0x0F == 0
            assert auto is not False or not ace.flags & 0x10


@pytest.mark.parametrize("depth", [100, 127])
def test_deep_conditions_work_both_ways(depth: int) -> None:
    text = f"D:(XA;;FA;;;WD;{'(!' * depth}(@USER.a){')' * depth})"
    assert bytes_to_sddl(sddl_to_bytes(text)) == text


@pytest.mark.parametrize("opening", ["(", "(!", "(@USER.a == (", "(Member_of ("])
def test_conditions_that_are_too_deep_are_refused(opening: str) -> None:
    with pytest.raises(SddlError):
        sddl_to_bytes("D:(XA;;FA;;;WD;" + opening * 20000)


def test_binary_conditions_that_are_too_deep_are_kept_but_have_no_text() -> None:
    tokens = (Token(0xF9, "a"), *(Token(0xA2) for _ in range(5000)))
    ace = Ace(
        AceType.ACCESS_ALLOWED_CALLBACK,
        0,
        1,
        WELL_KNOWN_SIDS["WD"],
        None,
        None,
        0,
        condition_to_bytes(tokens),
    )
    data = SecurityDescriptor(dacl=Acl.of([ace])).to_bytes()
    assert SecurityDescriptor.from_bytes(data).to_bytes() == data
    with pytest.raises(SddlError, match="nested more than"):
        bytes_to_sddl(data)
