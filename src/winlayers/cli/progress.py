"""Progress for people: bars on a terminal, one line for each finished piece of work elsewhere."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
import threading
import time
from typing import TextIO

from winlayers.cli.output import human_size
from winlayers.images.progress import QUIET, Progress

_INTERVAL = 0.1
_MIN_BAR = 10
_MAX_BAR = 40
_SPAN = 3.0


@dataclasses.dataclass(slots=True)
class _Work:
    label: str
    total: int | None
    done: int = 0
    began: float = 0.0
    mark_time: float = 0.0
    mark_done: int = 0
    rate: float = 0.0


class LineProgress(Progress):
    """A line on *stream* when a piece of work is done."""

    def __init__(self, stream: TextIO) -> None:
        """Write to *stream*."""
        self._stream = stream
        self._works: dict[str, _Work] = {}
        self._lock = threading.RLock()

    def start(self, key: str, label: str, total: int | None = None) -> None:
        now = time.monotonic()
        with self._lock:
            self._works[key] = _Work(label, total, began=now, mark_time=now)

    def advance(self, key: str, count: int) -> None:
        with self._lock:
            work = self._works.get(key)
            if work is not None:
                work.done += count

    def finish(self, key: str, note: str = "") -> None:
        with self._lock:
            work = self._works.pop(key, None)
            if work is not None:
                self._write(_finished(work, note))

    def warn(self, message: str) -> None:
        with self._lock:
            self._write(f"winlayers: warning: {message}")

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _finished(work: _Work, note: str) -> str:
    size = "" if work.total is None else f" {human_size(work.total)}"
    return f"{work.label}:{size} {note or 'done'}"


class BarProgress(LineProgress):
    """A bar for each piece of work under way; what is done scrolls away above them."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on *stream*, a terminal that knows ANSI's control sequences."""
        super().__init__(stream)
        self._drawn = 0
        self._last = 0.0

    def start(self, key: str, label: str, total: int | None = None) -> None:
        super().start(key, label, total)
        self._draw(force=True)

    def advance(self, key: str, count: int) -> None:
        super().advance(key, count)
        self._draw()

    def finish(self, key: str, note: str = "") -> None:
        super().finish(key, note)
        self._draw(force=True)

    def _write(self, line: str) -> None:
        with self._lock:
            self._stream.write(self._erase() + line + "\n")
            self._stream.flush()
        self._draw(force=True)

    def _erase(self) -> str:
        """What takes the bars away again, the cursor then where the first one was."""
        text = "\x1b[1A\x1b[2K" * self._drawn
        self._drawn = 0
        return text

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            if not force and now - self._last < _INTERVAL:
                return
            self._last = now
            width, height = shutil.get_terminal_size()
            works = sorted(self._works.values(), key=_order)[: max(1, height - 2)]
            lines = [_bar(work, now, width) for work in works]
            self._stream.write(self._erase() + "".join(f"{line}\n" for line in lines))
            self._stream.flush()
            self._drawn = len(lines)


def _order(work: _Work) -> list[str]:
    """A sort key by which layer 2 comes before layer 10, whichever began first."""
    return [part.zfill(9) if part.isdigit() else part for part in re.split(r"([0-9]+)", work.label)]


def _bar(work: _Work, now: float, width: int) -> str:
    """One line, at most *width* - 1 columns, so that it never wraps."""
    if now - work.mark_time >= 0.5:
        rate = (work.done - work.mark_done) / (now - work.mark_time)
        weight = min(1.0, (now - work.mark_time) / _SPAN) if work.rate else 1.0
        work.rate += (rate - work.rate) * weight
        work.mark_time, work.mark_done = now, work.done
    rate_text = f"{human_size(int(work.rate))}/s" if work.rate else ""
    if work.total is None:
        return f"{work.label}  {human_size(work.done)}  {rate_text}"[: width - 1]
    done = min(work.done, work.total)
    tail = f" {human_size(done)}/{human_size(work.total)} {rate_text}"
    room = min(_MAX_BAR, width - 1 - len(work.label) - len(tail) - 3)
    if room < _MIN_BAR:
        return f"{work.label}{tail}"[: width - 1]
    full = room if not work.total else room * done // work.total
    head = ">" if full < room else ""
    return f"{work.label} [{'=' * full}{head}{' ' * (room - full - len(head))}]{tail}"


def make_progress(stream: TextIO, *, quiet: bool) -> Progress:
    """The progress for *stream*: bars where it is a terminal that can show them."""
    if quiet:
        return QUIET
    capable = os.environ.get("TERM", "") != "dumb" and (sys.platform != "win32" or "WT_SESSION" in os.environ)
    return BarProgress(stream) if stream.isatty() and capable else LineProgress(stream)
