"""Progress for people: one line for each finished piece of work."""

from __future__ import annotations

import threading
from typing import TextIO

from winlayers.cli.output import human_size
from winlayers.images.progress import QUIET, Progress


class LineProgress(Progress):
    """A line on *stream* when a piece of work is done."""

    def __init__(self, stream: TextIO) -> None:
        """Write to *stream*."""
        self._stream = stream
        self._labels: dict[str, tuple[str, int | None]] = {}
        self._lock = threading.Lock()

    def start(self, key: str, label: str, total: int | None = None) -> None:
        with self._lock:
            self._labels[key] = (label, total)

    def finish(self, key: str, note: str = "") -> None:
        with self._lock:
            label, total = self._labels.pop(key, ("", None))
            size = "" if total is None else f" {human_size(total)}"
            print(f"{label}:{size} {note or 'done'}", file=self._stream)

    def warn(self, message: str) -> None:
        with self._lock:
            print(f"winlayers: warning: {message}", file=self._stream)


def make_progress(stream: TextIO, *, quiet: bool) -> Progress:
    """The progress for *stream*."""
    return QUIET if quiet else LineProgress(stream)
