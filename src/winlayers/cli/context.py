"""What all commands share: the global options, the store, and progress."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from winlayers.errors import WinlayersError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

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


def _be_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Settings).quiet = True


quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_be_quiet,
    help="No progress, and an id or digest alone.",
)


def warn(message: str) -> None:
    """One line on standard error."""
    from winlayers.cli.output import printable

    sys.stdout.flush()
    click.echo(f"winlayers: {printable(' '.join(message.split()))}", err=True)


class Attempts:
    """A command with several arguments: if it fails with one, the others are still served."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._failed = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Tell of an error and go on with the next argument; the command then ends with code 1."""
        try:
            yield
        except WinlayersError as error:
            if self.settings.debug:
                raise
            warn(str(error))
            self._failed = True

    def finish(self) -> None:
        """End with code 1 if something failed."""
        if self._failed:
            raise click.exceptions.Exit(1)


def complete_images(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The references in the store that begin with what was typed."""
    from winlayers.cli.completion import images, proposals

    return proposals(context, incomplete, images)


def complete_containers(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The containers' names that begin with what was typed."""
    from winlayers.cli.completion import containers, proposals

    return proposals(context, incomplete, containers)


def complete_layers(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The ids of layers, and containers' names, that begin with what was typed."""
    from winlayers.cli.completion import containers, layers, proposals

    return proposals(context, incomplete, layers, containers)


def complete_trees(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """What can be looked into: references and containers that begin with what was typed, else places."""
    from winlayers.cli.completion import containers, images, places, proposals

    return proposals(context, incomplete, images, containers) or (places(incomplete) if incomplete else [])


def complete_places(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Where images come from and go to."""
    from winlayers.cli.completion import places

    return places(incomplete)


def examples(*lines: str) -> str:
    """The ``epilog`` of a command's help: examples, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
