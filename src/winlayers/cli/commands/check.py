"""``check``."""

from __future__ import annotations

import click

from winlayers.cli.context import Settings, examples, json_option, pass_settings
from winlayers.cli.output import echo, emit_json


@click.command(
    epilog=examples("winlayers check", "winlayers check --repair", "winlayers check --quick --json")
)
@click.option("--repair", is_flag=True, help="Mend what can be mended without guessing.")
@click.option("--quick", is_flag=True, help="Compare sizes, not digests.")
@json_option
@click.pass_context
@pass_settings
def check(settings: Settings, context: click.Context, repair: bool, quick: bool, as_json: bool) -> None:
    """Look for damage in the store.

    Blobs and layers are compared with their digests, chains and references followed, indexes and views
    examined, mounts that are gone and work left half done found.  Exit code 1 says that something is wrong
    still.
    """
    findings = []
    for finding in settings.store.check(repair=repair, deep=not quick):
        findings.append(finding)
        if not as_json and not settings.quiet:
            echo(str(finding))
    left = [finding for finding in findings if not finding.mended]
    if as_json:
        emit_json(
            [
                {
                    "subject": str(finding).partition(": ")[0],
                    "problem": finding.problem,
                    "action": finding.action or None,
                    "mended": finding.mended,
                }
                for finding in findings
            ]
        )
    elif not settings.quiet:
        mended = len(findings) - len(left)
        echo(f"{len(findings)} found, {mended} mended" if findings else "nothing wrong")
    if left:
        context.exit(1)
