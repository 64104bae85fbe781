"""What every place that images come from, and go to, must do."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import BinaryIO, Self

from winlayers.images.compression import Reader
from winlayers.images.documents import Descriptor
from winlayers.images.reference import Reference


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """One image that a source has.

    Attributes:
        descriptor: its manifest's or index's.
        references: the names that the source gives it, complete.
        label: what the user writes to choose it (a tag), or "".
    """

    descriptor: Descriptor
    references: tuple[Reference, ...]
    label: str = ""


class ImageSource(abc.ABC):
    """Where images come from.  A context manager."""

    name: str
    """What it is called in messages."""

    @abc.abstractmethod
    def offers(self) -> Sequence[Offer]:
        """The images that the transport's name chose.

        Raises:
            ImageNotFoundError: what was named is not there.
            ImageError: this is not such a place.
        """

    @abc.abstractmethod
    def read_document(self, descriptor: Descriptor, what: str) -> bytes:
        """A manifest's, index's or configuration's bytes, checked against *descriptor*."""

    @abc.abstractmethod
    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """A blob to be read from its start; unchecked; the caller closes it."""

    def read_range(self, descriptor: Descriptor, offset: int, size: int) -> bytes | None:
        """Some bytes of a blob, unchecked; None: this source has no other way than to open the blob.

        A source whose opened blobs can be sought in need not have one.
        """
        return None

    @property
    def parallel(self) -> int:
        """How many blobs may usefully be read at once."""
        return 1

    def give_up(self) -> None:  # noqa: B027 - a hook, empty by default
        """End what other threads are waiting for here, with an error: nothing more is wanted."""

    def close(self) -> None:  # noqa: B027 - a hook, empty by default
        """Release what is held; harmless when called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ImageTarget(abc.ABC):
    """Where images go.  A context manager; :meth:`publish` is the last call for an image."""

    name: str
    """What it is called in messages."""

    parallel: int | None = 1
    """How many blobs may usefully be sent at once; None: as many as can usefully be read at once."""

    takes_indexes: bool = True
    """Whether a whole index can be stored here, and not single images alone."""

    wants_foreign: bool = True
    """Whether layers that may not be distributed are stored here like others (a registry says no)."""

    def expect(self, descriptor: Descriptor) -> None:  # noqa: B027 - a hook, empty by default
        """Hear what is going to be published, before anything is sent.

        Raises:
            DigestMismatchError: the target's name says that it should be something else.
        """

    @abc.abstractmethod
    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there already (or can be had there without sending it)."""

    @abc.abstractmethod
    def put_blob(
        self, descriptor: Descriptor, open_source: Callable[[], Reader], count: Callable[[int], object]
    ) -> None:
        """Send a blob.

        Args:
            descriptor: names it; what is sent is checked against it.
            open_source: opens the blob from its start, again where sending must begin anew.
            count: is told of bytes as they pass.
        """

    @abc.abstractmethod
    def put_document(self, descriptor: Descriptor, raw: bytes) -> None:
        """Store a manifest or index that an index names; what it names itself is there already.

        Raises:
            ImageError: this place does not take indexes.
        """

    @abc.abstractmethod
    def publish(self, descriptor: Descriptor, raw: bytes) -> None:
        """Store the manifest and let the target's name mean it."""

    def give_up(self) -> None:  # noqa: B027 - a hook, empty by default
        """End what other threads are waiting for here, with an error: nothing more is sent."""

    def close(self) -> None:  # noqa: B027 - a hook, empty by default
        """Finish; harmless when called twice."""

    def abort(self) -> None:  # noqa: B027 - a hook, empty by default
        """Undo what can be undone after a failure."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
