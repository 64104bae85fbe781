"""``completion``: scripts that shells load."""

from __future__ import annotations

import click

from winlayers.cli.completion import SHELLS, script
from winlayers.cli.context import examples
from winlayers.cli.output import echo


@click.command(
    epilog=examples(
        'eval "$(winlayers completion bash)"                    # in ~/.bashrc',
        'eval "$(winlayers completion zsh)"                     # in ~/.zshrc',
        "winlayers completion fish > ~/.config/fish/completions/winlayers.fish",
        "winlayers completion powershell | Out-String | Invoke-Expression",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, images and containers in SHELL."""
    echo(script(context.find_root().command, shell))
