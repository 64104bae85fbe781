"""``report``: an image as a page to look at."""

from __future__ import annotations

import click

from winlayers.cli.commands.looking import Looker, looks
from winlayers.cli.context import complete_trees, examples
from winlayers.cli.output import write_stream


@click.command(
    epilog=examples(
        "winlayers report app:2.0 -o app.html",
        "winlayers report docker://registry.example/team/app:2.0 -o app.html",
    )
)
@click.argument("image", shell_complete=complete_trees)
@click.option("-o", "--output", default="-", metavar="FILE|-", help="[default: standard output]")
@looks
def report(looker: Looker, image: str, output: str) -> None:
    """Write a page that shows where IMAGE's bytes are: by directory, by layer, and what is wasted.

    The page needs nothing but a browser: no network, no other file.
    """
    from winlayers.inspection.report import image_report

    write_report(image_report(looker.tree(image)), output)


def write_report(text: str, output: str) -> None:
    """Write a page to a file, which appears only when it is whole, or to standard output."""
    import io

    write_stream(io.BytesIO(text.encode("utf-8")).read, output)
