"""A layer's tar taken in by a child process, so that what a hostile tar does to the parser stays there.

The child is this module run by the same interpreter: the tar comes on its standard input, the flavour, the
layer's folder and its parents' as arguments.  Standard output carries the size alone; standard error, in its
last line, the error as ``CLASS: MESSAGE`` with the class of :mod:`winlayers.errors` to raise, or, after a
success, warnings (source: dockerd's re-exec ``docker-windows-write-layer``).

The temporary folder is the parent's, so that it goes even if the child is ended.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, BinaryIO

from winlayers import errors as public_errors
from winlayers.errors import HcsError, LayerError, WinlayersError
from winlayers.layers.native import errors as native_errors
from winlayers.layers.native import ffi, temporary
from winlayers.layers.native.basewriter import BaseLayerWriter
from winlayers.layers.native.privileges import WRITE, privileges
from winlayers.layers.native.tarimport import write_from_tar
from winlayers.layers.native.writer import DeltaLayerWriter
from winlayers.layers.service import Flavour, LayerWriter, TarStream

_log = logging.getLogger("winlayers.layers")

_CHUNK = 1 << 20
_MAX_OUTPUT = 1 << 16
_CREATE_NO_WINDOW = 0x08000000


def can_run() -> bool:
    """Whether there is an interpreter to run a child with (a frozen program has none)."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


@dataclasses.dataclass(frozen=True, slots=True)
class ImportTarget:
    """What a tar is imported into.

    Attributes:
        flavour: the driver's flavour.
        path: the layer's folder, which must be there.
        chain: the parents' folders, nearest first; none: a base layer.
        complete_hives: make an empty hive for each that a base layer does not have.
    """

    flavour: Flavour
    path: str
    chain: tuple[str, ...]
    complete_hives: bool = True

    def open_writer(self, *, folder: str | None = None) -> LayerWriter:
        """The writer that fills it, through the temporary *folder* if that is needed."""
        if self.chain:
            return DeltaLayerWriter(self.flavour, self.path, self.chain, folder=folder)
        return BaseLayerWriter(self.path, complete_hives=self.complete_hives)


def import_inline(target: ImportTarget, source: BinaryIO | TarStream, *, folder: str | None = None) -> int:
    """Take the tar in within this process, through the temporary *folder*; return the layer's size."""
    ffi.vmcompute()  # a host without it shouldn't find out only once all is written
    with privileges(*WRITE):
        writer = target.open_writer(folder=folder)
        try:
            write_from_tar(source, writer)
        except BaseException:
            writer.abort()
            raise
        return writer.commit()


def import_in_child(target: ImportTarget, source: BinaryIO | TarStream) -> int:
    """Take the tar in within a child process; return the layer's size.

    Raises:
        WinlayersError: what the child raised, as the same class.
    """
    folder = temporary.make_folder() if target.chain else ""
    try:
        return _run_child(target, source, folder)
    except BaseException:
        if folder:
            temporary.remove_folder(folder)
        raise


def _run_child(target: ImportTarget, source: BinaryIO | TarStream, folder: str) -> int:
    numbers = f"{int(target.flavour)}{int(target.complete_hives)}"
    command = [sys.executable, "-m", __name__, numbers, folder, target.path, *target.chain]
    flags = _CREATE_NO_WINDOW if sys.platform == "win32" else 0
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # nothing held back that a closing pipe could fail on
        creationflags=flags,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        output, messages = _Drain(child.stdout), _Drain(child.stderr)
        try:
            _feed(source, child.stdin)
        except BaseException:
            # Its input must not look complete: the child is ended before its end comes.
            child.kill()
            raise
        code = child.wait()
        size = child_result(target.path, code, output.text(), messages.text())
        for line in messages.text().splitlines():
            _log.warning("%s", line)
        return size


def _feed(source: BinaryIO | TarStream, sink: IO[bytes]) -> None:
    while data := source.read(_CHUNK):
        _write(sink, data)
    try:
        sink.close()
    except OSError:
        pass  # the child has gone; its error says why


def _write(sink: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[sink.write(view) :]
    except OSError:
        pass  # the child has gone; the source is read on, since it may be hashed on the way


class _Drain:
    """Reads a pipe in a thread, so that neither side waits for the other; keeps the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._data = b""
        self._thread = threading.Thread(target=self._run, name="winlayers-child", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while data := self._stream.read(_MAX_OUTPUT):
            self._data = (self._data + data)[-_MAX_OUTPUT:]

    def text(self) -> str:
        self._thread.join()
        return self._data.decode("utf-8", "replace")


def child_result(path: str, code: int, output: str, messages: str) -> int:
    """What a child's exit code and outputs say: the size, or the error that it ended with.

    Raises:
        WinlayersError: as the class that the last line of *messages* names, else a `LayerError` about *path*.
    """
    if code == 0 and output.isdecimal():
        return int(output)
    lines = messages.strip().splitlines() or [f"no message, exit code {code}"]
    name, _, message = lines[-1].partition(": ")
    cls = getattr(public_errors, name, None) or getattr(native_errors, name, None)
    if isinstance(cls, type) and issubclass(cls, WinlayersError):
        error: WinlayersError = cls(message)
        if isinstance(error, HcsError):
            error.code = _code_in(message)
        raise error
    raise LayerError(f"the importing process failed: {lines[-1]}", layer=path)


def _code_in(message: str) -> int:
    """The number in ``... (error N)``, which HcsErrors end their text with; 0: there is none."""
    _, _, rest = message.rpartition("error ")
    digits = rest.partition(")")[0].partition(" ")[0].rstrip(":,")
    try:
        return int(digits, 0)
    except ValueError:
        return 0


def main(arguments: Sequence[str]) -> int:
    """The child.

    Args:
        arguments: two digits (flavour, complete hives), the temporary folder ("" for a base layer), the
            layer's folder, its parents' folders.
    """
    numbers, folder, path, *chain = arguments
    target = ImportTarget(Flavour(int(numbers[0])), path, tuple(chain), numbers[1] == "1")
    try:
        size = import_inline(target, sys.stdin.buffer, folder=folder or None)
    except WinlayersError as error:
        _report(f"{type(error).__name__}: {error}")
        return 1
    except OSError as error:
        _report(f"LayerError: {error}")
        return 1
    sys.stdout.write(str(size))
    sys.stdout.flush()
    return 0


def _report(text: str) -> None:
    sys.stderr.buffer.write(" ".join(text.splitlines()).encode("utf-8", "backslashreplace") + b"\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
