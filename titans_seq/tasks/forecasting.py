"""Multivariate probabilistic forecasting: patches of a look-back window, or of a stream, in; the horizon out."""

import math
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from titans_seq.embedding import Embedding, Patches
from titans_seq.miras.choice import Choice
from titans_seq.tasks.outputs import Output, Quantiles

STD_FLOOR = 1e-5  # in training standard deviations; a constant window is read as zeros
STREAM_PATCHES = 32  # a training window of a stream, unless it is said


class Covariates(Choice):
    """What a model was trained with beside the channels: names, and the values that each column of text had.

    A column of text is one covariate a value and one for values that training did not know, ``NAME=(other)``.
    """

    known_future: tuple[str, ...] = ()
    past_only: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    vocabularies: dict[str, tuple[str, ...]] = Field(default={})
    location: tuple[float, ...] = Field(
        default=(), description="Mean over the training rows of all three in turn; if empty the model reads none."
    )
    scale: tuple[float, ...] = Field(default=(), description="Standard deviation likewise.")

    def column(self, covariate: str) -> str:
        """The column of the table that a covariate was made of."""
        return next((text for text in self.vocabularies if covariate.startswith(f"{text}=")), covariate)


class Beside(nn.Module):
    """Covariates in training standard deviations, each with a mark; what is missing is 0 and has none."""

    location: Tensor
    scale: Tensor

    def __init__(self, task: "Forecasting"):
        super().__init__()
        self.mixing, self.channels = task.mixing, len(task.channels)
        self.known, self.rows = task.known, task.beside
        self.register_buffer("location", torch.tensor(task.covariates.location), persistent=False)
        self.register_buffer("scale", torch.tensor(task.covariates.scale), persistent=False)

    def _marked(self, values: Tensor, seen: Tensor, first: int) -> Tensor:
        """Values (..., K) of the covariates from number ``first`` on, and marks, (..., K, 2)."""
        own = slice(first, first + values.shape[-1])
        x = (values.nan_to_num() - self.location[own]) / self.scale[own]
        return torch.stack([x * seen, seen.to(x.dtype)], -1)

    def ahead(self, known: Tensor) -> Tensor:
        """What is known of rows to be forecast, (..., K) with NaN where it is missing, to (..., 2 K)."""
        return self._marked(known, known.isfinite(), 0).flatten(-2)

    def joined(self, target: Tensor, values: Tensor, seen: Tensor, static: Tensor | None, stride: int) -> Tensor:
        """Patches as the backbone reads them: the target's values and marks, then those of what stands beside it.

        Args:
            target: (B, N, C, 2, P).
            values: (B, T, E) of the covariates that rows have.
            seen: (B, T, E) marks of observation.
            static: (B, S) of the series, NaN where it is missing.
            stride: rows from one patch to the next.

        Returns:
            (B, N, F), or (B C, N, F) where channels are read apart: each has all covariates beside it.
        """
        apart = target.flatten(2) if self.mixing else target.transpose(1, 2).flatten(0, 1).flatten(2)
        if not len(self.location):
            return apart
        N, P = target.shape[1], target.shape[-1]
        parts = [self._marked(values, seen, 0).unfold(1, P, stride).flatten(2)]
        if static is not None:
            parts.append(self._marked(static, static.isfinite(), self.rows).flatten(1)[:, None].expand(-1, N, -1))
        beside = torch.cat(parts, -1).to(apart.dtype)
        return torch.cat([apart, beside if self.mixing else self.each(beside)], -1)

    def each(self, shared: Tensor) -> Tensor:
        """What is of all channels (B, ...) for each that is read apart, (B C, ...)."""
        return shared.repeat_interleave(self.channels, 0)


class Ahead(nn.Module):
    """What is known of a row beforehand, and the hidden row, to what this adds to the row's forecast.

    One map for all steps, so that no step sees what is known of another (TiDE's temporal decoder, arXiv 2304.08424).
    """

    def __init__(self, context: int, known: int, width: int, out: int):
        super().__init__()
        self.context = nn.Linear(context, width)
        self.known = nn.Linear(2 * known, width, bias=False)
        self.out = nn.Linear(width, out)

    def forward(self, hidden: Tensor, known: Tensor) -> Tensor:
        """Hidden (..., D) and what is known (..., H, 2 K) to (..., H, out)."""
        added: Tensor = self.out(nn.functional.gelu(self.context(hidden)[..., None, :] + self.known(known)))
        return added


class Window(NamedTuple):
    """What the head keeps of a look-back window."""

    hidden: Tensor  # (B * series read apart, D or N D)
    location: Tensor  # (B, 1, C) in training standard deviations
    scale: Tensor
    scaled: Tensor  # (B, L, C)
    known: Tensor | None = None  # (B, H, 2 K), see `Beside.ahead`


class ForecastHead(nn.Module):
    """Normalise and patch a window, and map what the backbone made of it to (B, H, C, K)."""

    location: Tensor
    scale: Tensor

    def __init__(self, width: int, task: "Forecasting"):
        super().__init__()
        self.task = task
        self.register_buffer("location", torch.tensor(task.location), persistent=False)
        self.register_buffer("scale", torch.tensor(task.scale), persistent=False)
        self.channels = len(task.channels)
        apart = 1 if not task.mixing else self.channels
        rows = 1 if task.pool == "last" else task.patches
        self.dropout = nn.Dropout(task.dropout)
        self.steps = nn.Linear(rows * width, task.horizon * apart * task.output.numbers)
        self.shortcut = nn.Linear(task.lookback, task.horizon) if task.shortcut else None
        self.beside = Beside(task)
        self.ahead = Ahead(rows * width, task.known, width, apart * task.output.numbers) if task.known else None

    def _scaled(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows (B, M + L, C) in units of the look-back (0 where missing), marks of observation, location, scale."""
        seen = batch["observed"].to(batch["past"].dtype)
        x = (batch["past"] - self.location) / self.scale * seen
        if self.task.normalisation == "training":
            one = torch.ones_like(x[:, :1])
            return x, seen, 0 * one, one
        last = slice(-self.task.lookback, None)
        count = seen[:, last].sum(1, keepdim=True).clamp(min=1)
        location = x[:, last].sum(1, keepdim=True) / count
        deviation = (x - location) * seen
        scale = (deviation[:, last].square().sum(1, keepdim=True) / count + STD_FLOOR**2).sqrt()
        return deviation / scale, seen, location, scale

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Patches (B, N, F), or (B C, N, F) where channels are read apart; F is values and marks of observation."""
        scaled, seen, *_ = self._scaled(batch)
        both = torch.stack([scaled, seen], -1)  # (B, L, C, 2)
        patches = both.unfold(1, self.task.patch, self.task.stride)  # (B, N, C, 2, P)
        rows = _beside(batch, scaled.shape[1])
        return self.beside.joined(patches, rows, rows.isfinite(), batch.get("static"), self.task.stride)

    def start(self, batch: dict[str, Tensor]) -> None:
        """A window is one block."""

    def fold(self, so_far: None, hidden: Tensor, batch: dict[str, Tensor]) -> Window:
        """Keep the last row of hidden (B, N, D), or all."""
        scaled, _, location, scale = self._scaled(batch)
        kept = hidden[:, -1] if self.task.pool == "last" else hidden[:, -self.task.patches :].flatten(1)
        scaled = scaled[:, -self.task.lookback :]
        known = self.beside.ahead(_future(batch, self.task)) if self.ahead is not None else None
        return Window(kept, location, scale, scaled, known)

    def result(self, read: Window) -> Tensor:
        """Forecast (B, H, C, K) in training standard deviations."""
        H, K = self.task.horizon, self.task.output.numbers
        hidden = self.dropout(read.hidden)
        raw = self.steps(hidden).float()
        if self.ahead is not None and read.known is not None:
            known = read.known if self.task.mixing else self.beside.each(read.known)
            raw = raw + self.ahead(hidden, known.to(hidden.dtype)).flatten(1).float()
        raw = (
            raw.unflatten(-1, (H, -1, K))
            if self.task.mixing
            else raw.unflatten(0, (-1, self.channels)).unflatten(-1, (H, K)).transpose(1, 2)
        )
        output = self.task.output.mapped(raw)
        if self.shortcut is not None:
            along = self.shortcut(read.scaled.transpose(1, 2)).transpose(1, 2)
            output = self.task.output.moved(output, along, torch.ones_like(along))
        return self.task.output.moved(output, read.location, read.scale)


def _beside(batch: dict[str, Tensor], rows: int) -> Tensor:
    """Covariates (B, T, K + P) of the first rows of a window, NaN where one is missing."""
    parts = [batch[name][:, :rows] for name in ("known", "past_only") if name in batch]
    return torch.cat(parts, -1) if parts else batch["past"][:, :rows, :0]


def _future(batch: dict[str, Tensor], task: "Forecasting") -> Tensor:
    """What is known of the rows to be forecast, (B, H, K)."""
    before = batch["past"].shape[1]
    return batch["known"][:, before : before + task.horizon]


class Scaled(NamedTuple):
    """Patches of a stream as the backbone reads them, and what was taken out of each."""

    features: Tensor  # (B, N, F), or (B C, N, F) where channels are read apart
    location: Tensor  # (B, N, C) in training standard deviations
    scale: Tensor


class Opened(NamedTuple):
    """What the head keeps of a stream: every patch of a training window, else the last alone."""

    hidden: Tensor  # (B, N, D), or (B C, N, D)
    location: Tensor  # (B, N, C)
    scale: Tensor
    filled: int | None = None  # rows seen of the last patch; None to keep what follows every patch
    known: Tensor | None = None  # (B, N, rows that are told, 2 K), see `Beside.ahead`


class StreamHead(nn.Module):
    """Scale patches causally, and map what the backbone made of each to the rows behind its first, (B, H, C, K).

    A patch gives the P - 1 + H rows that follow its first row, the place of each fixed to the patch; of these, the H
    rows after the last that was seen are the forecast. So an open patch needs no head of its own, nor has the head
    to know how many of its rows were seen: which could not be told from rows whose values are missing.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, width: int, task: "Forecasting"):
        super().__init__()
        self.task = task
        self.register_buffer("location", torch.tensor(task.location), persistent=False)
        self.register_buffer("scale", torch.tensor(task.scale), persistent=False)
        self.channels = len(task.channels)
        apart = 1 if not task.mixing else self.channels
        self.dropout = nn.Dropout(task.dropout)
        self.steps = nn.Linear(width, task.reach * apart * task.output.numbers)
        self.beside = Beside(task)
        self.ahead = Ahead(width, task.known, width, apart * task.output.numbers) if task.known else None

    def initial_running(self, batch: int, location: Any = None, scale: Any = None) -> Tensor:
        """Running count, sum and sum of squares (B, 3, C) before any row: a patch of the training rows' moments.

        A series of another scale begins with its own ``location`` and ``scale``, (C,) each in the data's units.
        """
        mean = torch.zeros(self.channels, dtype=torch.float64, device=self.location.device)
        deviation = torch.ones_like(mean)
        if location is not None:
            mean = (mean.new_tensor(location) - self.location) / self.scale
            deviation = mean.new_tensor(scale) / self.scale
        prior = torch.stack([torch.ones_like(mean), mean, mean.square() + deviation.square()])
        return self.task.patch * prior.expand(batch, 3, self.channels)

    def scaled(
        self, values: Tensor, seen: Tensor, running: Tensor, static: Tensor | None = None
    ) -> tuple[Scaled, Tensor]:
        """Cut rows into patches and scale each by what was read up to its own last row.

        Args:
            values: (B, N P, C + E) in the data's units, channels and then the covariates that rows have.
            seen: (B, N P, C + E) marks of observation.
            running: (B, 3, C) of the rows before them, see `initial_running`.
            static: (B, S) of the series, NaN where it is missing.

        Returns:
            The patches, and ``running`` after them.
        """
        P, C = self.task.patch, self.channels
        beside, (values, seen) = (values[..., C:], seen[..., C:]), (values[..., :C], seen[..., :C])
        marks = seen.double().unflatten(1, (-1, P))  # (B, N, P, C)
        x = (values.double().unflatten(1, (-1, P)) - self.location) / self.scale * marks
        if self.task.normalisation == "running":
            moments = torch.stack([marks.sum(2), x.sum(2), x.square().sum(2)], 2)  # (B, N, 3, C)
            after = _decayed(moments, running, math.exp(-P / self.task.lookback))
            running = after[:, -1]
            location = after[:, :, 1] / after[:, :, 0]
            variance = after[:, :, 2] / after[:, :, 0] - location.square()
            scale = (variance.clamp(min=0) + STD_FLOOR**2).sqrt()
        else:
            location, scale = torch.zeros_like(x[:, :, 0]), torch.ones_like(x[:, :, 0])
        x = (x - location[:, :, None]) / scale[:, :, None] * marks
        both = torch.stack([x, marks], -1).transpose(2, 3).transpose(3, 4)  # (B, N, C, 2, P)
        features = self.beside.joined(both, *beside, static, P)
        dtype = self.steps.weight.dtype
        return Scaled(features.to(dtype), location.to(dtype), scale.to(dtype)), running

    def _window(self, batch: dict[str, Tensor]) -> Scaled:
        """A window as a stream of its own; in training only ``open`` rows (B,) of its last patch are seen."""
        beside = _beside(batch, self.task.lookback)
        values, seen = torch.cat([batch["past"], beside], -1), torch.cat([batch["observed"], beside.isfinite()], -1)
        if "open" in batch:
            last = torch.arange(seen.shape[1], device=seen.device) - (self.task.lookback - self.task.patch)
            seen = seen & (last < batch["open"][:, None])[:, :, None]
        return self.scaled(values, seen, self.initial_running(len(seen)), batch.get("static"))[0]

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Patches (B, N, F), or (B C, N, F) where channels are read apart; F is values and marks of observation."""
        return self._window(batch).features

    def start(self, batch: dict[str, Tensor]) -> None:
        """A window is one block."""

    def fold(self, so_far: None, hidden: Tensor, batch: dict[str, Tensor]) -> Opened:
        """Keep the last row of hidden (B, N, D), or in training all."""
        _, location, scale = self._window(batch)
        if "open" in batch:
            known = None if self.ahead is None else self.beside.ahead(self._following(batch["known"]))
            return Opened(hidden, location, scale, known=known)
        known = None if self.ahead is None else self.beside.ahead(_future(batch, self.task)[:, None])
        return Opened(hidden[:, -1:], location[:, -1:], scale[:, -1:], self.task.patch, known)

    def _following(self, rows: Tensor) -> Tensor:
        """Of rows (B, L + H, K) those behind the first of each patch, (B, N, P - 1 + H, K)."""
        return rows[:, 1:].unfold(1, self.task.reach, self.task.patch).transpose(2, 3)

    def result(self, read: Opened) -> Tensor:
        """Forecast (B, H, C, K) in training standard deviations; the rows (B, N, P - 1 + H, C, K) in training."""
        rows, K = self.task.reach, self.task.output.numbers
        hidden = self.dropout(read.hidden)
        raw = self.steps(hidden)
        raw = raw if raw.dtype == torch.float64 else raw.float()
        raw = (
            raw.unflatten(-1, (rows, -1, K))
            if self.task.mixing
            else raw.unflatten(0, (-1, self.channels)).unflatten(-1, (rows, K)).permute(0, 2, 3, 1, 4)
        )
        if read.filled is not None:
            raw = raw[:, :, read.filled - 1 : read.filled - 1 + self.task.horizon]
        if self.ahead is not None and read.known is not None:
            known = read.known if self.task.mixing else self.beside.each(read.known)
            added = self.ahead(hidden, known.to(hidden.dtype)).to(raw.dtype)
            raw = raw + (
                added.unflatten(-1, (-1, K))
                if self.task.mixing
                else added.unflatten(0, (-1, self.channels)).permute(0, 2, 3, 1, 4)
            )
        output = self.task.output.moved(self.task.output.mapped(raw), read.location[:, :, None], read.scale[:, :, None])
        return output if read.filled is None else output[:, -1]


def _decayed(moments: Tensor, before: Tensor, keep: float) -> Tensor:
    """Running sums s_n = keep s_{n-1} + m_n of moments (B, N, 3, C) after ``before`` (B, 3, C)."""
    n = torch.arange(moments.shape[1], device=moments.device)
    age = (n[:, None] - n).double()
    weights = torch.where(age >= 0, keep ** age.clamp(min=0), 0.0)
    carried = keep ** (n + 1).double()[:, None, None] * before[:, None]
    return torch.einsum("nm,bmsc->bnsc", weights, moments) + carried


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
    mixing: bool = Field(default=False, description="Read all channels in one token, instead of each channel apart.")
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
        if self.zero_shot and (self.mixing or self.normalisation == "training"):
            raise ValueError(
                "zero_shot needs channels that are read apart and a scale of their own: mixing false, and "
                "normalisation instance or running"
            )
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> "Forecasting":
        if self.patch > self.lookback:
            raise ValueError(f"patch {self.patch} is longer than lookback {self.lookback}")
        if (self.lookback - self.patch) % self.stride:
            raise ValueError(
                f"patches of {self.patch} every {self.stride} rows do not end with a look-back of {self.lookback}: "
                "choose lookback = patch + a multiple of stride"
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
            len(self.channels) == len(other.channels) or not self.mixing
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
        read = (max(1, len(self.channels)) if self.mixing else 1) + self.beside
        return Patches(features=2 * (self.patch * read + len(self.covariates.location) - self.beside))

    def head(self, width: int) -> ForecastHead | StreamHead:
        """From hidden rows of a window, or of a stream, to all steps, channels and quantiles."""
        return ForecastHead(width, self) if self.reads == "window" else StreamHead(width, self)

    def targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Future (B, H, C) in training standard deviations, and marks of observation."""
        location, scale = (batch["future"].new_tensor(s) for s in (self.location, self.scale))
        return (batch["future"] - location) / scale, batch["future_observed"]

    def _every_target(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What follows the first row of each patch (B, N, P - 1 + H, C), and its weight.

        Rows of a patch are no target, but for the unseen ones of the last, which weighs as much as all others.
        """
        location, scale = (batch["future"].new_tensor(s) for s in (self.location, self.scale))
        rows = torch.cat([(batch["past"] - location) / scale, (batch["future"] - location) / scale], 1)
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
        return (self.output.loss(output, target) * seen).sum() / seen.sum().clamp(min=1)

    def terms(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """How much a batch counts: what `loss` is a mean over, (): steps that were observed."""
        return self._asked(batch)[1].sum()

    def _asked(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What a batch is trained on, and where it was observed."""
        return self._every_target(batch) if "open" in batch else self.targets(batch)

    def measures(self, output: Tensor, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """What `metrics` needs of a batch, a row a window; sums over steps."""
        target, seen = self.targets(batch)
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
        """The column that stands for the median."""
        levels = np.array(self.output.levels)
        direct = self.output.pinball and len(levels) > 1
        return f"q{levels[np.abs(levels - 0.5).argmin()]:g}" if direct else "mean"

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
        location, scale = (output.new_tensor(s) for s in (self.location, self.scale))
        values = self.output.moved(output.double(), location, scale)
        columns, task = [self.output.mean(values)], self.reaching(output.shape[1])
        if len(self.output.levels) > 1:
            columns += self.output.quantiles(values).unbind(-1)
        if task.margins:
            columns += [part.double() * scale + location for part in task._intervals(output).values()]
        return dict(zip(task.names, columns, strict=True))


# What decides the forecast layer's shape and meaning, beside the number of channels that are mixed
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
