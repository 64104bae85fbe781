"""Taking tars apart and putting them together, with contents kept in memory."""

from __future__ import annotations

import dataclasses
import io

from winlayers.tar.tarsplit import Disassembly, Entry, EntryWriter, disassemble, reassemble
from winlayers.tar.tarsplit.disassembler import Disassembler


class Files:
    """A payload sink that keeps what it gets, and the getter that gives it back."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.opened: list[str] = []
        self.closed = 0
        self._name = ""
        self._parts: list[bytes] = []

    def begin(self, name: str, size: int, /) -> None:
        assert size > 0
        self._name, self._parts = name, []

    def write(self, data: memoryview, /) -> None:
        self._parts.append(bytes(data))

    def hole(self, size: int, /) -> None:
        self._parts.append(bytes(size))

    def end(self) -> None:
        self.contents[self._name] = b"".join(self._parts)

    def get(self, name: str) -> io.BytesIO:
        """The content of the member *name*."""
        self.opened.append(name)
        files = self

        class Content(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    files.closed += 1
                super().close()

        return Content(self.contents[name])


@dataclasses.dataclass
class Taken:
    """A tar taken apart."""

    lines: bytes
    files: Files
    passed: bytes
    error: Exception | None

    def rebuild(self) -> bytes:
        """The tar put together again."""
        out = io.BytesIO()
        length = reassemble(io.BytesIO(self.lines), self.files.get, out)
        assert length == len(out.getvalue())
        return out.getvalue()


def take_apart(stream: bytes) -> Taken:
    """Take *stream* apart, up to the error if there is one."""
    sink = io.BytesIO()
    files = Files()
    passed = bytearray()
    caught: Exception | None = None
    try:
        for chunk in disassemble(io.BytesIO(stream), EntryWriter(sink, compress=False).add, files):
            passed += chunk
    except ValueError as error:  # all of the package's format errors are ValueErrors
        caught = error
    return Taken(sink.getvalue(), files, bytes(passed), caught)


def entries_of(stream: bytes, chunk_size: int = 1 << 20) -> tuple[list[Entry], Disassembly]:
    """The entries of *stream*, pushed in pieces."""
    entries: list[Entry] = []
    machine = Disassembler(entries.append)
    for start in range(0, len(stream), chunk_size):
        machine.feed(stream[start : start + chunk_size])
    return entries, machine.finish()
