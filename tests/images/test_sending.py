"""Sending blobs: several at once where the target can take them, and an end to all where one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.images.support import sample_layout
from winlayers.errors import ImageError
from winlayers.images.compression import Reader
from winlayers.images.documents import Descriptor
from winlayers.images.exporter import copy_image
from winlayers.images.transports.base import ImageTarget
from winlayers.images.transports.names import open_source

_WAIT = 30


class Target(ImageTarget):
    """Takes blobs, and does with each what a test says."""

    name = "a target"

    def __init__(self, parallel: int | None, act: Callable[[Callable[[int], object]], None]) -> None:
        self.parallel = parallel
        self.act = act
        self.sent: list[str] = []
        self.published: list[str] = []

    def has_blob(self, descriptor: Descriptor) -> bool:
        return False

    def put_blob(
        self, descriptor: Descriptor, open_source: Callable[[], Reader], count: Callable[[int], object]
    ) -> None:
        self.act(count)
        self.sent.append(descriptor.digest)

    def put_document(self, descriptor: Descriptor, raw: bytes) -> None:
        raise AssertionError("this is no index")

    def publish(self, descriptor: Descriptor, raw: bytes) -> None:
        self.published.append(descriptor.digest)


def send(tmp_path: Path, target: Target) -> str:
    """Send the sample image; return its digest."""
    with open_source(sample_layout(tmp_path / "layout")) as source:
        return copy_image(source, source.offers()[0], target).digest


def test_several_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def act(count: Callable[[int], object]) -> None:
        together.wait(_WAIT)

    target = Target(4, act)
    assert send(tmp_path, target) == target.published[0]
    assert len(set(target.sent)) == 4  # three layers and the configuration


@pytest.mark.parametrize("parallel", [1, None], ids=["the target's way", "the source's way"])
def test_one_after_another(tmp_path: Path, parallel: int | None) -> None:
    busy = threading.Lock()

    def act(count: Callable[[int], object]) -> None:
        assert busy.acquire(blocking=False)
        count(1)
        busy.release()

    target = Target(parallel, act)
    assert send(tmp_path, target) == target.published[0]


def test_one_that_fails_stops_the_others(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    first = threading.Lock()

    def act(count: Callable[[int], object]) -> None:
        fails = first.acquire(blocking=False)
        both.wait(_WAIT)
        if fails:
            raise ImageError("this one is broken")
        for _ in range(100 * _WAIT):  # the other goes on until it is told
            count(1)
            threading.Event().wait(0.01)

    target = Target(2, act)
    with pytest.raises(ImageError, match="this one is broken"):
        send(tmp_path, target)
    assert target.sent == target.published == []
