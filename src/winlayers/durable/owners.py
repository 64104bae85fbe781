"""Telling processes apart, to know whose work is half done and whose is left over."""

from __future__ import annotations

import os
import sys


def owner() -> str:
    """This process, as a text that no other has: its id and, on Linux, when it was started."""
    pid = os.getpid()
    return f"{pid}.{start_time(pid)}"


def owner_lives(text: str) -> bool:
    """Whether the process that called itself so is alive (on Windows never; there open files tell).

    One in another process name space can't be seen from here: what must hold there, too, takes a lock.
    """
    pid, _, started = text.partition(".")
    if not pid.isdigit() or not is_alive(int(pid)):
        return False
    return start_time(int(pid)) == started


def start_time(pid: int) -> str:
    """When the process was started, in clock ticks since boot; "" where that can't be told, or it has ended.

    One that has ended is there until its parent has asked after it.  One whose first thread has ended has
    not until the others have: till then its files are open, and its locks held.

    Source: Linux, ``proc_pid_stat(5)``, fields 3 (state), 20 (number of threads) and 22; the second field may
    hold blanks and parentheses.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        has_ended = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
        return "" if has_ended else fields[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process of that id runs (on Windows: never; there an open file guards itself)."""
    if sys.platform != "win32":  # an open file can't be removed there, so trying is the test
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True
    else:  # noqa: RET505 - mypy must see one branch for each platform
        return False
