"""``titans-seq forecast``: time series."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from titans_seq.cli.command import (
    BatchSize,
    Config,
    Device,
    DryRun,
    Model,
    Overwrite,
    Resume,
    Run,
    Seed,
    Settings,
    Start,
    StateIn,
    StateOut,
    Threads,
    absolute,
    backbone_of,
    command,
    sets_length,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Table = Annotated[str, typer.Argument(help="CSV, TSV or Parquet, wide (date, a, b) or long (unique_id, ds, y).")]
Format = Annotated[
    Literal["wide", "long"] | None, typer.Option("--format", help="Layout, when it should not be guessed.")
]
Time = Annotated[str | None, typer.Option(help="Column of the timestamps.")]
Id = Annotated[str | None, typer.Option("--id", help="Column of the series' ids, in a long table.")]
TimeFormat = Annotated[str | None, typer.Option(help="Form of the timestamps, such as %d.%m.%Y.")]
OnDuplicate = Annotated[
    Literal["error", "mean", "first", "last"] | None, typer.Option(help="What two values at one time become.")
]
OnGap = Annotated[Literal["nan", "error"] | None, typer.Option(help="What missing timestamps become.")]
Target = Annotated[
    list[str] | None, typer.Option(help="Column to forecast; may be repeated. All columns if not given.")
]
Out = Annotated[Path, typer.Option(help="File to write: .csv .tsv .jsonl .parquet")]
Quantiles = Annotated[str | None, typer.Option(help="Quantiles to write, such as 0.1,0.5,0.9; all if not given.")]


def _reading(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


@command(app)
def audit(
    table: Table,
    out: Annotated[Path | None, typer.Option(help="Write the audit as JSON.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 3 if there is a problem.")] = False,
    format: Format = None,
    time: Time = None,
    id: Id = None,
    target: Target = None,
    time_format: TimeFormat = None,
    overwrite: Overwrite = False,
) -> Any:
    """Say what is in a table of series: frequency, gaps, duplicates, missing values, odd values.

    Example: titans-seq forecast audit sensors.csv
    """
    from titans_seq.cli.top import check_new, finish_audit
    from titans_seq.data.audit import audit_series
    from titans_seq.resources import data_file

    check_new(out, overwrite)
    reading = _reading(format=format, time=time, id=id, target=target, time_format=time_format)
    return finish_audit(audit_series(data_file(table), **reading), out, strict)


@command(app)
def train(
    table: Table,
    horizon: Annotated[int, typer.Option(min=1, help="Rows to forecast.")],
    out: Run,
    lookback: Annotated[int | None, typer.Option(min=1, help="Rows read before them.")] = None,
    start: Start = None,
    config: Config = None,
    target: Target = None,
    format: Format = None,
    time: Time = None,
    id: Id = None,
    time_format: TimeFormat = None,
    on_duplicate: OnDuplicate = None,
    on_gap: OnGap = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Train a forecaster on the first rows of each series; later ones choose the best weights.

    Example: titans-seq forecast train sensors.csv --horizon 24 --out runs/sensors
    """
    from titans_seq.recipe import build
    from titans_seq.run import train as run_train

    reading = _reading(
        format=format,
        time=time,
        id=id,
        target=target,
        time_format=time_format,
        on_duplicate=on_duplicate,
        on_gap=on_gap,
    )
    content = {
        "data": {"kind": "series", "path": absolute(table), **reading},
        "task": {"kind": "forecasting", "horizon": horizon, **_reading(lookback=lookback)},
        "training": {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "patience": 5,
            **({} if sets_length(settings) else {"epochs": 10}),
        },
        "seed": seed,
        "threads": threads,
        **backbone_of(start, config, "series_tiny"),
    }
    recipe = build(content, settings or [], "the command line")
    return run_train(recipe, out, resume=resume, overwrite=overwrite, device=device, dry_run=dry_run)


@command(app)
def predict(
    model: Model,
    table: Table,
    out: Out,
    quantiles: Quantiles = None,
    state_in: StateIn = None,
    state_out: StateOut = None,
    format: Format = None,
    time: Time = None,
    id: Id = None,
    time_format: TimeFormat = None,
    on_duplicate: OnDuplicate = None,
    on_gap: OnGap = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Forecast what follows the last row of each series.

    A model that was trained with --set task.reads=stream goes on from the state that an earlier command left, so
    that a table of new rows is enough.

    Example: titans-seq forecast predict runs/sensors sensors.csv --out forecast.csv --quantiles 0.1,0.5,0.9
    """
    from titans_seq.forecast import predict as run_predict

    reading = _reading(
        format=format, time=time, id=id, time_format=time_format, on_duplicate=on_duplicate, on_gap=on_gap
    )
    return run_predict(
        model,
        table,
        out,
        quantiles=quantiles,
        state_in=state_in,
        state_out=state_out,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        device=device,
        threads=threads,
        seed=seed,
        batch_size=batch_size,
        **reading,
    )


@command(app)
def backtest(
    model: Model,
    table: Table,
    windows: Annotated[int, typer.Option(min=1, help="Forecast origins, the last one a horizon before the end.")],
    out: Out,
    step: Annotated[
        int | None, typer.Option(min=1, help="Rows from one origin to the next; the horizon if not given.")
    ] = None,
    quantiles: Quantiles = None,
    format: Format = None,
    time: Time = None,
    id: Id = None,
    time_format: TimeFormat = None,
    on_duplicate: OnDuplicate = None,
    on_gap: OnGap = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Forecast the past from several origins and print errors beside seasonal naive.

    Example: titans-seq forecast backtest runs/sensors sensors.csv --windows 30 --out backtest.parquet
    """
    from titans_seq.forecast import backtest as run_backtest

    reading = _reading(
        format=format, time=time, id=id, time_format=time_format, on_duplicate=on_duplicate, on_gap=on_gap
    )
    return run_backtest(
        model,
        table,
        out,
        quantiles=quantiles,
        windows=windows,
        step=step,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        device=device,
        threads=threads,
        seed=seed,
        batch_size=batch_size,
        **reading,
    )
