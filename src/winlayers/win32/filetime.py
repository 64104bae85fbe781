"""FILETIME: counts of 100 ns since 1601-01-01 UTC, and their exact relation to Unix time and to PAX text.

All arithmetic is on integers, so nothing is rounded.  Sources: [MS-DTYP] 2.3.3 (FILETIME); POSIX.1 ``pax``,
"pax Extended Header" (times as decimal seconds); Go ``syscall.NsecToFiletime`` (finer fractions are cut
towards 1970, not downwards), which is what go-winio's ``backuptar`` does to a tar's times.
"""

from __future__ import annotations

import re

from winlayers.errors import FormatError

UNSET = 0
"""The FILETIME that NTFS and the Win32 calls take for "no time" (it is also 1601-01-01 itself)."""

TICKS_PER_SECOND = 10_000_000
NANOSECONDS_PER_TICK = 100
NANOSECONDS_PER_SECOND = 1_000_000_000

UNIX_EPOCH = 116_444_736_000_000_000
"""1970-01-01 UTC as a FILETIME."""

MAX_FILETIME = 2**63 - 1
MIN_FILETIME = -(2**63)

_PAX_TIME = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?")
_MAX_SECONDS_DIGITS = 19


def filetime_from_unix(seconds: int, nanoseconds: int = 0) -> int:
    """The FILETIME of a Unix time.

    Args:
        seconds: whole seconds since 1970, may be negative.
        nanoseconds: added to *seconds*; any integer.

    Returns:
        100 ns ticks since 1601.  What is finer than a tick is cut towards 1970 (as Go does), so that
        -99 ns is 1970 itself.

    Raises:
        FormatError: the result does not fit into a signed 64-bit integer.
    """
    total = seconds * NANOSECONDS_PER_SECOND + nanoseconds
    ticks = total // NANOSECONDS_PER_TICK if total >= 0 else -(-total // NANOSECONDS_PER_TICK)
    filetime = ticks + UNIX_EPOCH
    if not MIN_FILETIME <= filetime <= MAX_FILETIME:
        raise FormatError(f"the time {seconds} s after 1970 does not fit into a FILETIME")
    return filetime


def unix_from_filetime(filetime: int) -> tuple[int, int]:
    """*filetime* as (seconds since 1970, nanoseconds from 0 to 999,999,900), exactly."""
    seconds, ticks = divmod(filetime - UNIX_EPOCH, TICKS_PER_SECOND)
    return seconds, ticks * NANOSECONDS_PER_TICK


def unix_nanoseconds(filetime: int) -> int:
    """*filetime* as nanoseconds since 1970 (what ``os.utime(ns=...)`` takes), exactly."""
    return (filetime - UNIX_EPOCH) * NANOSECONDS_PER_TICK


def filetime_from_nanoseconds(nanoseconds: int) -> int:
    """The FILETIME of *nanoseconds* since 1970 (what ``st_mtime_ns`` holds); see `filetime_from_unix`."""
    return filetime_from_unix(0, nanoseconds)


def parse_pax_time(text: str) -> tuple[int, int]:
    """Parse a PAX time (``-1.25``, ``1686832496.1234567``).

    Digits beyond nanoseconds are cut; ``1.`` is ``1``; a plus sign is let pass; anything else that Go's
    ``archive/tar`` refuses is refused (blanks, exponents, an empty text, seconds beyond 64 bits).

    Returns:
        (seconds, nanoseconds) with nanoseconds from 0 to 999,999,999: ``-1.25`` is (-2, 750000000).

    Raises:
        FormatError: *text* is not such a number.
    """
    match = _PAX_TIME.fullmatch(text)
    if match is None:
        raise FormatError(f"{text[:40]!r} is not a time in decimal seconds")
    sign, whole, fraction = match.groups()
    if len(whole.lstrip("0")) > _MAX_SECONDS_DIGITS:
        raise FormatError(f"the time {text[:40]!r} is out of range")
    seconds = int(whole[-_MAX_SECONDS_DIGITS:])
    nanoseconds = int(fraction[:9].ljust(9, "0")) if fraction else 0
    if sign == "-":
        seconds, nanoseconds = divmod(
            -(seconds * NANOSECONDS_PER_SECOND + nanoseconds), NANOSECONDS_PER_SECOND
        )
    if not -(2**63) <= seconds < 2**63:
        raise FormatError(f"the time {text[:40]!r} is out of range")
    return seconds, nanoseconds


def format_pax_time(seconds: int, nanoseconds: int = 0) -> str:
    """Write a time as PAX text: decimal seconds without trailing zeroes, ``-`` in front of the whole number.

    Args:
        seconds: whole seconds since 1970, rounded down.
        nanoseconds: 0 to 999,999,999, added to *seconds*.
    """
    total = seconds * NANOSECONDS_PER_SECOND + nanoseconds
    whole, fraction = divmod(abs(total), NANOSECONDS_PER_SECOND)
    text = f"{whole}.{fraction:09d}".rstrip("0") if fraction else str(whole)
    return f"-{text}" if total < 0 else text


def filetime_to_pax(filetime: int) -> str:
    """*filetime* as PAX text, exactly (up to seven decimals)."""
    return format_pax_time(*unix_from_filetime(filetime))


def filetime_from_pax(text: str) -> int:
    """The FILETIME of a PAX time; raises `FormatError` as `parse_pax_time` and `filetime_from_unix` do."""
    return filetime_from_unix(*parse_pax_time(text))
