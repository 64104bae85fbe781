"""Conditions and claims in SDDL text: ``(@USER.Title == "PM")``, ``("colour",TS,0x0,"blue")``.

Grammar: [MS-DTYP] 2.5.1.1 with what Windows does beyond it: operator names in any case, ``#`` for the digit 0
in octet strings, an odd number of their digits, parentheses around an operand.  ``&&`` binds tighter than
``||``, comparisons tighter than both, from left to right.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from winlayers.errors import SddlError
from winlayers.win32.security.claims import Claim, ClaimType, ClaimValue
from winlayers.win32.security.conditions import (
    ATTRIBUTE_PREFIXES,
    BINARY_OPERATORS,
    COMPOSITE,
    INT64,
    LOCAL_ATTRIBUTE,
    LOGICAL_OPERATORS,
    NOT,
    OCTET_STRING,
    SID,
    STRING,
    UNARY_OPERATORS,
    Integer,
    Token,
)
from winlayers.win32.security.sddl_text import WHITESPACE, Cursor, ascii_upper, escape_name
from winlayers.win32.security.sid import Domains, Sid

__all__ = ["format_claim", "format_condition", "parse_claim", "parse_condition_text"]

MAX_DEPTH: Final = 128
"""How deeply conditions may nest, in text and when they are printed; far more than anybody writes."""

_WORD: Final = re.compile(r"[A-Za-z0-9:./_][A-Za-z0-9:./_@]*")
_INTEGER: Final = re.compile(r"([+-]?)(0[xX][0-9A-Fa-f]{1,32}|[0-9]{1,64})(?![A-Za-z0-9:./_])")
_OCTETS: Final = re.compile(r"[0-9A-Fa-f#]*")
_SYMBOLS: Final = MappingProxyType({"==": 0x80, "!=": 0x81, "<=": 0x83, ">=": 0x85, "<": 0x82, ">": 0x84})
_BINARY_WORDS: Final = MappingProxyType(
    {name.lower(): code for code, name in BINARY_OPERATORS.items() if name[0].isalpha()}
)
_UNARY_WORDS: Final = MappingProxyType({name.lower(): code for code, name in UNARY_OPERATORS.items()})
_EXISTS: Final = frozenset({0x87, 0x8D})
_CLAIM_TYPES: Final = MappingProxyType(
    {
        "TI": ClaimType.INT64,
        "TU": ClaimType.UINT64,
        "TS": ClaimType.STRING,
        "TD": ClaimType.SID,
        "TB": ClaimType.BOOLEAN,
        "TX": ClaimType.OCTET_STRING,
    }
)
_CLAIM_TYPE_NAMES: Final = MappingProxyType({kind: name for name, kind in _CLAIM_TYPES.items()})


def parse_condition_text(cursor: Cursor) -> tuple[Token, ...]:
    """Go past the condition at *cursor*, outer parentheses included, and give its tokens in postfix order."""
    return _Conditions(cursor).whole()


class _Conditions:
    """A recursive-descent parser that writes postfix tokens as it goes."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._tokens: list[Token] = []
        self._depth = 0

    def whole(self) -> tuple[Token, ...]:
        self._cursor.skip(WHITESPACE)
        if self._cursor.peek() != "(":
            self._cursor.fail("expected a condition in parentheses")
        self._parenthesis()
        return tuple(self._tokens)

    def _parenthesis(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._cursor.fail(f"condition nested more than {MAX_DEPTH} deep")
        self._cursor.expect("(")
        self._or()
        self._cursor.expect(")")
        self._cursor.skip(WHITESPACE)
        self._depth -= 1

    def _or(self) -> None:
        self._and()
        while self._cursor.take("||"):
            self._and()
            self._tokens.append(Token(0xA1))

    def _and(self) -> None:
        self._term()
        while self._cursor.take("&&"):
            self._term()
            self._tokens.append(Token(0xA0))

    def _term(self) -> None:
        cursor = self._cursor
        cursor.skip(WHITESPACE)
        character = cursor.peek()
        if character == "!":
            self._negation()
        elif character == "(":
            self._parenthesis()
            self._comparisons()
        elif character == "@":
            self._tokens.append(self._attribute())
            self._comparisons()
        else:
            self._word()

    def _negation(self) -> None:
        cursor = self._cursor
        cursor.expect("!")
        cursor.skip(WHITESPACE)
        if cursor.peek() == "(":
            self._parenthesis()
        elif cursor.peek() == "@":
            self._tokens.append(self._attribute())
        else:
            cursor.fail("expected '(' or an attribute after '!'")
        self._tokens.append(Token(NOT))

    def _word(self) -> None:
        cursor = self._cursor
        word = cursor.match(_WORD)
        if word is None:
            cursor.fail("expected an attribute, an operator or '('")
        code = _UNARY_WORDS.get(word[0].lower())
        if code is None:
            self._tokens.append(Token(LOCAL_ATTRIBUTE, word[0]))
            cursor.skip(WHITESPACE)
            self._comparisons()
            return
        cursor.skip(WHITESPACE)
        if code in _EXISTS:
            self._tokens.append(self._attribute(local=True))
        else:
            # SIDs are meant, but Windows lets any literal stand here.
            self._tokens.append(self._operand(attributes=False))
        self._tokens.append(Token(code))

    def _comparisons(self) -> None:
        while (code := self._comparison()) is not None:
            self._cursor.skip(WHITESPACE)
            self._tokens.append(self._operand(attributes=True))
            self._tokens.append(Token(code))

    def _comparison(self) -> int | None:
        cursor = self._cursor
        for symbol, code in _SYMBOLS.items():
            if cursor.take(symbol):
                return code
        start = cursor.at
        word = cursor.match(_WORD)
        if word is None:
            return None
        found = _BINARY_WORDS.get(word[0].lower())
        if found is None:
            cursor.fail("expected an operator", start)
        return found

    def _attribute(self, *, local: bool = False) -> Token:
        cursor = self._cursor
        for code, prefix in ATTRIBUTE_PREFIXES.items():
            if prefix and cursor.take_word(prefix):
                token = Token(code, cursor.name())
                cursor.skip(WHITESPACE)
                return token
        word = cursor.match(_WORD) if local else None
        if word is None:
            cursor.fail("expected an attribute")
        cursor.skip(WHITESPACE)
        return Token(LOCAL_ATTRIBUTE, word[0])

    def _operand(self, *, attributes: bool) -> Token:
        """What stands to the right of an operator: a literal, perhaps in parentheses, or an attribute."""
        cursor = self._cursor
        depth = 0
        while cursor.take("("):
            depth += 1
            cursor.skip(WHITESPACE)
        if attributes and depth == 0 and cursor.peek() == "@":
            return self._attribute()
        token = self._composite() if cursor.peek() == "{" else _literal(cursor)
        cursor.skip(WHITESPACE)
        for _ in range(depth):
            cursor.expect(")")
            cursor.skip(WHITESPACE)
        return token

    def _composite(self) -> Token:
        cursor = self._cursor
        cursor.expect("{")
        cursor.skip(WHITESPACE)
        members: list[Token] = []
        while not cursor.take("}"):
            if members:
                cursor.expect(",")
                cursor.skip(WHITESPACE)
            members.append(_literal(cursor))
            cursor.skip(WHITESPACE)
        return Token(COMPOSITE, tuple(members))


def _literal(cursor: Cursor) -> Token:
    character = cursor.peek()
    if character == '"':
        return Token(STRING, cursor.quoted())
    if character == "#":
        cursor.at += 1
        return Token(OCTET_STRING, _octets(cursor))
    if cursor.take_word("SID("):
        sid = cursor.sid()
        cursor.expect(")")
        return Token(SID, sid)
    return Token(INT64, _integer(cursor))


def _octets(cursor: Cursor) -> bytes:
    """Hexadecimal digits, ``#`` for 0; an odd number of them lacks a leading 0."""
    found = cursor.match(_OCTETS)
    digits = found[0].replace("#", "0") if found is not None else ""
    return bytes.fromhex("0" * (len(digits) % 2) + digits)


def _integer(cursor: Cursor) -> Integer:
    start = cursor.at
    found = cursor.match(_INTEGER)
    if found is None:
        cursor.fail("expected a value")
    sign, digits = found[1], found[2]
    if digits[:2] in ("0x", "0X"):
        magnitude, base = int(digits, 16), 3
    elif digits[0] == "0" and len(digits) > 1:
        if not set(digits) <= set("01234567"):
            cursor.fail("malformed octal number", start)
        magnitude, base = int(digits, 8), 1
    else:
        magnitude, base = int(digits), 2
    value = -magnitude if sign == "-" else magnitude
    if not sign and base != 2 and 1 << 63 <= value < 1 << 64:
        value -= 1 << 64  # a bit pattern, which Windows also writes without a sign
    if not -(1 << 63) <= value < 1 << 63:
        cursor.fail("number of more than 64 bits", start)
    return Integer(value, {"+": 1, "-": 2, "": 3}[sign], base)


# -- printing a condition ---------------------------------------------------------------------------


def format_condition(tokens: tuple[Token, ...], domains: Domains) -> str:
    """The text of a condition, in outer parentheses, as Windows writes it.

    Raises:
        SddlError: the tokens are no expression, nest too deeply, or hold what has no text.
    """
    stack: list[tuple[str, bool, int]] = []  # text, whether it wants parentheses inside another, depth
    for token in tokens:
        stack.append(_reduce(token, stack, domains))
    if len(stack) != 1:
        raise SddlError(f"conditional ACE: its tokens leave {len(stack)} values, not one")
    return f"({stack[0][0]})"


def _reduce(token: Token, stack: list[tuple[str, bool, int]], domains: Domains) -> tuple[str, bool, int]:
    code = token.code
    if code in BINARY_OPERATORS:
        (left, left_wants, depth), (right, right_wants, other) = _pop(stack, 2)
        left = f"({left})" if left_wants else left
        right = f"({right})" if right_wants else right
        made = (f"{left} {BINARY_OPERATORS[code]} {right}", True, max(depth, other) + 1)
    elif code in LOGICAL_OPERATORS:
        (left, _, depth), (right, _, other) = _pop(stack, 2)
        made = (f"({left}) {LOGICAL_OPERATORS[code]} ({right})", True, max(depth, other) + 1)
    elif code == NOT:
        ((operand, _, depth),) = _pop(stack, 1)
        made = (f"!({operand})", False, depth + 1)
    elif code in UNARY_OPERATORS:
        ((operand, wants, depth),) = _pop(stack, 1)
        operand = f"({operand})" if wants else operand
        made = (f"{UNARY_OPERATORS[code]} {operand}", code not in _EXISTS, depth + 1)
    else:
        made = (_format_operand(token, domains), False, 0)
    if made[2] >= MAX_DEPTH:
        raise SddlError(f"conditional ACE: nested more than {MAX_DEPTH} deep")
    return made


def _pop(stack: list[tuple[str, bool, int]], count: int) -> list[tuple[str, bool, int]]:
    if len(stack) < count:
        raise SddlError("conditional ACE: an operator lacks its operands")
    operands = stack[-count:]
    del stack[-count:]
    return operands


def _format_operand(token: Token, domains: Domains) -> str:
    value = token.value
    match value:
        case Integer():
            return _format_integer(value)
        case str() if token.code == STRING:
            return f'"{value}"'
        case str() if token.code == LOCAL_ATTRIBUTE:
            return value
        case str():
            return ATTRIBUTE_PREFIXES[token.code] + escape_name(value)
        case bytes():
            return f"#{value.hex()}"
        case Sid():
            return f"SID({domains.alias(value) or value})"
        case tuple():
            return "{" + ", ".join(_format_operand(member, domains) for member in value) + "}"
        case _:
            raise SddlError(f"conditional ACE: token {token.code:#04x} has no text")


def _format_integer(number: Integer) -> str:
    sign = {1: "+", 2: "-", 3: ""}.get(number.sign)
    spec = {1: "o", 2: "d", 3: "x"}.get(number.base)
    if sign is None or spec is None:
        raise SddlError(
            f"conditional ACE: integer with sign {number.sign} and base {number.base} has no text"
        )
    prefix = {"o": "0", "d": "", "x": "0x"}[spec]
    value = number.value
    if not sign and spec != "d":
        value &= (1 << 64) - 1
    elif sign == "-":
        value = -value
    return f"{sign}{prefix}{value:{spec}}"


# -- claims -----------------------------------------------------------------------------------------


def parse_claim(cursor: Cursor) -> Claim:
    """Go past the claim at *cursor*, parentheses included."""
    cursor.skip(WHITESPACE)
    start = cursor.at
    cursor.expect("(")
    cursor.skip(WHITESPACE)
    cursor.expect('"')
    name = cursor.name()
    cursor.expect('"')
    _comma(cursor)
    kind = _CLAIM_TYPES.get(ascii_upper(cursor.peek(2)))
    if kind is None:
        cursor.fail("expected one of TI, TU, TS, TD, TX, TB")
    cursor.at += 2
    _comma(cursor)
    flags = _integer(cursor).value
    if not 0 <= flags <= 0xFFFFFFFF:
        cursor.fail("claim flags do not fit in 32 bits", start)
    values: list[ClaimValue] = []
    cursor.skip(WHITESPACE)
    while not cursor.take(")"):
        _comma(cursor)
        values.append(_claim_value(cursor, kind))
        cursor.skip(WHITESPACE)
    return Claim(name, kind, tuple(values), flags)


def _comma(cursor: Cursor) -> None:
    cursor.skip(WHITESPACE)
    cursor.expect(",")
    cursor.skip(WHITESPACE)


def _claim_value(cursor: Cursor, kind: ClaimType) -> ClaimValue:
    if kind is ClaimType.STRING:
        return cursor.quoted()
    if kind is ClaimType.SID:
        return cursor.sid()
    start = cursor.at
    if kind is ClaimType.OCTET_STRING:
        octets = _octets(cursor)
        if cursor.at == start:
            cursor.fail("expected hexadecimal digits")
        return octets
    if kind is ClaimType.INT64:
        return _integer(cursor).value
    found = cursor.match(_INTEGER)
    if found is None or found[1] == "-":
        cursor.fail("expected a number without a sign", start)
    try:
        value = int(found[2], 16 if found[2][:2] in ("0x", "0X") else 8 if found[2][0] == "0" else 10)
    except ValueError:
        cursor.fail("malformed octal number", start)
    if value >= 1 << 64 or (kind is ClaimType.BOOLEAN and value > 1):
        cursor.fail(f"number too large for {kind.name}", start)
    return value


def format_claim(claim: Claim, domains: Domains) -> str:
    """The text of a claim, in parentheses, as Windows writes it.

    Raises:
        SddlError: it holds what has no text.
    """
    values = [_format_claim_value(claim, value, domains) for value in claim.values]
    fields = [f'"{escape_name(claim.name)}"', _CLAIM_TYPE_NAMES[claim.type], f"{claim.flags:#x}", *values]
    return "(" + ",".join(fields) + ")"


def _format_claim_value(claim: Claim, value: ClaimValue, domains: Domains) -> str:
    match value:
        case int():
            return str(value)
        case str() if '"' not in value:
            return f'"{value}"'
        case Sid():
            return domains.alias(value) or str(value)
        case bytes() if value:
            return value.hex()
        case _:
            raise SddlError(f"resource attribute {claim.name!r}: the value {value!r:.100} has no text")
