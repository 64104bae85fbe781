"""What Windows reports, made into this package's errors: one raiser for all calls.

Three kinds of codes come back from Windows: Win32 codes (``GetLastError``, and what ``virtdisk`` returns),
HRESULTs (``vmcompute``) and NTSTATUS (``ntdll``).  An HRESULT of the form 0x8007xxxx carries a Win32 code in
its low half (source: hcsshim ``interop.Win32FromHresult``), and an NTSTATUS is mapped by
``RtlNtStatusToDosError``; the error's class is chosen by the Win32 code that results.
"""

from __future__ import annotations

import ctypes
import sys
from typing import NoReturn

from winlayers.errors import HcsError, LayerExistsError, LayerInUseError, LayerNotFoundError, UnsupportedError
from winlayers.layers.native import ffi

ERROR_FILE_NOT_FOUND = 2
ERROR_PATH_NOT_FOUND = 3
ERROR_ACCESS_DENIED = 5
ERROR_NO_MORE_FILES = 18
ERROR_SHARING_VIOLATION = 32
ERROR_NOT_SUPPORTED = 50
ERROR_FILE_EXISTS = 80
ERROR_INVALID_PARAMETER = 87
ERROR_INSUFFICIENT_BUFFER = 122
ERROR_DIR_NOT_EMPTY = 145
ERROR_MORE_DATA = 234
ERROR_BUSY = 170
ERROR_ALREADY_EXISTS = 183
ERROR_TOO_MANY_LINKS = 1142
ERROR_NOT_ALL_ASSIGNED = 1300
ERROR_PRIVILEGE_NOT_HELD = 1314
ERROR_REPARSE_POINT_ENCOUNTERED = 4395
ERROR_NOT_A_REPARSE_POINT = 4390
ERROR_NOT_READY = 21

VMCOMPUTE_OPERATION_PENDING = 0xC0370103
VMCOMPUTE_OPERATION_INVALID_STATE = 0xC0370105
VMCOMPUTE_UNEXPECTED_EXIT = 0xC0370106
VMCOMPUTE_SYSTEM_NOT_FOUND = 0xC037010E
VMCOMPUTE_ALREADY_STOPPED = 0xC0370110


class HcsNotFoundError(HcsError, LayerNotFoundError):
    """The file, folder or layer that a call names is not there."""


class HcsExistsError(HcsError, LayerExistsError):
    """What a call would make is there already."""


class HcsInUseError(HcsError, LayerInUseError):
    """Another process holds what the call needs."""


class HcsAccessDeniedError(HcsError, PermissionError):
    """Access is denied, or a privilege is missing."""


class HcsUnsupportedError(HcsError, UnsupportedError):
    """This build of Windows can't do what the call asks."""


class ReparsePointError(HcsError):
    """A path that must not leave the layer leads over a reparse point."""


_CLASSES: dict[int, type[HcsError]] = {
    ERROR_FILE_NOT_FOUND: HcsNotFoundError,
    ERROR_PATH_NOT_FOUND: HcsNotFoundError,
    ERROR_ACCESS_DENIED: HcsAccessDeniedError,
    ERROR_PRIVILEGE_NOT_HELD: HcsAccessDeniedError,
    ERROR_NOT_ALL_ASSIGNED: HcsAccessDeniedError,
    ERROR_FILE_EXISTS: HcsExistsError,
    ERROR_ALREADY_EXISTS: HcsExistsError,
    ERROR_SHARING_VIOLATION: HcsInUseError,
    ERROR_BUSY: HcsInUseError,
    ERROR_NOT_SUPPORTED: HcsUnsupportedError,
    ERROR_REPARSE_POINT_ENCOUNTERED: ReparsePointError,
}

_HINTS = {
    ERROR_ACCESS_DENIED: "run from an elevated prompt",
    ERROR_PRIVILEGE_NOT_HELD: "run from an elevated prompt",
    ERROR_NOT_ALL_ASSIGNED: "run from an elevated prompt",
    ERROR_SHARING_VIOLATION: "another process has it open",
}


def win32_from_hresult(hresult: int) -> int:
    """The Win32 code inside an HRESULT of the form 0x8007xxxx, else the HRESULT, as an unsigned number."""
    code = hresult & 0xFFFFFFFF
    return code & 0xFFFF if code & 0x1FFF0000 == 0x00070000 else code


def describe(code: int) -> str:
    """The system's text for *code* in one line, else the code itself."""
    text = ""
    if sys.platform == "win32":
        text = ctypes.FormatError(code if code < 2**31 else code - 2**32)
    text = " ".join(text.split()).rstrip(".")
    if not text or text.startswith("<"):  # ctypes writes "<no description>"
        return f"error {code}" if code < 0x10000 else f"error 0x{code:08x}"
    return f"{text} (error {code if code < 0x10000 else hex(code)})"


def raise_win32(
    function: str, code: int, *, path: str | None = None, layer: str | None = None, raw: int | None = None
) -> NoReturn:
    """Raise what *function*'s Win32 error *code* means; *raw* is the code as it came, if that was another.

    Raises:
        HcsError: always, as the subclass that the code stands for.
    """
    cls = _CLASSES.get(code, HcsError)
    raise cls(
        f"{function}: {describe(code)}",
        function=function,
        code=code if raw is None else raw & 0xFFFFFFFF,
        layer=layer,
        path=path,
        hint=_HINTS.get(code),
    )


def raise_last_error(function: str, *, path: str | None = None, layer: str | None = None) -> NoReturn:
    """Raise what the last call's ``GetLastError`` means."""
    raise_win32(function, ffi.last_error(), path=path, layer=layer)


def check_win32(function: str, code: int, *, path: str | None = None) -> None:
    """Raise unless *code*, a Win32 error code, is 0."""
    if code:
        raise_win32(function, code, path=path)


def check_hresult(function: str, hresult: int, *, layer: str | None = None, path: str | None = None) -> None:
    """Raise if *hresult* says failure (its top bit is set)."""
    if hresult & 0x80000000:
        raise_win32(function, win32_from_hresult(hresult), layer=layer, path=path, raw=hresult)


def check_ntstatus(function: str, status: int, *, path: str | None = None) -> None:
    """Raise unless *status* is STATUS_SUCCESS."""
    if status:
        raise_win32(function, ffi.ntdll().RtlNtStatusToDosError(status), path=path, raw=status)


def win32_code(error: HcsError) -> int:
    """The Win32 code of *error*, whether it came as one, as an HRESULT or as an NTSTATUS."""
    if error.code < 0x10000:
        return error.code
    converted = win32_from_hresult(error.code)
    if converted != error.code or error.code & 0xF0000000 != 0xC0000000 or error.function[:2] != "Nt":
        return converted
    return ffi.ntdll().RtlNtStatusToDosError(error.code)
