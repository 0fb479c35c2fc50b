"""The task: what is forecast from what, its loss and metrics, and the columns of its predictions."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from titans_seq.embedding import Embedding, Patches
from titans_seq.miras.choice import Choice
from titans_seq.tasks.forecasting.covariates import Covariates
from titans_seq.tasks.forecasting.stream import StreamHead
from titans_seq.tasks.forecasting.window import ForecastHead
from titans_seq.tasks.outputs import Output, Quantiles

STREAM_PATCHES = 32  # a training window of a stream, unless it is said


class Forecasting(Choice):
    """Direct forecast of ``horizon`` rows from a look-back window before them, or from all that a stream has read.

    Scaling by the statistics of the training rows comes first; errors and the loss are in these units.

    ``reads="window"``: each forecast reads the ``lookback`` rows before it from an empty memory, in patches that may
    overlap. With ``normalisation="instance"`` each window is also brought to mean 0 and deviation 1 and the forecast
    taken back (reversible instance normalisation); ``"training"`` does no more. With ``memory_lookback`` so many rows
    before the window are read first, in its units: of these only what the backbone carries reaches the forecast. They
    are read in pieces, and ``training.truncate`` says how far slopes go back through them.

    ``reads="stream"``: patches stand side by side from the series' first row on, and the memory is carried from one
    to the next. The last patch is open: it is read anew for every forecast, its unseen rows marked as not observed,
    and written to the carried memory when the row behind it comes. ``normalisation="running"`` scales a patch by a
    mean and deviation that are carried too and forget over ``lookback`` rows, ``"training"`` not at all; so that
    continuing a stream equals reading it again. It is trained on windows of ``lookback`` rows, on what follows each
    of their patches, and half of the loss is of the last one, cut at a random row as it is in use.

    ``mixing="independent"``: one model reads each channel apart (PatchTST, arXiv 2211.14730). ``"token"``: a patch
    holds all channels side by side. ``"attention"``: channels are read apart, and before the forecast layer the hidden
    row of each attends to those of all channels at its place, see `VariateAttention`.

    Covariates are read with the patch that they stand beside, each channel with all of them. What is known beforehand
    of a row that is forecast is read with its step alone. Of ``irregular`` series the time since the row before, as
    its logarithm, is one more that is known: that of the rows which are asked for.
    """

    kind: Literal["forecasting"] = "forecasting"
    field: ClassVar[str] = "forecast"
    data: ClassVar[str] = "series"  # kind of source it is trained on
    monitor: ClassVar[tuple[str, int]] = ("loss", -1)
    horizon: int = Field(ge=1, le=100_000, description="Rows to forecast.")
    reads: Literal["window", "stream"] = Field(
        default="window", description="Each look-back window anew, or the whole series once with its memory carried."
    )
    lookback: int = Field(
        default=96, ge=1, le=10_000_000, description="Rows read before them; of a stream, rows of a training window."
    )
    memory_lookback: int = Field(
        default=0, ge=0, le=10_000_000, description="Rows before the look-back that the memory reads first."
    )
    patch: int = Field(default=16, ge=1, description="Rows a token.")
    stride: int = Field(default=8, ge=1, description="Rows from one token to the next.")
    mixing: Literal["independent", "token", "attention"] = Field(
        default="independent",
        description="Channels read apart, all in one token, or apart and then each attending to all.",
    )
    normalisation: Literal["instance", "running", "training"] = "instance"
    pool: Literal["last", "flatten"] = Field(default="flatten", description="Forecast from the last token or from all.")
    shortcut: bool = Field(default=False, description="Add one linear map of the normalised window.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the forecast layer.")
    output: Output = Quantiles()
    conformal: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(
        default=(), description="Per cent of the values that intervals calibrated on the validation windows hold."
    )
    season: int = Field(default=0, ge=0, description="Rows a season, of seasonal naive; 0 for that of the frequency.")
    channels: tuple[str, ...] = Field(default=(), description="Columns; those of the data if empty.")
    location: tuple[float, ...] = Field(default=(), description="Mean of each channel over the training rows.")
    scale: tuple[float, ...] = Field(default=(), description="Standard deviation likewise.")
    frequency: str = Field(default="", description="Step of the timestamps, from the data if empty.")
    zero_shot: bool = Field(
        default=False,
        description="Trained to forecast any table, whose names, scale and frequency then take the place of these.",
    )
    irregular: bool = Field(default=False, description="Rows stand any time apart; from the data.")
    covariates: Covariates = Field(default=Covariates(), description="What is read beside them; from the data.")
    reading: dict[str, Any] = Field(
        default={}, description="Options by which the training table was read, which another like it needs; from it."
    )
    margins: tuple[tuple[tuple[float, ...], ...], ...] = Field(
        default=(), description="What is added to the bands: a margin a conformal level, step and channel."
    )

    @model_validator(mode="before")
    @classmethod
    def _stream_defaults(cls, given: Any) -> Any:
        """What a stream needs, where nothing else is said."""
        if not isinstance(given, dict) or given.get("reads") != "stream":
            return given
        patch = given.get("patch", cls.model_fields["patch"].default)
        sizes = {"stride": patch, "lookback": STREAM_PATCHES * patch} if isinstance(patch, int) else {}
        return {"normalisation": "running", "pool": "last", **sizes, **given}

    @field_validator("mixing", mode="before")
    @classmethod
    def _as_a_flag(cls, given: Any) -> Any:
        """False and true are the first two: what recipes and models said before there was a third."""
        return ("token" if given else "independent") if isinstance(given, bool) else given

    @field_validator("conformal")
    @classmethod
    def _rising(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(levels)))

    @model_validator(mode="after")
    def _suits_how_it_reads(self) -> "Forecasting":
        if self.reads == "window":
            if self.normalisation == "running":
                raise ValueError('normalisation "running" is carried along a stream: set reads to stream')
        elif self.normalisation == "instance":
            raise ValueError('reads "stream" has no window to normalise by: set normalisation to running or training')
        elif self.stride != self.patch or self.pool != "last" or self.shortcut:
            raise ValueError('reads "stream" needs stride equal to patch, pool "last" and no shortcut')
        return self

    @model_validator(mode="after")
    def _any_table(self) -> "Forecasting":
        if self.zero_shot and (self.mixing != "independent" or self.normalisation == "training"):
            raise ValueError(
                "zero_shot needs channels that are read apart, whatever another table has beside them, and a scale of "
                "their own: mixing independent, and normalisation instance or running"
            )
        if self.zero_shot and self.conformal:
            raise ValueError("conformal intervals are of the table they are calibrated on, and zero_shot is for any")
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> "Forecasting":
        if self.patch > self.lookback:
            raise ValueError(f"patch {self.patch} is longer than lookback {self.lookback}")
        if (self.lookback - self.patch) % self.stride:
            shorter = self.lookback - (self.lookback - self.patch) % self.stride
            raise ValueError(
                f"patches of {self.patch} every {self.stride} rows do not end with a look-back of {self.lookback}: "
                f"choose lookback = patch + a multiple of stride, the nearest {shorter} and {shorter + self.stride}"
            )
        if self.memory_lookback and (self.reads == "stream" or self.memory_lookback % self.stride):
            raise ValueError(
                f"memory_lookback {self.memory_lookback} must be a multiple of stride {self.stride}, and is of "
                'windows: reads "stream" reads all rows'
            )
        return self

    @property
    def patches(self) -> int:
        """Tokens of a look-back, N."""
        return (self.lookback - self.patch) // self.stride + 1

    @property
    def causal(self) -> bool:
        """Whether the backbone must be causal."""
        return self.reads == "stream"

    @property
    def before(self) -> int:
        """Rows that must stand in a table before a forecast."""
        return self.window if self.reads == "window" else 1

    @property
    def window(self) -> int:
        """Rows of a training window before what it forecasts."""
        return self.memory_lookback + self.lookback

    @property
    def open(self) -> int:
        """Rows of a training window's last patch of which a random number is seen; 0 where all are."""
        return self.patch if self.reads == "stream" else 0

    @property
    def reach(self) -> int:
        """Rows behind its first that a patch of a stream tells, P - 1 + H."""
        return self.patch - 1 + self.horizon

    @property
    def apart(self) -> bool:
        """Whether the backbone reads each channel as a series of its own, (B C, N, D)."""
        return self.mixing != "token"

    @property
    def known(self) -> int:
        """Covariates that are known of the rows to be forecast, K; the time since the row before is one."""
        return len(self.covariates.known_future) + self.irregular if self.covariates.location else 0

    @property
    def beside(self) -> int:
        """Covariates that rows have beside the channels, K + P; those of a series as a whole are no part of it."""
        return self.known + len(self.covariates.past_only) if self.covariates.location else 0

    def takes_head(self, other: "Forecasting") -> bool:
        """Whether the forecast layer that was trained for another task can be taken over."""
        return all(getattr(self, name) == getattr(other, name) for name in _OF_HEAD) and (
            len(self.channels) == len(other.channels) or self.apart
        )

    def other_than(self, other: "Forecasting") -> list[str]:
        """In what it differs from the task that its backbone was trained for, for people."""
        told = []
        for name in ("horizon", "channels", "frequency", "lookback", "memory_lookback", "patch", "covariates"):
            here, there = (_shown(getattr(task, name)) for task in (self, other))
            told += [f"{name} {there} there, {here} here"] if here != there else []
        return told

    def embedding(self, tokens: Embedding | None = None) -> Embedding:
        """How the backbone reads; a series has no other tokens than its patches."""
        read = (1 if self.apart else max(1, len(self.channels))) + self.beside
        return Patches(features=2 * (self.patch * read + len(self.covariates.location) - self.beside))

    def head(self, width: int) -> ForecastHead | StreamHead:
        """From hidden rows of a window, or of a stream, to all steps, channels and quantiles."""
        return ForecastHead(width, self) if self.reads == "window" else StreamHead(width, self)

    def _scaled(self, rows: Tensor) -> Tensor:
        """Rows (B, T, C) in training standard deviations, float64."""
        location, scale = (rows.new_tensor(s, dtype=torch.float64) for s in (self.location, self.scale))
        return (rows.double() - location) / scale

    def targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Future (B, H, C) in training standard deviations, float64, and marks of observation."""
        return self._scaled(batch["future"]), batch["future_observed"]

    def _every_target(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What follows the first row of each patch (B, N, P - 1 + H, C), and its weight.

        Rows of a patch are no target, but for the unseen ones of the last, which weighs as much as all others.
        """
        rows = self._scaled(torch.cat([batch["past"], batch["future"]], 1))
        known = torch.cat([batch["observed"], batch["future_observed"]], 1)
        rows, known = (part[:, 1:].unfold(1, self.reach, self.patch).transpose(2, 3) for part in (rows, known))
        filled = torch.full((len(rows), self.patches), self.patch, device=rows.device)
        filled[:, -1] = batch["open"]
        ahead = torch.arange(1, self.reach + 1, device=rows.device) >= filled[..., None]
        weight = torch.ones(self.patches, device=rows.device)
        weight[-1] = max(1, self.patches - 1)
        return rows, known * ahead[..., None] * weight[:, None, None]

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss of the observed steps, in training standard deviations."""
        target, seen = self._asked(batch)
        return (self.output.loss(output, target.to(output.dtype)) * seen).sum() / seen.sum().clamp(min=1)

    def terms(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): steps that were observed."""
        return self._asked(batch)[1].sum()

    def _asked(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What a batch is trained on, and where it was observed."""
        return self._every_target(batch) if "open" in batch else self.targets(batch)

    def measures(self, output: Tensor, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """What `metrics` needs of a batch, a row a window; sums over steps."""
        target, seen = self.targets(batch)
        target = target.to(output.dtype)
        error = (self.output.point(output) - target) * seen
        found = {
            "count": seen.sum((1, 2)),
            "loss": (self.output.loss(output, target) * seen).sum((1, 2)),
            "squared": error.square().sum((1, 2)),
            "absolute": error.abs().sum((1, 2)),
            "size": (target.abs() * seen).sum((1, 2)),
        }
        if len(self.output.levels) > 1:
            low, high = self.output.band(output, self._widest)
            found["inside"] = ((target >= low) * (target <= high) * seen).sum((1, 2))
        return {name: value.double().cpu().numpy() for name, value in found.items()}

    def metrics(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """Errors in training standard deviations over all windows, steps and channels; nothing is dropped."""
        sums = {name: float(values.sum()) for name, values in rows.items()}
        count = max(sums["count"], 1)
        scores = {
            "loss": sums["loss"] / count,
            "mse": sums["squared"] / count,
            "mae": sums["absolute"] / count,
            "windows": float(len(rows["count"])),
        }
        if "inside" in sums:
            if self.output.pinball:
                scores["wql"] = sums["loss"] / max(sums["size"], 1e-12)
            scores[f"coverage_{round(100 * self._widest)}"] = sums["inside"] / count
        return scores

    @property
    def _widest(self) -> float:
        """Share of the values between the outermost levels."""
        return self.output.levels[-1] - self.output.levels[0]

    def excess(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        r"""How far the truth lies outside of the band of each conformal level, (B, K, H, C); NaN where it is unknown.

        In training standard deviations, below 0 inside: $\max(\hat q_{low} - y, y - \hat q_{high})$ (Romano et al.
        2019, conformalized quantile regression, eq. 6); of a point forecast the absolute residual.
        """
        target, seen = self.targets(batch)
        target = target.to(output.dtype)
        bands = (self.output.band(output, level / 100) for level in self.conformal)
        found = torch.stack([torch.maximum(low - target, target - high) for low, high in bands], 1)
        return found.where(seen[:, None], torch.nan)

    def _intervals(self, output: Tensor) -> dict[str, Tensor]:
        """Calibrated intervals in training standard deviations, each (B, H, C); a wider one holds the narrower."""
        found: dict[str, Tensor] = {}
        low = high = None
        for level, margin in zip(self.conformal, self.margins, strict=True):
            m = output.new_tensor(margin)
            a, b = self.output.band(output, level / 100)
            a, b = torch.minimum(a - m, (a + b) / 2), torch.maximum(b + m, (a + b) / 2)
            low, high = (a, b) if low is None or high is None else (torch.minimum(a, low), torch.maximum(b, high))
            found |= {f"lo-{level:g}": low, f"hi-{level:g}": high}
        return found

    @property
    def names(self) -> list[str]:
        """Columns of the prediction file, in order."""
        levels = self.output.levels if len(self.output.levels) > 1 else ()
        calibrated = [f"{side}-{level:g}" for level in self.conformal for side in ("lo", "hi")] if self.margins else []
        return ["mean", *(f"q{level:g}" for level in levels), *calibrated]

    @property
    def median(self) -> str:
        """The column that stands for the median; where it is none of the levels, their mean."""
        levels = np.array(self.output.levels)
        near = np.abs(levels - 0.5)
        direct = self.output.pinball and len(levels) > 1 and near.min() < 1e-9
        return f"q{levels[near.argmin()]:g}" if direct else "mean"

    def reaching(self, rows: int) -> "Forecasting":
        """The task with intervals of so many rows of a forecast: beyond the horizon none was calibrated."""
        margins = tuple(level[:rows] for level in self.margins) if rows <= self.horizon else ()
        return self.model_copy(update={"margins": margins})

    @torch.no_grad()
    def columns(self, output: Tensor) -> dict[str, Tensor]:
        """Columns of the prediction file in the data's units, each (B, H, C).

        ``mean``, of quantiles the average over the levels; ``q0.1`` ... a quantile each; and of a calibrated model
        ``lo-80``, ``hi-80`` ..., the ends of an interval each.
        """
        location, scale = (output.new_tensor(s, dtype=torch.float64) for s in (self.location, self.scale))
        values = self.output.moved(output.double(), location, scale)
        columns, task = [self.output.mean(values)], self.reaching(output.shape[1])
        if len(self.output.levels) > 1:
            columns += self.output.quantiles(values).unbind(-1)
        if task.margins:
            columns += [part.double() * scale + location for part in task._intervals(output).values()]
        return dict(zip(task.names, columns, strict=True))


# What decides the forecast layer's shape and meaning, beside the number of channels in one token
_OF_HEAD = (
    "reads",
    "horizon",
    "lookback",
    "patch",
    "stride",
    "mixing",
    "normalisation",
    "pool",
    "shortcut",
    "output",
    "irregular",
    "known",
    "beside",
)


def _shown(value: Any) -> str:
    if isinstance(value, Covariates):
        value = (*value.known_future, *value.past_only, *value.static)
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)
