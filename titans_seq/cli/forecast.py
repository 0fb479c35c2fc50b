"""``titans-seq forecast``: time series."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from titans_seq.cli.command import (
    Config,
    Model,
    Overwrite,
    Run,
    Start,
    StateIn,
    StateOut,
    absolute,
    backbone_of,
    command,
    sets_length,
)
from titans_seq.cli.options import Sharing, Training, Writing

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Table = Annotated[
    str, typer.Argument(help="CSV, TSV, Parquet or .tsf: wide (date, a, b), long (unique_id, ds, y) or a series a row.")
]
Out = Annotated[Path, typer.Option(help="File to write: .csv .tsv .jsonl .parquet")]
Horizon = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="Rows to forecast, if not as many as in training.")
]
Quantiles = Annotated[str | None, typer.Option(help="Quantiles to write, such as 0.1,0.5,0.9; all if not given.")]


def _frequency(text: str | None) -> str | None:
    """Refuse what is no frequency before any work is done."""
    if text is None or text == "auto":
        return text
    from titans_seq.data.times import frequency_named

    try:
        return frequency_named(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True)
class Reading:
    """How a table is read: what every command takes, and what a model says of the tables that it is used on."""

    format: Annotated[
        Literal["wide", "long", "tsf", "ragged"] | None,
        typer.Option("--format", help="Layout, when it should not be guessed; ragged is a series a row."),
    ] = None
    time: Annotated[str | None, typer.Option(help="Column of the timestamps, or of their parts: year,month,day.")] = (
        None
    )
    id: Annotated[str | None, typer.Option("--id", help="Column of the series' ids, in a long table.")] = None
    time_format: Annotated[str | None, typer.Option(help="Form of the timestamps, such as %d.%m.%Y.")] = None
    freq: Annotated[
        str | None,
        typer.Option(callback=_frequency, help="Step of the timestamps: auto, 15min, h, D, W, MS ..."),
    ] = None
    missing: Annotated[
        list[str] | None, typer.Option(help="Mark of a missing value, such as -9999; may be repeated.")
    ] = None
    on_duplicate: Annotated[
        Literal["error", "mean", "first", "last"] | None, typer.Option(help="What two values at one time become.")
    ] = None
    on_gap: Annotated[
        Literal["nan", "ffill", "interpolate", "keep", "error"] | None,
        typer.Option(
            help="What missing timestamps become; interpolate looks ahead to a gap's end, and backtest and anomalies "
            "refuse it; keep reads rows as they come, for irregular series."
        ),
    ] = None

    @property
    def said(self) -> dict[str, Any]:
        """What was asked for."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Targeting(Reading):
    """With what is forecast, which a model for any table asks for too."""

    target: Annotated[
        list[str] | None, typer.Option(help="Column to forecast; may be repeated. All columns if not given.")
    ] = None


@dataclass(frozen=True)
class Roles(Targeting):
    """With what each other column is."""

    known_future: Annotated[
        list[str] | None, typer.Option(help="Covariate of which future values are known; may be repeated.")
    ] = None
    past_only: Annotated[list[str] | None, typer.Option(help="Covariate known up to now; may be repeated.")] = None
    static: Annotated[
        list[str] | None, typer.Option(help="Covariate that does not change within a series; may be repeated.")
    ] = None


@command(app)
def audit(
    table: Table,
    out: Annotated[Path | None, typer.Option(help="Write the audit as JSON.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 3 if there is a problem or a note.")] = False,
    overwrite: Overwrite = False,
    *,
    reading: Roles,
) -> Any:
    """Say what is in a table of series: frequency, gaps, duplicates, missing values, odd values.

    Problems are what training would refuse, notes what it would warn of. Series stand the worst first.

    Example: titans-seq forecast audit sensors.csv --out audit.json
    """
    from titans_seq.cli.top import check_new, finish_audit
    from titans_seq.data.audit import audit_series
    from titans_seq.resources import data_file

    check_new(out, overwrite)
    found = audit_series(data_file(table), **reading.said)
    return finish_audit(found, out, strict and not found.spotless)


def _form_of(start: str | None) -> dict[str, Any]:
    """How the forecaster that is started from reads and tells; nothing of another model."""
    if not start or start == "none":
        return {}
    from titans_seq.checkpoint import load_config

    _, _, task = load_config(start)
    known = task.model_dump(mode="json")
    form = ("reads", "lookback", "memory_lookback", "patch", "stride", "mixing", "normalisation", "pool", "shortcut")
    return {name: known[name] for name in (*form, "dropout", "output")} if task.kind == "forecasting" else {}


@command(app)
def train(
    table: Table,
    horizon: Annotated[int, typer.Option(min=1, help="Rows to forecast.")],
    out: Run,
    lookback: Annotated[int | None, typer.Option(min=1, help="Rows read before them.")] = None,
    memory_lookback: Annotated[
        int | None, typer.Option(min=0, help="Rows before the look-back that the memory reads first.")
    ] = None,
    start: Start = None,
    config: Config = None,
    conformal: Annotated[
        str | None, typer.Option(help="Intervals to calibrate on the validation rows, in per cent, such as 80,95.")
    ] = None,
    *,
    reading: Roles,
    training: Training,
) -> Any:
    """Train a forecaster on the first rows of each series; later ones choose the best weights.

    With --backbone it starts from a trained one and reads as that does; horizon, channels and frequency may differ.
    --set training.freeze=true then trains the forecast layer alone, --set task.zero_shot=true makes a model that
    forecasts any table, --set task.mixing=attention lets channels, which are read apart, attend to each other.
    synthetic:SEED/COUNT/LENGTH for the table is a panel of series drawn by chance.

    Example: titans-seq forecast train sensors.csv --horizon 24 --out runs/sensors
    """
    from titans_seq.recipe import build
    from titans_seq.run import train as run_train

    levels = [part.strip() for part in conformal.split(",")] if conformal else None
    given = {"lookback": lookback, "memory_lookback": memory_lookback, "conformal": levels}
    content = {
        "data": {"kind": "series", "path": absolute(table), **reading.said},
        "task": {
            "kind": "forecasting",
            **_form_of(start),
            "horizon": horizon,
            **{name: value for name, value in given.items() if value is not None},
        },
        "training": {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "patience": 5,
            **({} if sets_length(training.settings) else {"epochs": 10}),
        },
        "seed": training.seed,
        "threads": training.threads,
        **backbone_of(start, config, "series_tiny"),
    }
    recipe = build(content, training.settings or [], "the command line")
    return run_train(recipe, out, **training.of_run)


@command(app)
def predict(
    model: Model,
    table: Table,
    out: Out,
    future: Annotated[
        str | None, typer.Option(help="Table of covariates known beforehand, of the rows to be forecast.")
    ] = None,
    horizon: Horizon = None,
    quantiles: Quantiles = None,
    state_in: StateIn = None,
    state_out: StateOut = None,
    *,
    reading: Targeting,
    writing: Sharing,
) -> Any:
    """Forecast what follows the last row of each series.

    Fewer rows than in training are the first of its forecast; more are rolled, each block after the medians of those
    before it, and their quantiles leave out how uncertain these are.

    A model that was trained with --set task.reads=stream goes on from the state that an earlier command left, so
    that a table of new rows is enough.

    Example: titans-seq forecast predict runs/sensors sensors.csv --out forecast.csv --quantiles 0.1,0.5,0.9
    """
    from titans_seq.forecast import predict as run_predict

    return run_predict(
        model,
        table,
        out,
        future=future,
        horizon=horizon,
        quantiles=quantiles,
        state_in=state_in,
        state_out=state_out,
        **vars(writing),
        **reading.said,
    )


@command(app)
def backtest(
    model: Model,
    table: Table,
    windows: Annotated[int, typer.Option(min=1, help="Forecast origins, the last one a horizon before the end.")],
    out: Out,
    horizon: Horizon = None,
    step: Annotated[
        int | None, typer.Option(min=1, help="Rows from one origin to the next; the horizon if not given.")
    ] = None,
    refit: Annotated[
        str, typer.Option(help="Train anew on the rows before an origin: never, or every so many origins.")
    ] = "never",
    metrics: Annotated[
        Path | None, typer.Option(help="JSON of what was measured; --out with the suffix .json if not given.")
    ] = None,
    quantiles: Quantiles = None,
    *,
    reading: Targeting,
    writing: Writing,
) -> Any:
    """Forecast the past from several origins and print errors beside seasonal naive and a Theta model.

    Example: titans-seq forecast backtest runs/sensors sensors.csv --windows 30 --out backtest.parquet
    """
    from titans_seq.backtest import backtest as run_backtest
    from titans_seq.errors import UsageError
    from titans_seq.report.scores import backtest_table

    if refit != "never" and not (refit.isdecimal() and int(refit)):
        raise UsageError(f"--refit {refit}: give never, or a number of origins.")
    found = run_backtest(
        model,
        table,
        out,
        quantiles=quantiles,
        windows=windows,
        horizon=horizon,
        step=step,
        refit=None if refit == "never" else int(refit),
        metrics=metrics,
        **vars(writing),
        **reading.said,
    )
    return found if "model" not in found else (backtest_table(found), found, 0)


@command(app)
def anomalies(
    model: Model,
    table: Table,
    out: Out,
    rate: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="Share of ordinary rows that may be flagged: false alarms a row.")
    ] = 0.001,
    calibration: Annotated[
        float, typer.Option(min=0, help="Rows at the head of each series that set the thresholds, below 1 their share.")
    ] = 0.15,
    *,
    reading: Targeting,
    writing: Writing,
) -> Any:
    """Flag rows that lie far from their forecast or surprise the memory, and draw them.

    Example: titans-seq forecast anomalies runs/sensors sensors.csv --out flags.csv
    """
    from titans_seq.anomalies import anomalies as run_anomalies

    return run_anomalies(
        model,
        table,
        out,
        rate=rate,
        calibration=calibration,
        **vars(writing),
        **reading.said,
    )
