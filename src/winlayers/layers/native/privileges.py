"""Privileges on the calling thread, for the length of a ``with`` block.

Backup, restore and security rights are taken on a token of the thread, never of the process, so that other
threads of a long-running engine keep running without them (source: go-winio ``RunWithPrivileges``).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from winlayers.layers.native import errors, ffi

SE_BACKUP = "SeBackupPrivilege"
SE_RESTORE = "SeRestorePrivilege"
SE_SECURITY = "SeSecurityPrivilege"

READ = (SE_BACKUP,)
"""What reading a layer needs."""

WRITE = (SE_SECURITY, SE_BACKUP, SE_RESTORE)
"""What writing a layer needs."""

_SECURITY_IMPERSONATION = 2
_TOKEN_QUERY = 0x8
_TOKEN_IMPERSONATE = 0x4
_TOKEN_ADJUST_PRIVILEGES = 0x20
_SE_PRIVILEGE_ENABLED = 0x2


class _Held(threading.local):
    """The privileges that blocks further out on this thread hold already."""

    names: frozenset[str] = frozenset()


_held = _Held()


@contextlib.contextmanager
def privileges(*names: str) -> Iterator[None]:
    """Hold the privileges *names* on this thread while the block runs.

    The thread runs on a copy of the process's token meanwhile; a token that it impersonated before is put
    back at the end.  Blocks may be nested: one that asks for nothing new costs nothing.

    Raises:
        HcsAccessDeniedError: the process has no right to one of them.
    """
    outer = _held.names
    if outer.issuperset(names):
        yield
        return
    advapi32 = ffi.advapi32()
    before = _thread_token(_TOKEN_IMPERSONATE)
    try:
        if not advapi32.ImpersonateSelf(_SECURITY_IMPERSONATION):
            errors.raise_last_error("ImpersonateSelf")
        try:
            _enable(sorted(outer.union(names)))
            _held.names = outer.union(names)
            yield
        finally:
            _held.names = outer
            _go_back(before)
    finally:
        if before is not None:
            ffi.kernel32().CloseHandle(before)


def _go_back(before: ffi.Handle | None) -> None:
    """End the impersonation; take up the token *before* again."""
    advapi32 = ffi.advapi32()
    if before is not None:
        if not advapi32.SetThreadToken(None, before):
            errors.raise_last_error("SetThreadToken")
    elif not advapi32.RevertToSelf():
        errors.raise_last_error("RevertToSelf")


def _thread_token(access: int) -> ffi.Handle | None:
    """The thread's own token, or None where it runs on the process's."""
    token = ctypes.c_void_p()
    thread = ffi.kernel32().GetCurrentThread()
    if not ffi.advapi32().OpenThreadToken(thread, access, 1, ctypes.byref(token)):
        return None
    return ffi.Handle(token.value or 0)


def _enable(names: list[str]) -> None:
    """Enable *names* on the thread's token: all of them, or an error."""
    advapi32 = ffi.advapi32()
    entries = (ffi.LuidAndAttributes * len(names))()
    for entry, name in zip(entries, names, strict=True):
        if not advapi32.LookupPrivilegeValueW(None, name, ctypes.byref(entry)):
            errors.raise_last_error("LookupPrivilegeValueW")
        entry.attributes = _SE_PRIVILEGE_ENABLED
    state = ctypes.create_string_buffer(len(names).to_bytes(4, "little") + bytes(entries))
    token = _thread_token(_TOKEN_ADJUST_PRIVILEGES | _TOKEN_QUERY)
    if token is None:
        errors.raise_last_error("OpenThreadToken")
    try:
        adjusted = advapi32.AdjustTokenPrivileges(token, 0, state, len(state), None, None)
        code = ffi.last_error()
        # Success with this code: some privilege was not there to be enabled.
        if not adjusted or code == errors.ERROR_NOT_ALL_ASSIGNED:
            errors.raise_win32("AdjustTokenPrivileges", code, path=", ".join(names))
    finally:
        ffi.kernel32().CloseHandle(token)
