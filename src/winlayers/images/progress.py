"""How long operations tell what they are doing.

An operation calls these from any thread.  The default does nothing; the command line draws bars.
"""

from __future__ import annotations


class Progress:
    """Receives progress; subclasses override what they show."""

    def start(self, key: str, label: str, total: int | None = None) -> None:
        """A piece of work begins.

        Args:
            key: names the work in the other calls.
            label: what is being done, for people (``layer 2/3``).
            total: bytes that will be advanced over, if known.
        """

    def advance(self, key: str, count: int) -> None:
        """*count* more bytes of the work are done."""

    def finish(self, key: str, note: str = "") -> None:
        """The work is done; *note* says what came of it (``exists already``)."""

    def warn(self, message: str) -> None:
        """Something that a person should know, without being an error."""


QUIET = Progress()
"""Shows nothing."""
