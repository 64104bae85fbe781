"""``config``."""

from __future__ import annotations

from typing import Any

import click

from winlayers.cli.commands.edits import tag_option, tell
from winlayers.cli.context import Settings, complete_images, examples, json_option, pass_settings


@click.command(
    epilog=examples(
        r"""winlayers config app:1 -t app:2 --entrypoint '["C:\\app\\app.exe"]' --cmd '["--serve"]'""",
        "winlayers config app:1 -t app:2 --cmd 'app.exe --serve & echo done'",
        "winlayers config app:1 -t app:2 --env MODE=production --unset-env DEBUG --user ContainerUser",
        "winlayers config app:1 -t app:2 --label org.opencontainers.image.version=2 --expose 8080",
        "winlayers config app:1 -t app:2 --os-version 10.0.20348.2402",
    )
)
@click.argument("image", shell_complete=complete_images)
@tag_option
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set an environment variable.")
@click.option("--unset-env", multiple=True, metavar="NAME", help="Remove a variable.")
@click.option("--cmd", metavar="COMMAND", help="The default command: a JSON list, or a line for the shell.")
@click.option("--entrypoint", metavar="COMMAND", help="The entry point, likewise; removes the old command.")
@click.option("--shell", metavar="JSON", help="What runs command lines, as a JSON list.")
@click.option("-u", "--user", help="Who runs the command.")
@click.option("-w", "--workdir", metavar="FOLDER", help="Where it runs.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Set a label.")
@click.option("--unset-label", "unset_labels", multiple=True, metavar="KEY", help="Remove a label.")
@click.option(
    "--args-escaped/--no-args-escaped",
    default=None,
    help="Whether the first argument is a whole command line.  [default: as the commands are given]",
)
@click.option(
    "--expose", "--exposed-port", "exposed_ports", multiple=True, metavar="PORT", help="Expose a port."
)
@click.option("--unexpose", "unexposed_ports", multiple=True, metavar="PORT", help="Expose it no longer.")
@click.option("--volume", "volumes", multiple=True, metavar="FOLDER", help="Declare a volume.")
@click.option("--unset-volume", "unset_volumes", multiple=True, metavar="FOLDER", help="Undeclare it.")
@click.option("--stop-signal", metavar="SIGNAL", help="What stops containers.")
@click.option("--os-version", metavar="VERSION", help="The version of Windows that the image is for.")
@click.option("-a", "--author", help="Who made the image.")
@click.option("-m", "--message", default="", help="A comment for the image's history.")
@json_option
@pass_settings
def config(
    settings: Settings,
    /,
    image: str,
    reference: str | None,
    message: str,
    as_json: bool,
    **changes: Any,
) -> None:
    """Make an image like IMAGE with another configuration.  Prints its reference and digest.

    An empty value removes a setting.  What is not named stays, also what winlayers does not know.
    """
    from winlayers.images.editing import ConfigChanges

    chosen = ConfigChanges(**changes)
    if not chosen:
        raise click.UsageError("there is nothing to change; see --help")
    made = settings.store.configure(image, chosen, reference, message=message)
    tell(settings, made, reference, as_json)
