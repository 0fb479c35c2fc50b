"""What `evaluate` and several seeds found, as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

# of which less is better; also of one column, such as mse_x, and bits, also of a part, such as bits_per_nt_repeat
LESS = ("log_loss", "weighted_log_loss", "mse", "mae", "scaled_mse", "poisson_loss", "perplexity")
_OF_PART = ("items", "intervals", "lead", "bootstrap", "leak_free", "chromosomes", "details")


def score_table(found: Mapping[str, Any]) -> str:
    """The result of `titans_seq.evaluation.evaluate` as a table a part: a line a score, a column a model."""
    parts = [_part(found, f"{found['items']:,} items")]
    if "leak_free" in found:
        clean = found["leak_free"]
        parts.append(_part(clean, f"without leaks: {clean['items']:,} of {found['items']:,} items"))
    if "chromosomes" in found:
        parts.append(_chromosomes(found["chromosomes"]))
    if "bootstrap" in found:
        how = found["bootstrap"]
        parts.append(
            f"In brackets: {how['level']:.0%} of {how['resamples']:,} bootstrap resamples (seed {how['seed']})."
        )
    return "\n\n".join(parts)


def _part(found: Mapping[str, Any], title: str) -> str:
    return "\n".join([*_aligned(score_rows(found, title)), *lead_lines(found)])


def score_rows(found: Mapping[str, Any], title: str) -> list[list[str]]:
    """Scores of a part as cells: a head with ``title`` and the models, and a row a score with its intervals."""
    models = [name for name in found if name not in _OF_PART]
    scores = list(dict.fromkeys(score for name in models for score in found[name]))
    rows = [[title, *map(_words, models)]]
    for score in scores:
        rows.append([_words(score), *(_cell(found, name, score) for name in models)])
    return rows


def lead_lines(found: Mapping[str, Any]) -> list[str]:
    """For each baseline, in words, where the model differs from it by more than chance."""
    return [line for name, lead in found.get("lead", {}).items() for line in _lead(lead, name)]


def _lead(lead: Mapping[str, Sequence[float]], name: str) -> list[str]:
    """In words on which scores the model is better or worse than a baseline by more than chance."""
    told = []
    for word, sign in (("better", 1), ("worse", -1)):
        ahead = {score: bounds for score, bounds in lead.items() if _sign(bounds) == (-sign if _less(score) else sign)}
        if ahead:
            scores = ", ".join(f"{_words(score)} {_span(bounds, sign=True)}" for score, bounds in ahead.items())
            told.append(f"Model {word} than {_words(name)} beyond chance: {scores}.")
    return told or [f"Model and {_words(name)} do not differ beyond chance."]


def _less(score: str) -> bool:
    return score in LESS or score.startswith(("mse_", "mae_", "bits_per_"))


def _sign(bounds: Sequence[float]) -> int:
    """1 or -1 for an interval on one side of 0, else 0."""
    return (bounds[0] > 0) - (bounds[1] < 0)


def _chromosomes(found: Mapping[str, Any]) -> str:
    return "\n".join(_aligned(chromosome_rows(found)))


def chromosome_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Scores of the model by chromosome as cells: a row each, a column a score."""
    scores = list(dict.fromkeys(score for part in found.values() for score in part["model"]))
    rows = [["chromosome", "items", *map(_words, scores)]]
    for name, part in found.items():
        rows.append([name, f"{part['items']:,}", *(_number(part["model"].get(score)) for score in scores)])
    return rows


def seeds_table(found: Mapping[str, Any]) -> str:
    """What `titans_seq.run.train_seeds` found: mean, least and largest of every validation metric, and who is best."""
    chosen = f"{found['best']} is best by {_words(found['chosen_by'])} and handed on as {found['model']}."
    return "\n".join([*_aligned(seed_rows(found)), chosen])


def seed_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Validation metrics over seeds as cells: mean, least, largest, and those of each run."""
    rows = [["validation", "mean", "least", "largest", *found["seeds"]]]
    for score, spread in found["validation"].items():
        runs = (run[score] for run in found["seeds"].values())
        rows.append([_words(score), *map(_number, (*spread.values(), *runs))])
    return rows


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else _digits(value, 4)


def _digits(value: float, places: int, sign: str = "") -> str:
    """So many decimals; of an error in a small unit, which these would hide, so many digits less one."""
    small = 0 < abs(value) < 10 ** (2 - places)
    return f"{value:{sign}#.{places - 1}g}" if small else f"{value:{sign}.{places}f}"


def _span(bounds: Sequence[float], sign: bool = False) -> str:
    low, high = (_digits(bound, 3, "+" if sign else "") for bound in bounds)
    return f"[{low}, {high}]"


def _cell(found: Mapping[str, Any], name: str, score: str) -> str:
    bounds = found.get("intervals", {}).get(name, {}).get(score)
    number = _number(found[name].get(score))
    return f"{number} {_span(bounds)}" if bounds and not score.endswith("_bases") else number  # bases are counted


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines[:1], "-" * len(max(lines, key=len)), *lines[1:]]


BACKTEST = ("mse", "mae", "mse_original", "mae_original", "rmse", "mase", "smape", "wape", "wql")
STEPS_SHOWN = 8


def backtest_table(found: Mapping[str, Any]) -> str:
    """The result of `titans_seq.backtest.backtest`: its protocol, a line a score, a column a model, and by step."""
    models = [name for name in ("model", "seasonal_naive", "auto_theta") if name in found]
    ours = found["model"]
    rows = [["", *map(_words, models), *(f"skill over {_words(name)}" for name in found["skill"])]]
    for score in [name for name in BACKTEST if name in ours]:
        gains = (own.get(score) for own in found["skill"].values())
        shown = ("-" if gain is None else f"{gain:+.1%}" for gain in gains)
        rows.append([_words(score), *(_number(found[name].get(score)) for name in models), *shown])
    bands = [name.removeprefix("coverage_") for name in ours if name.startswith("coverage_")]
    held = [
        [_words(band), f"{ours[f'coverage_{band}']:.1%}", _number(ours[f"width_{band}"])]
        for band in bands
        if ours[f"coverage_{band}"] is not None
    ]
    steps = len(found["steps"]["model"]["mse"])
    some = sorted({round(i * (steps - 1) / (STEPS_SHOWN - 1)) for i in range(STEPS_SHOWN)})
    by_step = [["mse by step", *(str(i + 1) for i in some)]]
    by_step += [[_words(name), *(_number(found["steps"][name]["mse"][i]) for i in some)] for name in models]
    parts = [_protocol(found["protocol"]), *map(_aligned, (rows, by_step))]
    if held:
        parts.append(_aligned([["interval of, %", "holds", "width"], *held]))
    if "auto_theta" not in found:
        parts.append(["No statistical model stands beside: pip install 'titans-seq[stats]' adds AutoTheta."])
    return "\n\n".join("\n".join(lines) for lines in [*parts, [f"{found['out']}  {found['metrics']}"]])


def _protocol(facts: Mapping[str, Any]) -> list[str]:
    """What the numbers of a backtest are of, in words."""
    back = f"{facts['lookback']:,} rows" if isinstance(facts["lookback"], int) else facts["lookback"]
    refit = "never" if facts["refit"] == "never" else f"every {facts['refit']} origins"
    known = facts["seen_in_training"]
    seen = ", seen in training: unknown" if known is None else f", {known:,} of them seen in training" if known else ""
    return [
        f"look-back {back}, horizon {facts['horizon']:,}, {facts['windows']:,} windows every {facts['step']:,} rows, "
        f"none dropped{seen}",
        f"cutoffs {facts['first_cutoff']} to {facts['last_cutoff']}, refit {refit}, season {facts['season']:,}",
        f"mse, mae, widths in {facts['units']} ({facts['scaler']}); errors of {facts['point']}; "
        "original, rmse in the data's units, over all columns",
    ]
