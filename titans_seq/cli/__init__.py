"""The command line: parse, call, report. Nothing heavy is imported before a command runs."""

from typing import Annotated

import typer

from titans_seq import __version__
from titans_seq.cli import bench, forecast, genomics, models, top

app = typer.Typer(
    name="titans-seq",
    help="Titans and MIRAS long-memory models for genomes and time series: from a raw FASTA or CSV to predictions.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"titans-seq {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


top.register(app)
app.add_typer(genomics.app, name="genomics", help="Sequences: FASTA and labelled tables.")
app.add_typer(forecast.app, name="forecast", help="Time series: wide and long tables.")
app.add_typer(models.app, name="models", help="Backbones, configs and checkpoints.")
app.add_typer(bench.app, name="bench", help="Speed and memory on this machine.")


def main() -> None:
    """Entry point of the command ``titans-seq``."""
    app()
