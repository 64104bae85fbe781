"""What the parsers of SDDL share: a cursor over the text, SIDs, names with escapes, literals."""

from __future__ import annotations

import dataclasses
import re
from typing import Final, NoReturn

from winlayers.errors import SddlError
from winlayers.win32.security.sid import Domains, Sid

__all__ = ["WHITESPACE", "Cursor", "ascii_upper", "escape_name"]

WHITESPACE: Final = " \t\n\v\f\r"
_SID: Final = re.compile(r"[Ss]-[-0-9A-Fa-fxX]*")
_NAME: Final = re.compile(r"[^!&()><=| \"\t\n\v\f\r]+")
_ESCAPE: Final = re.compile(r"%(.{0,4})", re.DOTALL)
_HEX4: Final = re.compile(r"[0-9A-Fa-f]{4}")
# What Windows writes as it is in an attribute's name; all else becomes %XXXX.
_MUST_ESCAPE: Final = re.compile(r"[^#-$'*+\--;?-{}~]")


@dataclasses.dataclass(slots=True)
class Cursor:
    """A place in an SDDL text.

    Attributes:
        text: the whole text.
        domains: what domain-relative SID aliases stand for.
        at: the index of the next character.
    """

    text: str
    domains: Domains
    at: int = 0

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Raise the error *what*, with the place."""
        place = self.at if at is None else at
        near = self.text[place : place + 20]
        raise SddlError(f"SDDL at character {place}: {what}" + (f", at {near!r}" if near else ", at the end"))

    def peek(self, count: int = 1) -> str:
        """The next *count* characters, fewer at the end."""
        return self.text[self.at : self.at + count]

    def skip(self, characters: str = " ") -> None:
        """Go past any of *characters*."""
        text, at, end = self.text, self.at, len(self.text)
        while at < end and text[at] in characters:
            at += 1
        self.at = at

    def take(self, literal: str) -> bool:
        """Go past *literal* if it is next."""
        if self.text.startswith(literal, self.at):
            self.at += len(literal)
            return True
        return False

    def take_word(self, word: str) -> bool:
        """Go past *word*, given in upper case, if it is next in any case."""
        if ascii_upper(self.peek(len(word))) == word:
            self.at += len(word)
            return True
        return False

    def expect(self, literal: str) -> None:
        """Go past *literal*, which must be next."""
        if not self.take(literal):
            self.fail(f"expected {literal!r}")

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Go past what *pattern* matches here."""
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def sid(self) -> Sid:
        """Go past a SID, written out or as an alias."""
        start = self.at
        found = _SID.match(self.text, start)
        if found is None:
            alias = self.peek(2)
            if len(alias) < 2 or not (alias.isascii() and alias.isalpha()):
                self.fail("expected a SID")
            sid = self.domains.resolve(alias.upper())
            self.at += 2
            return sid
        end = found.end()
        if self.text[end - 1] in "Dd" and self.text.startswith(":", end):
            end -= 1  # not a hexadecimal digit, but the D of D: that follows
        sid = Sid.parse(self.text[start:end])
        self.at = end
        return sid

    def name(self) -> str:
        """Go past an attribute's name, in which ``%XXXX`` stands for a UTF-16 code unit."""
        found = self.match(_NAME)
        if found is None:
            self.fail("expected a name")
        if "%" not in found[0]:
            return found[0]

        def unescape(escape: re.Match[str]) -> str:
            if _HEX4.fullmatch(escape[1]) is None:
                self.fail("malformed % escape", found.start() + escape.start())
            return chr(int(escape[1], 16))

        units = _ESCAPE.sub(unescape, found[0])
        # Two escapes may have been the halves of one character.
        return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")

    def quoted(self) -> str:
        """Go past a string in double quotes; SDDL has no way to write a quote inside."""
        self.expect('"')
        end = self.text.find('"', self.at)
        if end < 0:
            self.fail("string without an end", self.at - 1)
        content = self.text[self.at : end]
        self.at = end + 1
        return content


def ascii_upper(text: str) -> str:
    """*text* in upper case; what is not ASCII is no letter of SDDL, so a long s stays one."""
    return text.upper() if text.isascii() else text


def escape_name(name: str) -> str:
    """*name* as Windows writes an attribute's name."""
    if _MUST_ESCAPE.search(name) is None:
        return name
    units = name.encode("utf-16-le", "surrogatepass")
    characters = [chr(int.from_bytes(units[i : i + 2], "little")) for i in range(0, len(units), 2)]
    return "".join(c if _MUST_ESCAPE.match(c) is None else f"%{ord(c):04x}" for c in characters)
