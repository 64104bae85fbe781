"""What the commands print: tables like docker's, JSON, sizes, ages, and names that a terminal can't show."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import click

STANDARD_OUTPUT = "standard output"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str) -> str:
    """*text* with control characters and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let errors of the block name what could not be written, rather than a hidden file or nothing."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def echo(text: str = "") -> None:
    """Print a line to standard output."""
    with naming(STANDARD_OUTPUT):
        click.echo(text)


def write_out(data: bytes) -> None:
    """Write binary data to standard output."""
    with naming(STANDARD_OUTPUT):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)


def emit_json(value: object) -> None:
    """Print *value* as JSON; lone surrogates and all beyond ASCII are escaped, so any program can read it."""
    echo(json.dumps(value, indent=2))


def human_size(size: int) -> str:
    """*size* as docker prints it: four digits at most, powers of 1000."""
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.4g}{unit}" if value < 999.95 else f"{value:.0f}{unit}"
        value /= 1000
    raise AssertionError("unreachable: the last unit takes all")


def age(created: str) -> str:
    """How long ago an RFC 3339 time was, as docker says it."""
    moment = parse_time(created)
    if moment is None:
        return "N/A"
    seconds = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    for name, length, least in (
        ("year", 365 * 86400, 2),
        ("month", 30 * 86400, 2),
        ("week", 7 * 86400, 2),
        ("day", 86400, 2),
        ("hour", 3600, 2),
        ("minute", 60, 2),
    ):
        if seconds >= length * least:
            return f"{int(seconds // length)} {name}s ago"
    if seconds >= 60:
        return "About a minute ago"
    return f"{int(seconds)} seconds ago" if seconds >= 1 else "Less than a second ago"


def parse_time(text: str) -> datetime.datetime | None:
    """An RFC 3339 time; None for what is none, and for Go's zero time."""
    if not text or text.startswith("0001-"):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print rows under a header, columns three blanks apart; columns in *right* are right-aligned."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(line)
        ]
        echo("   ".join(cells).rstrip())


def write_stream(read: Callable[[int], bytes], path: str) -> int:
    """Write a binary stream to *path* (``-``: standard output); return its bytes.

    A file appears only when all of it is there.
    """
    if path == "-":
        if sys.stdout.isatty():
            raise click.UsageError("binary data is not written to a terminal; give a file or redirect")
        return _copy(read, write_out)
    from winlayers.durable import replacing

    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or device can't be replaced
        with naming(path), open(path, "wb") as device:
            return _copy(read, device.write)
    with naming(path), replacing(os.path.abspath(path)) as file:
        return _copy(read, file.write)


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> int:
    size = 0
    while chunk := read(1 << 20):
        write(chunk)
        size += len(chunk)
    return size
