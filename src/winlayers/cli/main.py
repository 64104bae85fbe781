"""The program ``winlayers``: global options, the table of commands, and how errors end it.

Exit codes: 0 success; 1 an error, with one line on standard error; 2 wrong usage; 130 interrupted;
141 the reader of the output has gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from winlayers._version import __version__
from winlayers.cli.context import Settings
from winlayers.cli.lazy import Entry, LazyGroup
from winlayers.errors import WinlayersError

_COMMANDS = "winlayers.cli.commands"
_IMAGES, _CONTAINERS, _LAYERS, _LOOKING = "Images", "Containers", "Layers", "Looking in"

COMMANDS = {
    "load": Entry(f"{_COMMANDS}.transfer:load", _IMAGES, "Bring an image into the store."),
    "save": Entry(f"{_COMMANDS}.transfer:save", _IMAGES, "Write an image out, every blob as it came."),
    "pull": Entry(f"{_COMMANDS}.transfer:pull", _IMAGES, "Bring an image from a registry into the store."),
    "push": Entry(f"{_COMMANDS}.transfer:push", _IMAGES, "Send an image to a registry."),
    "copy": Entry(
        f"{_COMMANDS}.transfer:copy", _IMAGES, "Copy an image between two places, without a store."
    ),
    "images": Entry(f"{_COMMANDS}.images:images", _IMAGES, "List images."),
    "tag": Entry(f"{_COMMANDS}.images:tag", _IMAGES, "Give an image another name."),
    "rmi": Entry(f"{_COMMANDS}.images:rmi", _IMAGES, "Remove images."),
    "df": Entry(f"{_COMMANDS}.disk:df", _IMAGES, "Show the room that the store takes."),
    "prune": Entry(f"{_COMMANDS}.disk:prune", _IMAGES, "Remove what nothing needs."),
    "append": Entry(f"{_COMMANDS}.append:append", _IMAGES, "Put folders and tars onto an image as layers."),
    "config": Entry(f"{_COMMANDS}.config:config", _IMAGES, "Change what an image says of itself."),
    "squash": Entry(f"{_COMMANDS}.squash:squash", _IMAGES, "Make one layer of an image's upper ones."),
    "rebase": Entry(f"{_COMMANDS}.rebase:rebase", _IMAGES, "Put an image's own layers on another base."),
    "create": Entry(f"{_COMMANDS}.containers:create", _CONTAINERS, "Make a container of an image."),
    "ps": Entry(f"{_COMMANDS}.containers:ps", _CONTAINERS, "List containers."),
    "mount": Entry(f"{_COMMANDS}.containers:mount", _CONTAINERS, "Mount a container's drive C:, writable."),
    "umount": Entry(f"{_COMMANDS}.containers:umount", _CONTAINERS, "Unmount containers."),
    "changes": Entry(f"{_COMMANDS}.containers:changes", _CONTAINERS, "List what a container changes."),
    "commit": Entry(f"{_COMMANDS}.containers:commit", _CONTAINERS, "Make an image of a container."),
    "rm": Entry(f"{_COMMANDS}.containers:rm", _CONTAINERS, "Remove containers."),
    "layers": Entry(f"{_COMMANDS}.layers:layers", _LAYERS, "List an image's layers, base first."),
    "info": Entry(f"{_COMMANDS}.info:info", _LAYERS, "Tell about the store and how it mounts."),
    "completion": Entry(f"{_COMMANDS}.completion:completion", _LAYERS, "Print a completion script."),
    "check": Entry(f"{_COMMANDS}.check:check", _LAYERS, "Look for damage in the store, and mend it."),
    "layer": Entry(f"{_COMMANDS}.layers:layer", _LAYERS, "Work on single layers."),
    "ls": Entry(f"{_COMMANDS}.ls:ls", _LOOKING, "List what is in an image, without mounting it."),
    "cat": Entry(f"{_COMMANDS}.cat:cat", _LOOKING, "Print files of an image."),
    "cp": Entry(f"{_COMMANDS}.cp:cp", _LOOKING, "Copy files and directories out of an image."),
    "stat": Entry(f"{_COMMANDS}.stat:stat", _LOOKING, "Show all that is known of a path in an image."),
    "find": Entry(f"{_COMMANDS}.find:find", _LOOKING, "Search an image for files."),
    "history": Entry(f"{_COMMANDS}.history:history", _LOOKING, "Show how an image was made."),
    "inspect": Entry(
        f"{_COMMANDS}.inspect:inspect", _LOOKING, "Print an image's or container's facts as JSON."
    ),
    "diff": Entry(f"{_COMMANDS}.diff:diff", _LOOKING, "Show what differs between images or containers."),
    "report": Entry(f"{_COMMANDS}.report:report", _LOOKING, "Show an image as a page: sizes, layers, waste."),
}

_LOGIN = "credentials are those of docker, podman, skopeo and crane auth login, or given with --creds"
_RUN = "winlayers runs nothing; mount shows a container's drive C:"
ELSEWHERE = {
    "login": _LOGIN,
    "logout": _LOGIN,
    "run": _RUN,
    "start": _RUN,
    "exec": _RUN,
    "build": "append puts files onto an image, commit makes an image of a container",
    "import": "load brings images in, append puts files onto one",
    "export": "layer export writes a layer or a container's changes, cp NAME:/ - all that can be seen",
    "manifest": "inspect --raw prints manifests",
    "containers": "ps lists containers",
}
"""What docker, skopeo, crane and their like have, and what does it here."""

_TELLING = frozenset({"images", "ps", "inspect", "history", "info", "df", "layers"})
_FORMATS = frozenset({"--format", "-f", "--filter"})
"""docker's ways to choose from what the commands of *_TELLING* print."""


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    elsewhere=ELSEWHERE,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command has a --help with examples.",
)
@click.option(
    "--root",
    envvar="WINLAYERS_ROOT",
    type=click.Path(file_okay=False),
    help="The store's folder.  [default: /var/lib/winlayers as root, else a folder of the user]",
)
@click.option(
    "--storage-opt",
    "driver_options",
    envvar="WINLAYERS_STORAGE_OPT",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the graph driver, such as mount=extract or size=20GB.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress; listings print ids alone.")
@click.option("--debug", is_flag=True, help="A log, and tracebacks of errors.")
@click.version_option(__version__, prog_name="winlayers")
@click.pass_context
def cli(
    context: click.Context, root: str | None, driver_options: tuple[str, ...], quiet: bool, debug: bool
) -> None:
    """Build, look into, repair and ship Windows container layers, on any system, without loss."""
    context.obj = Settings(root, driver_options, quiet, debug)
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.  ``--debug`` lets errors through."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's stand-in may not have it
            stream.reconfigure(errors="backslashreplace")
    completing = "_WINLAYERS_COMPLETE" in os.environ
    if completing:
        from winlayers.cli.completion import register

        register()
    try:
        # Outside its standalone mode click returns the code of ``Context.exit`` instead of raising it.
        code = cli.main(given, prog_name="winlayers", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:
        if completing:
            raise
        # Outside its standalone mode click ends a program of itself for one thing alone: EPIPE.
        _silence_stdout()
        return 141
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        _explained(error).show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except WinlayersError as error:
        if debug:
            raise
        _complain(str(error))
        return 1
    except OSError as error:
        if debug:
            raise
        name = f"{error.filename}: " if error.filename is not None else ""
        _complain(f"{name}{error.strerror or error}")
        _silence_stdout()
        return 1
    return code if isinstance(code, int) else 0


def _explained(error: click.ClickException) -> click.ClickException:
    """*error*, or one that says what is done here instead of docker's templates and filters."""
    if not isinstance(error, click.NoSuchOption) or error.option_name not in _FORMATS or error.ctx is None:
        return error
    command = error.ctx.info_name
    if command not in _TELLING:
        return error
    how = "what it prints is JSON, so" if command == "inspect" else "print JSON with --json;"
    return click.UsageError(f"No such option {error.option_name!r}: {how} jq can pick from it.", error.ctx)


def _complain(message: str) -> None:
    from winlayers.cli.output import printable

    click.echo(f"winlayers: {printable(' '.join(message.split()))}", err=True)


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere: the reader has gone, or the disk is full."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


def _open_missing_streams() -> None:
    """Give standard streams that were closed a place, or the next file to be opened would be one of them.

    They are opened the wrong way round, so that using them fails; but what is told of errors is lost.
    """
    for name, flags, mode in (
        ("stdin", os.O_WRONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


def main() -> NoReturn:
    """The console script."""
    _open_missing_streams()
    sys.exit(run())
