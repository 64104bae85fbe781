"""What all commands share: the global options, the store, and progress."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from winlayers.images.progress import Progress
    from winlayers.store import Store


@dataclasses.dataclass
class Settings:
    """The global options.

    Attributes:
        root: the store's folder; None: the default one.
        driver_options: options of the graph driver.
        quiet: print less.
        debug: print tracebacks and a log.
    """

    root: str | None = None
    driver_options: tuple[str, ...] = ()
    quiet: bool = False
    debug: bool = False

    @functools.cached_property
    def store(self) -> Store:
        """The store, opened when first needed."""
        from winlayers.store import open_store

        return open_store(self.root, driver_options=self.driver_options)

    def progress(self) -> Progress:
        """Where progress goes: bars on a terminal, lines elsewhere, nowhere if quiet."""
        from winlayers.cli.progress import make_progress

        return make_progress(sys.stderr, quiet=self.quiet)


pass_settings = click.make_pass_decorator(Settings, ensure=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def examples(*lines: str) -> str:
    """The ``epilog`` of a command's help: examples, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
