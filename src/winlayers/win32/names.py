"""NTFS names: when two are one, how they sort, what they may hold, and how they cross to bytes and POSIX.

A name is a ``str`` that may hold lone surrogates, since NTFS names are any sequence of 16-bit units.  Where
it matters a character beyond U+FFFF is two units, and a high surrogate before a low one is that character.

Sources: the NTFS ``$UpCase`` file (see :mod:`winlayers.win32._upcase`), which NTFS applies unit by unit;
[MS-FSCC] 2.1.5 for the characters of file and stream names; "Naming Files, Paths, and Namespaces" in the
Win32 documentation for device names; the WTF-8 specification and Go's ``syscall`` package for names as bytes.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import sys
from array import array

from winlayers.errors import InvalidNameError
from winlayers.win32 import _upcase

MAX_COMPONENT_UNITS = 255
"""The longest name of a file or of a stream, in UTF-16 units."""

_UPCASE: dict[int, int] = {
    unit: unit + delta for first, last, step, delta in _upcase.RANGES for unit in range(first, last + 1, step)
}

_INVALID = re.compile(r'[\x00-\x1f"*/:<>?\\|]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_DEVICE_NAME = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|COM[0-9¹²³]|LPT[0-9¹²³])[ ]*(?:[.:].*)?", re.IGNORECASE | re.DOTALL
)


# -- comparison -------------------------------------------------------------------------------------


def upcase(name: str) -> str:
    """*name* in NTFS's upper case, unit by unit: never longer or shorter, not Unicode's case folding."""
    if name.isascii():
        return name.upper()
    return name.translate(_UPCASE)


def upcase_table() -> bytes:
    """The ``$UpCase`` file itself: 65,536 little-endian units."""
    table = array("H", range(0x10000))
    for unit, upper in _UPCASE.items():
        table[unit] = upper
    if sys.byteorder == "big":
        table.byteswap()
    return table.tobytes()


def fold_key(name: str) -> bytes:
    """A key that two names share if, and only if, NTFS takes them for one (WTF-8 of the upper case).

    No unit beyond ASCII has an upper case within it, so names of ASCII alone can be folded by themselves.
    The order of keys is that of code points; see `sort_key` for NTFS's order.
    """
    if name.isascii():
        return name.upper().encode("ascii")
    return encode_wtf8(name.translate(_UPCASE))


def sort_key(name: str) -> bytes:
    """A key in whose order NTFS lists a directory: by upper-cased units (as UTF-16 big-endian bytes)."""
    return upcase(name).encode("utf-16-be", "surrogatepass")


# -- text and bytes ---------------------------------------------------------------------------------


def _decode_like_go(error: UnicodeError) -> tuple[str, int]:
    """What a WTF-8 surrogate means, else one U+FFFD for each byte that is not UTF-8."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    start = error.start
    unit = error.object[start : start + 3]
    if len(unit) == 3 and unit[0] == 0xED and 0xA0 <= unit[1] <= 0xBF and 0x80 <= unit[2] <= 0xBF:
        return chr(0xD000 | (unit[1] & 0x3F) << 6 | (unit[2] & 0x3F)), start + 3
    return "\ufffd" * (error.end - start), error.end


codecs.register_error("winlayers.wtf8", _decode_like_go)


def join_surrogates(name: str) -> str:
    """*name* with each high surrogate followed by a low one made the character that they stand for."""
    if _SURROGATE.search(name) is None:
        return name
    return name.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def decode_wtf8(data: bytes) -> str:
    """Decode a name from a tar header.

    UTF-8, and WTF-8's three-byte forms of lone surrogates; two that make a pair are joined.  Each byte that
    is neither becomes U+FFFD, as in Go when it converts a string to UTF-16.  Never fails.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return join_surrogates(data.decode("utf-8", "winlayers.wtf8"))


def encode_wtf8(name: str) -> bytes:
    """Encode a name for a tar header: UTF-8, and three bytes for each lone surrogate.  Never fails."""
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        return join_surrogates(name).encode("utf-8", "surrogatepass")


def decode_utf16(data: bytes | memoryview) -> str:
    """Decode UTF-16LE; lone surrogates are kept.

    Raises:
        InvalidNameError: *data* has an odd length.
    """
    if len(data) % 2:
        raise InvalidNameError(f"UTF-16 text of {len(data)} bytes, an odd number")
    return str(data, "utf-16-le", "surrogatepass")


def encode_utf16(name: str) -> bytes:
    """Encode as UTF-16LE, lone surrogates as they are."""
    return name.encode("utf-16-le", "surrogatepass")


def utf16_length(name: str) -> int:
    """The length of *name* in UTF-16 units."""
    if name.isascii():
        return len(name)
    return len(encode_utf16(name)) // 2


# -- validity ---------------------------------------------------------------------------------------


def validate_component(name: str) -> str:
    r"""*name* itself, if NTFS can hold a file of that name.

    Names of devices and names ending in a dot or a blank are legal in NTFS and in layers, so they pass.

    Raises:
        InvalidNameError: it is empty, ``.`` or ``..``, holds a control character or one of
            ``\ / : * ? " < > |``, or is longer than 255 UTF-16 units.
    """
    if name in ("", ".", ".."):
        raise InvalidNameError(f"{name!r} is not a file name")
    found = _INVALID.search(name)
    if found is not None:
        raise InvalidNameError(f"a Windows file name can't hold {found.group()!r}", path=name)
    if len(name) * 2 > MAX_COMPONENT_UNITS and utf16_length(name) > MAX_COMPONENT_UNITS:
        raise InvalidNameError(f"a name is longer than {MAX_COMPONENT_UNITS} UTF-16 units", path=name)
    return name


def validate_path(path: str) -> str:
    """*path* itself, if each of its ``/``-separated components passes `validate_component`."""
    for component in path.split("/"):
        validate_component(component)
    return path


def is_reserved_device_name(name: str) -> bool:
    """Whether the Win32 calls (not NTFS) take *name* for a device: ``nul``, ``COM1.txt``, ``con .x``."""
    return _DEVICE_NAME.fullmatch(name) is not None


# -- paths ------------------------------------------------------------------------------------------


def normalize_layer_path(tar_name: str) -> str:
    r"""The clean path of a tar member: components joined by ``/``, "" for the root itself.

    Empty and ``.`` components go; a backslash separates like a slash, as it does where the reference runs.
    A colon may stand in the last component alone, where it introduces a stream (see `split_stream`).

    Raises:
        InvalidNameError: the name is empty or absolute (also ``C:/``), or holds ``..`` or a NUL.
    """
    if (
        "/." not in tar_name
        and ":" not in tar_name
        and "\\" not in tar_name
        and "//" not in tar_name
        and "\0" not in tar_name
        and tar_name[:1] not in ("", "/", ".")
    ):
        return tar_name[:-1] if tar_name[-1] == "/" else tar_name
    return _normalize_slowly(tar_name)


def _normalize_slowly(tar_name: str) -> str:
    name = tar_name.replace("\\", "/")
    if not name:
        raise InvalidNameError("a tar member has an empty name")
    if "\0" in name:
        raise InvalidNameError("a name holds a NUL", path=tar_name)
    if name.startswith("/"):
        raise InvalidNameError("an absolute path can't stand in a layer", path=tar_name)
    components = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in components:
        raise InvalidNameError("a path in a layer can't go up with '..'", path=tar_name)
    if any(":" in part for part in components[:-1]) or (components and components[-1].startswith(":")):
        raise InvalidNameError("a colon can only introduce a stream of a file", path=tar_name)
    return "/".join(components)


def split_path(path: str) -> tuple[str, str]:
    """A clean path as (parent, name); the parent of what is directly under the root is ""."""
    parent, _, name = path.rpartition("/")
    return parent, name


def split_stream(path: str) -> tuple[str, str | None]:
    """A clean path as (path of the file, bare name of the stream or None): ``a/b:s`` is (``a/b``, ``s``).

    A type at the end (``:$DATA``, any case) is dropped; ``a/b::$DATA`` is the file's own data, so None.

    Raises:
        InvalidNameError: there is no name before the colon or none after it, or another type than ``$DATA``.
    """
    if ":" not in path:
        return path, None
    start = path.rfind("/") + 1
    base, colon, stream = path[start:].partition(":")
    if not colon:
        return path, None
    stream, typed, kind = stream.partition(":")
    if typed and kind.upper() != "$DATA":
        raise InvalidNameError(f"a stream of the type {kind!r} is not a data stream", path=path)
    if not base or not (stream or typed):
        raise InvalidNameError("a colon can only introduce a stream of a file", path=path)
    return path[:start] + base, stream or None


# -- POSIX hosts ------------------------------------------------------------------------------------

_ESCAPE = "%{"
_NEEDS_ESCAPE = re.compile("%\\{|[\\x00/\ud800-\udfff]")
_ESCAPED = re.compile(r"%\{([0-9A-F]{2,4})\}")
_HASH_MARK = "%{#"
_HASH_DIGITS = 32
_CUT = re.compile(rf"%\{{#[0-9a-f]{{{_HASH_DIGITS}}}\}}\Z")
MAX_HOST_BYTES = 255
"""``NAME_MAX`` of Linux and macOS file systems."""


def host_safe(name: str) -> str:
    """*name* as one that a POSIX file system holds: UTF-8 of at most 255 bytes, no ``/`` and no NUL.

    Nearly every name stays as it is.  Lone surrogates and the introducer itself are escaped as ``%{D800}``,
    which `host_original` undoes.  What is then still longer than 255 bytes is cut and ends in ``%{#``, 32
    hexadecimal digits of its SHA-256 and ``}``: that can't be undone, but is the same each time and different
    for different names.  What is no name at all (``..``, a ``/`` or a NUL in it) is made harmless in the same
    way, but not undone.

    Raises:
        InvalidNameError: *name* is empty.
    """
    plain = name.isascii() and len(name) <= MAX_HOST_BYTES and "/" not in name and "\0" not in name
    if plain and _ESCAPE not in name and name not in ("", ".", ".."):
        return name
    if not name:
        raise InvalidNameError("a file can't have an empty name")
    return _escape_for_host(join_surrogates(name))


def _escape_for_host(name: str) -> str:
    escaped = _NEEDS_ESCAPE.sub(_escape_match, name)
    if name in (".", ".."):
        escaped = f"%{{2E}}{name[1:]}"
    data = escaped.encode("utf-8")
    if len(data) <= MAX_HOST_BYTES:
        return escaped
    digest = hashlib.sha256(encode_utf16(name)).hexdigest()[:_HASH_DIGITS]
    tail = f"{_HASH_MARK}{digest}}}"
    return data[: MAX_HOST_BYTES - len(tail)].decode("utf-8", "ignore") + tail


def _escape_match(match: re.Match[str]) -> str:
    found = match.group()
    if found == _ESCAPE:
        return "%{25}{"
    return f"%{{{ord(found):02X}}}"


def host_original(name: str) -> str | None:
    """The name that `host_safe` made *name* of, or None where it had to be cut.

    A name that `host_safe` has not made (someone wrote ``%{41}`` or ``%{`` into a mount) is itself, and so is
    one that would become what no directory can hold: the result is never ``.`` or ``..`` and has no ``/`` or
    NUL in it, if *name* is not and has none.
    """
    if _ESCAPE not in name:
        return name
    if _CUT.search(name) is not None and len(name.encode("utf-8", "replace")) >= MAX_HOST_BYTES - 3:
        return None
    original = _ESCAPED.sub(lambda match: chr(int(match.group(1), 16)), name)
    if original in (".", "..") or "/" in original or "\0" in original or host_safe(original) != name:
        return name
    return original
