"""``diff``: what differs between two images, layers or containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from winlayers.cli.commands.looking import WITH_H, Looker, human_option, looks, size_text
from winlayers.cli.context import complete_trees, examples, json_option
from winlayers.cli.output import echo, emit_json, printable

if TYPE_CHECKING:
    from winlayers.inspection.diff import Difference


@click.command(
    context_settings=WITH_H,
    epilog=examples(
        "winlayers diff app:1.0 app:2.0",
        "winlayers diff --security app:1.0 app:2.0",
        "winlayers diff --html changes.html oci:./old:1.0 docker://registry.example/team/app:2.0",
        "winlayers diff --exit-code --ignore times app:2.0 web",
    ),
)
@click.argument("before", metavar="A", shell_complete=complete_trees)
@click.argument("after", metavar="B", shell_complete=complete_trees)
@click.option("--all", "everything", is_flag=True, help="Also what is in added and deleted directories.")
@click.option("--security", is_flag=True, help="Show changed security descriptors, entry by entry.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="ASPECT",
    help="Don't count: data, streams, attributes, times, security, reparse, eas, name. May be repeated.",
)
@click.option("--no-data", is_flag=True, help="Take files of equal size and write time to be equal.")
@click.option("--drive", "drive_only", is_flag=True, help="Compare drive C: alone, no Hives and UtilityVM.")
@click.option("--html", metavar="FILE", help="Write a report to look at; - is standard output.")
@click.option("--exit-code", is_flag=True, help="End with code 1 if there are differences.")
@human_option
@json_option
@looks
def diff(
    looker: Looker,
    before: str,
    after: str,
    everything: bool,
    security: bool,
    ignore: tuple[str, ...],
    no_data: bool,
    drive_only: bool,
    html: str | None,
    exit_code: bool,
    human: bool,
    as_json: bool,
) -> None:
    """Show what differs in B from A: images, containers, layers (with all below them), in any place.

    A added, D deleted, C changed, with what has changed: data, streams, attributes, times (creation, write),
    security, reparse points, EAs, letter case. Files that come from the same layer are not read.
    """
    from winlayers.inspection.diff import ASPECTS, collapse, diff_trees

    unknown = sorted(set(ignore) - set(ASPECTS))
    if unknown:
        raise click.UsageError(f"no aspect {unknown[0]!r}; there are {', '.join(ASPECTS)}")
    old, new = looker.tree(before), looker.tree(after)
    found = diff_trees(old, new, layer_root=not drive_only, data=not no_data, ignore=ignore)
    if html is not None:
        from winlayers.cli.commands.report import write_report
        from winlayers.inspection.report import diff_report

        write_report(diff_report(old, new, found), html)
    elif as_json:
        emit_json([_facts(difference) for difference in found])
    else:
        shown = ((d, 1, d.size_after or d.size_before) for d in found) if everything else collapse(found)
        for difference, count, size in shown:
            echo(_line(difference, count, size, human))
            if security and "security" in difference.aspects:
                _show_security(difference)
    if exit_code and found:
        raise click.exceptions.Exit(1)


def _line(difference: Difference, count: int, size: int, human: bool) -> str:
    from winlayers.layers.service import ChangeKind

    path = printable(difference.entry.shown)
    if difference.kind is ChangeKind.MODIFY:
        note = ", ".join(difference.aspects)
        if difference.size_before != difference.size_after:
            note += (
                f", {size_text(difference.size_before, human)} to {size_text(difference.size_after, human)}"
            )
    elif count > 1:
        note = f"{count} entries, {size_text(size, human)}"
    elif difference.entry.inode.is_directory:
        note = ""
    else:
        note = size_text(size, human)
    return f"{difference.kind.value} {path}" + (f"  ({note})" if note else "")


def _show_security(difference: Difference) -> None:
    from winlayers.inspection.accessdiff import compare_access

    old = difference.before.metadata.security if difference.before is not None else None
    new = difference.after.metadata.security if difference.after is not None else None
    for line in compare_access(old, new):
        if line.sign != " ":
            echo(f"    {line.sign} {printable(line.sddl)}  {line.words}")


def _facts(difference: Difference) -> dict[str, object]:
    from winlayers.inspection.facts import sddl_text

    facts: dict[str, object] = {
        "path": difference.entry.shown,
        "kind": difference.kind.value,
        "aspects": list(difference.aspects),
        "directory": difference.entry.inode.is_directory,
        "size_before": None if difference.before is None else difference.size_before,
        "size_after": None if difference.after is None else difference.size_after,
    }
    if "security" in difference.aspects and difference.before is not None and difference.after is not None:
        facts["security_before"] = sddl_text(difference.before.metadata.security)
        facts["security_after"] = sddl_text(difference.after.metadata.security)
    return facts
