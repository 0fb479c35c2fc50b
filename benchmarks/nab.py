"""Two machines of the Numenta Anomaly Benchmark: are the labelled windows hit, and how many alarms are false?

For each series a small streaming forecaster is trained on the first 15 % of its rows, NAB's probationary period, which
also sets the thresholds; no label is used. Alarms are flags less than a day apart, taken together; one is right if it
touches a labelled window. Beside it, by the same thresholds: the change from the row before.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import arguments, keep, train

from titans_seq.anomalies import anomalies, tail_threshold

FILES = ("machine_temperature_system_failure", "ambient_temperature_system_failure")
PROBATION = 0.15
RATES = (0.0002, 0.001, 0.005)
SCORES = ("residual", "surprise")
DAY = np.timedelta64(1, "D")
TASK: dict[str, Any] = {"kind": "forecasting", "horizon": 16, "reads": "stream", "patch": 16}
BACKBONE = {"width": 32, "depth": 2, "heads": 2, "block": {"kind": "lmm", "persistent": 0}, "memory": {"chunk_size": 4}}
TRAINING = {"steps": 200, "batch_size": 32, "learning_rate": 2e-3, "validate_every": 50}


def alarms(times: np.ndarray, flags: np.ndarray) -> list[tuple[np.datetime64, np.datetime64]]:
    """First and last time of flags that are less than a day apart."""
    flagged = times[flags]
    if not len(flagged):
        return []
    parts = np.split(flagged, np.flatnonzero(np.diff(flagged) >= DAY) + 1)
    return [(part[0], part[-1]) for part in parts]


def judged(times: np.ndarray, flags: np.ndarray, windows: np.ndarray) -> dict[str, Any]:
    """Windows (n, 2) hit, and right and false alarms, of flags behind the probationary rows."""
    found = alarms(times, flags)
    touch = np.array([[a <= w[1] and b >= w[0] for w in windows] for a, b in found]).reshape(len(found), len(windows))
    right = int(touch.any(1).sum())
    return {
        "windows": len(windows),
        "hit": int(touch.any(0).sum()),
        "recall": float(touch.any(0).mean()),
        "alarms": len(found),
        "false_alarms": len(found) - right,
        "precision": right / len(found) if found else None,
        "flagged_rows": int(flags.sum()),
    }


def flagged(score: str, scores: np.ndarray, first: int, rate: float) -> np.ndarray:
    """Rows behind the ``first`` ones whose score passes the threshold that those set."""
    head = scores[: first : TASK["patch"] if score == "surprise" else 1]  # a token's rows share its surprise
    return (scores > tail_threshold(head[np.isfinite(head)], rate)) & (np.arange(len(scores)) >= first)


def measured(name: str, data: Path, work: Path, threads: int) -> dict[str, Any]:
    """Train, score and judge one series."""
    table = str(data / "timeseries" / "irregular" / f"{name}.csv.gz")
    labels = json.loads((data / "timeseries" / "irregular" / "combined_windows.json").read_text())
    windows = np.array(next(v for k, v in labels.items() if name in k), "datetime64[us]")
    source = {"kind": "series", "path": table, "on_duplicate": "first", "test": 1 - PROBATION, "validation": 0.03}
    recipe = {"data": source, "task": TASK, "backbone": BACKBONE, "training": TRAINING, "threads": threads}
    run = train(recipe, work / f"nab-{name}")
    found: dict[str, Any] = {"seconds_of_training": run["seconds"], "validation_mae": run["validation"]["mae"]}
    out = work / f"nab-{name}.parquet"
    anomalies(run["run"], table, out, calibration=PROBATION, resume=True, threads=threads)
    rows = pl.read_parquet(out)
    times, first = rows["ds"].to_numpy().astype("datetime64[us]"), round(PROBATION * len(rows))
    scores = {score: rows[score].cast(float).to_numpy() for score in SCORES}
    scores["change from the row before"] = np.abs(np.diff(rows["y"].cast(float).to_numpy(), prepend=np.nan))
    for rate in RATES:
        flags = {score: flagged(score, values, first, rate) for score, values in scores.items()}
        flags["residual or surprise"] = np.any([flagged(s, scores[s], first, rate / 2) for s in SCORES], 0)
        found[f"rate {rate:g}"] = {what: judged(times, of, windows) for what, of in flags.items()}
    return found


def main() -> None:
    """Measure both series, keep."""
    options = arguments(__doc__ or "")
    protocol = "trained and calibrated on the first 15 % of rows, judged on the others; alarms are flags within a day"
    found = {name: measured(name, options.data, options.work, options.threads) for name in FILES}
    keep("nab", {"protocol": protocol, "rates": RATES, **found}, options.threads)


if __name__ == "__main__":
    main()
