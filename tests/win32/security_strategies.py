"""Hypothesis strategies for security descriptors, in binary and in the subset that SDDL can say."""

from __future__ import annotations

import uuid

from hypothesis import strategies as st

from winlayers.win32.security import (
    WELL_KNOWN_SIDS,
    Ace,
    AceType,
    Acl,
    Claim,
    ClaimType,
    Control,
    RawAce,
    SecurityDescriptor,
    Sid,
)
from winlayers.win32.security.ace import CONDITIONAL_TYPES, OBJECT_TYPES
from winlayers.win32.security.conditions import (
    BINARY_OPERATORS,
    UNARY_OPERATORS,
    Integer,
    Token,
    condition_to_bytes,
)

U32 = st.integers(0, 0xFFFFFFFF)
U8 = st.integers(0, 0xFF)
GUIDS = st.uuids() | st.just(uuid.UUID(int=0))

sids = st.sampled_from(sorted(WELL_KNOWN_SIDS.values(), key=str)) | st.builds(
    Sid, st.integers(0, (1 << 48) - 1), st.lists(U32, max_size=15).map(tuple)
)

# -- anything that bytes can say --------------------------------------------------------------------

_plain_types = sorted(set(AceType) - OBJECT_TYPES - {AceType.ACCESS_ALLOWED_COMPOUND})
_words = st.binary(max_size=24).map(lambda data: data + bytes(-len(data) % 4))

known_aces = st.builds(
    Ace,
    st.sampled_from(_plain_types),
    U8,
    U32,
    sids,
    application_data=_words,
) | st.builds(
    Ace,
    st.sampled_from(sorted(OBJECT_TYPES)),
    U8,
    U32,
    sids,
    st.none() | GUIDS,
    st.none() | GUIDS,
    U32.map(lambda flags: flags & ~3),
    _words,
)
raw_aces = st.builds(RawAce, st.just(4) | st.integers(0x16, 0xFF), U8, _words)
acls = st.builds(
    Acl,
    st.lists(known_aces | raw_aces, max_size=5).map(tuple),
    st.integers(2, 4),
    U8,
    st.integers(0, 0xFFFF),
    _words,
)
descriptors = st.builds(
    SecurityDescriptor,
    st.none() | sids,
    st.none() | sids,
    st.none() | acls,
    st.none() | acls,
    st.integers(0, 0xFFFF).map(lambda bits: Control(bits)),
    U8,
)

# -- what SDDL can say ------------------------------------------------------------------------------

_texts = st.text(st.characters(exclude_characters='"\0'), max_size=6)
_names = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=6)
_words_of_sddl = st.from_regex(r"[a-z][a-z0-9:./_@]{0,5}", fullmatch=True).filter(
    lambda word: word not in {name.lower() for name in UNARY_OPERATORS.values()}
)


def _integers() -> st.SearchStrategy[Token]:
    def build(value: int, base: int, explicit: bool) -> Token:
        if value < 0:
            sign = 2
        else:
            sign = 1 if explicit else 3
        return Token(0x04, Integer(value, sign, base))

    return st.builds(build, st.integers(-(1 << 63), (1 << 63) - 1), st.integers(1, 3), st.booleans())


_literals = st.one_of(
    _integers(),
    st.builds(Token, st.just(0x10), _texts),
    st.builds(Token, st.just(0x18), st.binary(max_size=5)),
    st.builds(Token, st.just(0x51), sids),
)
_composites = st.builds(Token, st.just(0x50), st.lists(_literals, max_size=3).map(tuple))
_attributes = st.builds(Token, st.integers(0xF9, 0xFB), _names)
_left = _attributes | st.builds(Token, st.just(0xF8), _words_of_sddl)
_exists = [code for code, name in UNARY_OPERATORS.items() if name.endswith("Exists")]
_member_of = [code for code in UNARY_OPERATORS if code not in _exists]

_leaves = st.one_of(
    _left.map(lambda token: (token,)),
    st.tuples(
        _left, _literals | _composites | _attributes, st.sampled_from(sorted(BINARY_OPERATORS)).map(Token)
    ),
    st.tuples(_left, st.sampled_from(_exists).map(Token)),
    st.tuples(_literals | _composites, st.sampled_from(_member_of).map(Token)),
)
conditions: st.SearchStrategy[tuple[Token, ...]] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda a, b, op: (*a, *b, Token(op)),
            inner,
            inner,
            st.sampled_from([0xA0, 0xA1]),
        ),
        inner.map(lambda a: (*a, Token(0xA2))),
    ),
    max_leaves=6,
)

_CLAIM_VALUES: list[tuple[ClaimType, st.SearchStrategy[int] | st.SearchStrategy[str | bytes | Sid]]] = [
    (ClaimType.INT64, st.integers(-(1 << 63), (1 << 63) - 1)),
    (ClaimType.UINT64, st.integers(0, (1 << 64) - 1)),
    (ClaimType.STRING, _texts),
    (ClaimType.SID, sids),
    (ClaimType.BOOLEAN, st.integers(0, 1)),
    (ClaimType.OCTET_STRING, st.binary(min_size=1, max_size=5)),
]
claims: st.SearchStrategy[Claim] = st.sampled_from(_CLAIM_VALUES).flatmap(
    lambda pair: st.builds(Claim, _names, st.just(pair[0]), st.lists(pair[1], max_size=3).map(tuple), U32)
)

_without_text = {
    AceType.ACCESS_ALLOWED_COMPOUND,
    AceType.ACCESS_DENIED_CALLBACK_OBJECT,
    AceType.SYSTEM_ALARM_CALLBACK,
    AceType.SYSTEM_AUDIT_CALLBACK_OBJECT,
    AceType.SYSTEM_ALARM_CALLBACK_OBJECT,
}


def _sddl_ace(kind: AceType) -> st.SearchStrategy[Ace]:
    guids = st.none() | GUIDS if kind in OBJECT_TYPES else st.none()
    data = st.just(b"")
    sid = sids
    if kind in CONDITIONAL_TYPES:
        data = conditions.map(condition_to_bytes)
    elif kind is AceType.SYSTEM_RESOURCE_ATTRIBUTE:
        data = claims.map(Claim.to_bytes)
        sid = st.just(WELL_KNOWN_SIDS["WD"])
    return st.builds(Ace, st.just(kind), U8, U32, sid, guids, guids, st.just(0), data)


sddl_aces = st.sampled_from(sorted(set(AceType) - _without_text)).flatmap(_sddl_ace)
_sddl_acls = st.lists(sddl_aces, max_size=4).map(Acl.of)
_DACL_BITS = Control.DACL_PRESENT | Control.DACL_PROTECTED | Control(0x0500)
_SACL_BITS = Control.SACL_PRESENT | Control.SACL_PROTECTED | Control(0x0A00)


def _sddl_descriptor(
    owner: Sid | None, group: Sid | None, sacl: Acl | None, dacl: Acl | None, bits: int
) -> SecurityDescriptor:
    control = Control.SELF_RELATIVE | Control(bits & (_DACL_BITS | _SACL_BITS))
    control |= Control.SACL_PRESENT if sacl is not None else 0
    control |= Control.DACL_PRESENT if dacl is not None else 0
    # Flags of an ACL that is not there have no text.
    control &= Control(0xFFFF) if control & Control.DACL_PRESENT else ~_DACL_BITS
    control &= Control(0xFFFF) if control & Control.SACL_PRESENT else ~_SACL_BITS
    return SecurityDescriptor(owner, group, sacl, dacl, control)


sddl_descriptors = st.builds(
    _sddl_descriptor,
    st.none() | sids,
    st.none() | sids,
    st.none() | _sddl_acls,
    st.none() | _sddl_acls,
    st.integers(0, 0xFFFF),
)
sddl_like_text = st.lists(
    st.sampled_from(
        [
            *'OGDS:();,"#{}!&|=<>@%- ',
            *("O:", "G:", "D:", "S:", "D:P", "S:AI", "(A;;", "(XA;;FA;;;WD;(", "(RA;;;;;WD;(", "))"),
            *("FA", "BA", "SY", "S-1-5-32-544", "0x1", "07", "NO_ACCESS_CONTROL", "&&", "||", "=="),
            *("@USER.a", "Member_of ", "Exists ", "SID(BA)", '"n",TX,0x0,', "%0041", "\ud800", "é"),
        ]
    ),
    max_size=24,
).map("".join)
