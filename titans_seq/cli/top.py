"""Commands of no field: ``demo``, ``run``, ``report``, ``doctor``; and what audits of both fields share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from titans_seq.cli.command import Device, DryRun, Overwrite, Resume, Settings, Threads, command
from titans_seq.cli.options import Devices


def check_new(out: Path | None, overwrite: bool) -> None:
    """Refuse an output that exists before any work is done."""
    if out is not None:
        from titans_seq.files import must_be_new

        must_be_new(out, overwrite=overwrite)


def write_json(found: dict[str, Any], out: Path | None) -> None:
    """Write a result as a JSON file, if one is asked for."""
    if out is not None:
        from titans_seq.files import to_json, write_text

        write_text(out, to_json(found))


def finish_audit(audit: Any, out: Path | None, refused: bool) -> Any:
    """Write and report an audit, which ends with code 3 if it is ``refused``."""
    write_json(audit.as_json(), out)
    return audit.text(), audit.as_json(), 3 if refused else 0


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""

    @command(app)
    def demo(
        out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("titans-seq-demo"),
        device: Device = "auto",
        threads: Threads = None,
        overwrite: Overwrite = False,
    ) -> Any:
        """Do both main jobs on the shipped real samples, in about five minutes on two cores.

        Example: titans-seq demo --out demo-run
        """
        from titans_seq.demo import demo as run_demo

        return *run_demo(out, device=device, threads=threads, overwrite=overwrite), 0

    @command(app)
    def run(
        recipe: Annotated[Path, typer.Argument(help="Recipe file, a run's recipe.yaml, or a name of `models list`.")],
        out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME if not given.")] = None,
        settings: Settings = None,
        seed: Annotated[int | None, typer.Option(min=0, help="Seed, where not the recipe's.")] = None,
        device: Device = "auto",
        threads: Annotated[int | None, typer.Option(min=1, help="CPU threads, where not the recipe's.")] = None,
        dry_run: DryRun = False,
        overwrite: Overwrite = False,
        resume: Resume = False,
        *,
        devices: Devices,
    ) -> Any:
        """Carry out a recipe; that of a run folder repeats the run exactly.

        Example: titans-seq run runs/genome/recipe.yaml --out runs/again
        """
        from titans_seq.recipe import load_recipe
        from titans_seq.run import train

        given = [f"{key}={value}" for key, value in (("seed", seed), ("threads", threads)) if value is not None]
        name = recipe.resolve().parent.name if recipe.name == "recipe.yaml" else recipe.stem
        target = out or Path("runs") / name
        return train(
            load_recipe(recipe, [*(settings or []), *given]),
            target,
            resume=resume,
            overwrite=overwrite,
            device=device,
            dry_run=dry_run,
            **devices.of_run,
        )

    @command(app)
    def gather(
        out: Annotated[Path, typer.Argument(help="File to make, as the jobs were given it.")],
        shards: Annotated[
            list[Path], typer.Argument(metavar="SHARD...", help="What they wrote: OUT.1-of-n to OUT.n-of-n.")
        ],
        overwrite: Overwrite = False,
    ) -> Any:
        """Make one file of the shards that jobs with --shard wrote: the bytes of one job without it.

        Example: titans-seq gather predictions.tsv predictions.tsv.1-of-2 predictions.tsv.2-of-2
        """
        from titans_seq.gather import gather as run_gather

        return run_gather(out, shards, overwrite=overwrite)

    @command(app)
    def report(
        run: Annotated[Path, typer.Argument(help="Run folder, or one of several seeds.")],
        out: Annotated[Path | None, typer.Option(help="The page; report.html in RUN if not given.")] = None,
        audit: Annotated[
            list[Path] | None,
            typer.Option(metavar="FILE", help="Show this audit too, beside RUN/audit*.json; may be repeated."),
        ] = None,
        overwrite: Overwrite = False,
    ) -> Any:
        """Write a page of a run: data, curves, what evaluate or backtest measured, audits, how to repeat it.

        Example: titans-seq report runs/promoters --audit audit.json --out promoters.html
        """
        from titans_seq.errors import UsageError
        from titans_seq.report import write_report

        if out is not None and out.suffix not in (".html", ".htm"):
            raise UsageError(f"{out} should end in .html.")
        check_new(out, overwrite)
        return write_report(run, out, audit or ())

    @command(app)
    def doctor() -> Any:
        """Say what this machine offers and whether the installation is whole.

        Example: titans-seq doctor --json
        """
        from titans_seq.doctor import examine

        return examine()
