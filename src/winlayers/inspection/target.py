r"""How the command line writes a path in an image: ``IMAGE:PATH``.

Images' names hold colons, too (tags, transports, ports), so the rule is: **the path begins at the first
``:/`` or ``:\``, or at the first colon before a drive letter with a colon**.  What stands before it is the
image, whatever its form:

==========================================  ==============================  ====================
``app:2.0:/Windows/win.ini``                ``app:2.0``                     ``/Windows/win.ini``
``app:2.0:C:\Windows``                      ``app:2.0``                     ``C:\Windows``
``app``                                     ``app``                         (none: the root)
``oci:/srv/layout:3.13:/Windows``           ``oci:/srv/layout:3.13``        ``/Windows``
``docker://host:5000/team/app:2:/Users``    ``docker://host:5000/team/app:2``  ``/Users``
``C:\layouts\app:3.13:\Windows``            ``C:\layouts\app:3.13``         ``\Windows``
==========================================  ==============================  ====================

The slashes of ``docker://`` and of an absolute path behind a transport's colon, and the colon of a drive
letter at the beginning of a host's path, don't count.  Letter case never matters inside the image, slashes
and backslashes are one, and ``C:`` is the only drive.  A colon further on names a stream:
``app:/Users/notes.txt:Zone.Identifier``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from winlayers.errors import InvalidNameError
from winlayers.images.transports.names import TRANSPORTS

_TRANSPORT = re.compile(rf"(?:{'|'.join(TRANSPORTS)}|image|container|layer):(?://)?")
_HOST_DRIVE = re.compile(r"[A-Za-z]:\\")
_PATH = re.compile(r":(?=[\\/]|[A-Za-z]:(?:[\\/]|$))")
_DRIVE = re.compile(r"([A-Za-z]):(.*)", re.DOTALL)


class Target(NamedTuple):
    """An image (or container or layer) as it was written, and a path in it; None: no path was given."""

    image: str
    path: str | None


def parse_target(text: str) -> Target:
    """Split ``IMAGE[:PATH]``; see the module."""
    start = 0
    if match := _TRANSPORT.match(text):
        start = match.end()
    if match := _HOST_DRIVE.match(text, start):
        start = match.end()
    found = _PATH.search(text, start)
    if found is None:
        return Target(text, None)
    return Target(text[: found.start()], text[found.end() :])


def split_inner(path: str) -> tuple[list[str], str]:
    r"""The components of a path inside an image and the stream's name after it ("" for the data itself).

    ``..`` goes up, never above the root, as ``cd`` does.

    Raises:
        InvalidNameError: it is on another drive than C:, or a colon stands where none can.
    """
    if (match := _DRIVE.fullmatch(path)) is not None and match[2][:1] in ("", "/", "\\"):
        if match[1].upper() != "C":
            raise InvalidNameError("images have no other drive than C:", path=path)
        path = match[2]
    parts: list[str] = []
    for part in re.split(r"[\\/]", path):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    stream = ""
    if parts and ":" in parts[-1]:
        name, _, stream = parts[-1].partition(":")
        if stream.upper().endswith(":$DATA"):
            stream = stream[: -len(":$DATA")]
        if not name or ":" in stream:
            raise InvalidNameError("a colon can only introduce a stream of a file", path=path)
        parts[-1] = name
    if any(":" in part for part in parts):
        raise InvalidNameError("a colon can only introduce a stream of a file", path=path)
    return parts, stream
