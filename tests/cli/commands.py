"""Every command of the command line, and the examples in its help."""

import re
from collections.abc import Iterator
from typing import Any

import typer.main
from typer.testing import CliRunner

from titans_seq.cli import app

LONG = {
    "demo",
    *(f"bench {name}" for name in ("memory", "long", "recall", "needles", "ablation")),
}  # have tests of their own


def commands(group: Any = None, at: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Return each command by its words."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*at, name))
        else:
            yield " ".join((*at, name)), command


COMMANDS = dict(commands())


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def examples(name: str) -> list[str]:
    """What stands behind ``Example:`` in the help of a command, as it is printed, on one line."""
    told = CliRunner().invoke(app, [*name.split(), "--help"]).stdout
    found = re.findall(r"Example: titans-seq ([^\n]*(?:\n +[^\n]+)*?)\n\n", told)
    return [re.sub(r"\s+", " ", text) for text in found]
