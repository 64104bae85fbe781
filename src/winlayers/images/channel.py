"""A bounded queue from one thread to another that either side can end at once."""

from __future__ import annotations

import threading
from collections import deque


class Channel:
    """Carries byte chunks; the writer waits while it is full, the reader while it is empty."""

    def __init__(self, capacity: int) -> None:
        """Make a channel that holds up to *capacity* chunks."""
        self._capacity = capacity
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._cancelled = False

    def put(self, chunk: bytes) -> bool:
        """Add a chunk; False once the reader has gone."""
        with self._changed:
            while len(self._chunks) >= self._capacity and not self._cancelled:
                self._changed.wait()
            if self._cancelled:
                return False
            self._chunks.append(chunk)
            self._changed.notify_all()
            return True

    def get(self) -> bytes | None:
        """The next chunk; None at the end."""
        with self._changed:
            while not self._chunks and not self._finished and not self._cancelled:
                self._changed.wait()
            if not self._chunks or self._cancelled:
                return None
            chunk = self._chunks.popleft()
            self._changed.notify_all()
            return chunk

    def finish(self) -> None:
        """The writer's last word: no more chunks come."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """The reader's last word: nothing more is wanted."""
        with self._changed:
            self._cancelled = True
            self._chunks.clear()
            self._changed.notify_all()
