"""Reading blobs: a stream that goes on where a broken connection left it."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable

from urllib3.exceptions import HTTPError

from winlayers.errors import RegistryError
from winlayers.images.registry.connection import Response, reason_of

_log = logging.getLogger("winlayers.registry")
_DISCARD = 1 << 18

OpenAt = Callable[[int], Response]
"""Opens the blob at an offset: a response with status 206, or 200 for the whole blob."""


class BlobReader(io.RawIOBase):
    """A blob's bytes, as a raw binary file; what comes is checked by whoever reads."""

    def __init__(
        self, what: str, size: int, open_at: OpenAt, retries: int, give_up: Callable[[], object]
    ) -> None:
        """Begin to read.

        Args:
            what: names the blob in errors.
            size: how long it should be.
            open_at: opens it.
            retries: how often in a row a broken connection is made anew without progress.
            give_up: ends what other threads are waiting for; *open_at* then fails.
        """
        self._what = what
        self._size = size
        self._open_at = open_at
        self._retries = retries
        self.give_up = give_up
        self._position = 0
        self._failures = 0
        self._response: Response | None = open_at(0)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to *size* bytes; all that is left for a negative *size*.

        Raises:
            RegistryError: the connection broke too often.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(_DISCARD), b""))
        while True:
            try:
                if self._response is None:
                    self._response = self._reopen()
                data = self._response.read(size, decode_content=False)
            except (HTTPError, OSError) as error:
                self._broken(reason_of(error))
                continue
            if data or size == 0:
                self._position += len(data)
                self._failures = 0
                return data
            if self._position < self._size:
                self._broken(f"it ended after {self._position} of {self._size} bytes")
                continue
            return b""

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # what BufferedReader passes
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _broken(self, reason: str) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
        self._failures += 1
        if self._failures > self._retries:
            raise RegistryError(f"{self._what}: the connection broke {self._failures} times: {reason}")
        _log.debug("%s: %s; going on at %d", self._what, reason, self._position)
        time.sleep(min(0.1 * 2**self._failures, 5.0))

    def _reopen(self) -> Response:
        response = self._open_at(self._position)
        if response.status == 200 and self._position:
            left = self._position
            while left:
                data = response.read(min(left, _DISCARD), decode_content=False)
                if not data:
                    raise HTTPError("the server gives less than before")
                left -= len(data)
        return response

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
        super().close()
