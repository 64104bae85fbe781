"""Counting the steps by which a process changes what is on disk, to die or to look at any one of them.

The steps are wrapped in a child process, from outside: the product has no hooks for this.
"""

from __future__ import annotations

import builtins
import functools
import os
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

from winlayers.layers.portable.mounts import syscalls

_CALLS = (
    "fsync", "rename", "replace", "link", "symlink", "unlink", "rmdir", "mkdir", "truncate", "ftruncate",
)  # fmt: skip
_MOUNT_CALLS = ("move_mount", "unmount", "sync_file_system")


class Steps:
    """Calls *before* with each step's number (from 1) and name, ahead of the step itself."""

    def __init__(self, before: Callable[[int, str], None]) -> None:
        self.count = 0
        self._before = before

    def step(self, name: str) -> None:
        """Count one step."""
        self.count += 1
        self._before(self.count, name)

    def install(self) -> None:
        """Wrap the calls of this process; there is no way back."""
        for name in _CALLS:
            self._wrap(os, name)
        for name in _MOUNT_CALLS:
            self._wrap(syscalls, name)
        self._wrap_opens()
        self._wrap_sqlite()

    def _wrap(self, module: Any, name: str) -> None:
        call = getattr(module, name)

        @functools.wraps(call)
        def counted(*arguments: Any, **named: Any) -> Any:
            self.step(name)
            return call(*arguments, **named)

        setattr(module, name, counted)
        for feature in ("supports_dir_fd", "supports_fd", "supports_follow_symlinks"):
            if call in getattr(os, feature):
                getattr(os, feature).add(counted)

    def _wrap_opens(self) -> None:
        plain_open, plain_os_open = builtins.open, os.open

        def counted_open(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if set(mode) & set("wxa+") and not isinstance(file, int):
                self.step("open")
            return plain_open(file, mode, *arguments, **named)

        def counted_os_open(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
            if flags & os.O_CREAT:
                self.step("open")
            return plain_os_open(path, flags, *arguments, **named)

        builtins.open = counted_open
        os.open = counted_os_open
        os.supports_dir_fd.add(counted_os_open)

    def _wrap_sqlite(self) -> None:
        steps = self

        class Counted(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                if sql.strip().upper().startswith(("COMMIT", "CREATE", "BEGIN")):
                    steps.step(f"sqlite {sql.split()[0]}")
                return super().execute(sql, *arguments)

            def commit(self) -> None:
                steps.step("sqlite commit")
                super().commit()

        setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Counted))  # noqa: B010 - for mypy


KILLED = 77
"""The exit status of a child that ended at the step that it was told to."""


def fork(run: Callable[[], None], *, prepare: Callable[[], None] | None = None) -> int:
    """Run *run* in a child process, after *prepare*; the child's process id.

    The child ends with 0, or with 1 and a traceback.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if prepare is not None:
            prepare()
        run()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pytest holds what a child writes, so a failure shows it
        raise
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int) -> int:
    """Wait for the child; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(target: int) -> Callable[[], None]:
    """What lets a child end just before its step number *target*."""

    def before(number: int, name: str) -> None:
        if number == target:
            os._exit(KILLED)

    return Steps(before).install
