"""Run under a preloaded library that lets single calls fail: each operation, with each of its calls in turn.

Called by ``test_io_errors.py``: ``python -m tests.faults.io_errors FOLDER NUMBER STRIDE`` runs the operation
of that number.  Prints what went wrong, and last how many runs there were.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import traceback

from tests.faults.operations import OPERATIONS, Operation, State, mounts_below
from tests.faults.recovery import assert_recovers, outcome, start
from tests.faults.steps import fork, wait
from winlayers.errors import WinlayersError
from winlayers.layers.portable.mounts import syscalls

DONE, REFUSED, UNCLEAR, NEVER = 0, 3, 4, 5
"""How a child ends: without an error, with one of the package's, with another, before its call's turn."""

_MOST_CALLS = 5000


def run(operation: Operation, home: str, number: int) -> int:
    """Do the operation in a child process whose call *number* fails; how that ended."""
    service = operation.open(home)

    def work() -> None:
        library = ctypes.CDLL(None)
        library.failing_io_arm(os.fsencode(home), ctypes.c_long(number), errno.EIO)
        status = DONE
        try:
            operation.run(service)
        except WinlayersError as error:
            status = REFUSED if "\n" not in str(error) else UNCLEAR
        except Exception:  # noqa: BLE001 - none other should come
            status = UNCLEAR
            traceback.print_exc(file=sys.stdout)
        if library.failing_io_count() < number:
            status = NEVER
        sys.stdout.flush()
        os._exit(status)

    return wait(fork(work))


def assert_survives(operation: Operation, home: str, number: int, after: State) -> bool:
    """Let the call *number* fail, and see what that leaves; False where there are fewer calls."""
    before = start(operation, home)
    status = run(operation, home, number)
    if status == NEVER:
        return False
    assert status in (DONE, REFUSED), f"ended with {status}"
    assert_recovers(operation, home, before, after)
    return True


def main() -> int:
    folder, which, stride = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    operation = OPERATIONS[which]
    after = outcome(operation, os.path.join(folder, "outcome"))
    failures = runs = 0
    for number in range(1, _MOST_CALLS, stride):
        home = os.path.join(folder, f"home-{number}")
        try:
            if not assert_survives(operation, home, number, after):
                break
        except Exception:  # noqa: BLE001 - whatever it is, the test is to show it and go on
            failures += 1
            print(f"--- {operation.name}: call {number} failed")
            traceback.print_exc(file=sys.stdout)
            if failures > 5:
                break
        finally:
            for target in reversed(mounts_below(home)):
                syscalls.unmount(target, syscalls.UMOUNT_DETACH)
        runs += 1
        shutil.rmtree(home, ignore_errors=True)
    print(f"{runs} runs, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
