"""A layer blob on its way in: one pass that checks both digests while it decompresses.

One thread reads the blob, hashes it, copies it to wherever it is kept, and inflates; one hashes the plain
tar; the caller reads the tar.  Queues between them are short, so memory stays bounded whatever the blob
unpacks to.  The end of the stream is reported only after the whole blob has been read and both digests and
the blob's size were right: a consumer that has seen it has seen the layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from winlayers.errors import DigestMismatchError, ImageError
from winlayers.images.channel import Channel
from winlayers.images.compression import Interruptible, Reader, decompress
from winlayers.images.digest import hasher_for
from winlayers.images.documents import Descriptor

_DEPTH = 4
_DRAIN = 1 << 20


class CheckedReader:
    """Reads a blob, never further than its size, and checks size and digest at the end."""

    def __init__(self, source: Reader, descriptor: Descriptor, tee: Callable[[bytes], object] | None) -> None:
        """Read *source*, which should be the blob of *descriptor*; *tee* gets every piece as it passes."""
        self._source = source
        self._descriptor = descriptor
        self._tee = tee
        self._hasher = hasher_for(descriptor.digest)
        self._count = 0

    def read(self, n: int, /) -> bytes:
        """Up to *n* bytes.

        Raises:
            DigestMismatchError: the blob is longer than its descriptor says.
        """
        data = self._source.read(n)
        if data:
            self._count += len(data)
            if self._count > self._descriptor.size:
                raise DigestMismatchError(
                    f"blob {self._descriptor.digest} is longer than its {self._descriptor.size} bytes"
                )
            self._hasher.update(data)
            if self._tee is not None:
                self._tee(data)
        return data

    def finish(self) -> None:
        """Read what is left and check.

        Raises:
            DigestMismatchError: the size or digest is wrong.
        """
        while self.read(_DRAIN):
            pass
        wanted = self._descriptor
        if self._count != wanted.size:
            raise DigestMismatchError(
                f"blob {wanted.digest} is truncated: {self._count} of {wanted.size} bytes are there"
            )
        actual = f"{wanted.digest.partition(':')[0]}:{self._hasher.hexdigest()}"
        if actual != wanted.digest:
            raise DigestMismatchError(f"blob {wanted.digest} has other content: its digest is {actual}")


class LayerStream:
    """The uncompressed tar of a layer blob, checked; what graph drivers take as a diff.

    Attributes:
        size: the tar's bytes; final once the end was read.
    """

    def __init__(
        self,
        source: Reader,
        descriptor: Descriptor,
        diff_id: str | None,
        *,
        tee: Callable[[bytes], object] | None = None,
        inflate: Callable[[Reader], Iterable[bytes]] = decompress,
    ) -> None:
        """Begin to read.

        Args:
            source: gives the blob's bytes; closed by the caller after :meth:`close`.
            descriptor: what the blob should be.
            diff_id: the digest that the tar should have; None: it is only computed.
            tee: gets every piece of the blob, in the reading thread.
            inflate: gives the plain data of a blob, in the reading thread.
        """
        self._decompress = inflate
        self.size = 0
        self._descriptor = descriptor
        self._wanted = diff_id
        self._hasher = hashlib.sha256() if diff_id is None else hasher_for(diff_id)
        self._plain = Channel(_DEPTH)
        self._checked = Channel(_DEPTH)
        self._rest = memoryview(b"")
        self._ended = False
        self._source = source
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="winlayers-blob")
        reader = CheckedReader(source, descriptor, tee)
        inflating = self._pool.submit(self._inflate, reader)
        self._workers: list[Future[None]] = [inflating, self._pool.submit(self._hash, inflating)]

    @property
    def diff_id(self) -> str:
        """The tar's digest; final once the end was read."""
        algorithm = "sha256" if self._wanted is None else self._wanted.partition(":")[0]
        return f"{algorithm}:{self._hasher.hexdigest()}"

    def read(self, n: int = -1, /) -> bytes:
        """Up to *n* bytes of the tar, b"" at the end; all that is left for a negative *n*.

        Raises:
            DigestMismatchError: the blob or the tar is not what it should be.
            ImageError: the compressed data is malformed.
        """
        if n < 0:
            return b"".join(iter(lambda: self.read(_DRAIN), b""))
        if n == 0:
            return b""
        if not self._rest:
            chunk = None if self._ended else self._checked.get()
            if chunk is None:
                self._end()
                return b""
            if len(chunk) <= n:
                return chunk
            self._rest = memoryview(chunk)
        piece, self._rest = bytes(self._rest[:n]), self._rest[n:]
        return piece

    def drain(self) -> None:
        """Read to the end for the checks alone."""
        while self.read(_DRAIN):
            pass

    def close(self) -> None:
        """Stop the threads, also one that waits for the source; harmless when called twice."""
        self._plain.cancel()
        self._checked.cancel()
        if not self._workers[0].done() and isinstance(self._source, Interruptible):
            self._source.give_up()
        self._pool.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        """Let the workers' errors out, the reading one's first: the other's follow from it."""
        for worker in self._workers:
            worker.result()
        self._ended = True

    def _inflate(self, reader: CheckedReader) -> None:
        try:
            try:
                for chunk in self._decompress(reader):
                    if not self._plain.put(chunk):
                        return
            except ImageError as error:
                # A damaged blob fails in the decompressor first; its digest tells the reader more.
                if not isinstance(error, DigestMismatchError):
                    reader.finish()
                    error.layer = error.layer or self._descriptor.digest
                raise
            reader.finish()
        finally:
            self._plain.finish()

    def _hash(self, inflating: Future[None]) -> None:
        try:
            while (chunk := self._plain.get()) is not None:
                self._hasher.update(chunk)
                self.size += len(chunk)
                if not self._checked.put(chunk):
                    return
            # The end of the plain data is no end if reading failed: that error comes first.
            inflating.result()
            if self._wanted is not None and self.diff_id != self._wanted:
                raise DigestMismatchError(
                    f"the layer in blob {self._descriptor.digest} has the diff id {self.diff_id},"
                    f" but the image's configuration says {self._wanted}"
                )
        finally:
            self._checked.finish()


def copy_checked(source: Reader, descriptor: Descriptor, sink: Callable[[bytes], object]) -> None:
    """Copy a blob to *sink*, checking size and digest.

    Raises:
        DigestMismatchError: it is not the blob of *descriptor*; what *sink* got is to be thrown away.
    """
    CheckedReader(source, descriptor, sink).finish()
