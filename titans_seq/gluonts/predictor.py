"""A trained model as a GluonTS predictor: dataset entries in, quantile forecasts out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gluonts.core.component import validated
from gluonts.dataset.common import DataEntry, Dataset
from gluonts.model.forecast import QuantileForecast
from gluonts.model.forecast_generator import QuantileForecastGenerator
from gluonts.model.predictor import RepresentablePredictor
from gluonts.torch.model.predictor import PyTorchPredictor
from gluonts.torch.util import resolve_device
from gluonts.transform import (
    AddObservedValuesIndicator,
    AsNumpyArray,
    InstanceSampler,
    InstanceSplitter,
    SimpleTransformation,
    TestSplitSampler,
    Transformation,
)
from torch import Tensor, nn

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, load_pretrained, save_pretrained
from titans_seq.data.record import quoted
from titans_seq.errors import InputError, ModelError, warn
from titans_seq.gluonts.entries import frequency_of
from titans_seq.stream.series import Forecaster
from titans_seq.tasks.forecasting import Forecasting

PAST = ["past_target", "past_observed_values"]  # GluonTS' names of what a window holds
FUTURE = ["future_target", "future_observed_values"]
MODEL = "model"  # the checkpoint folder inside a serialised predictor


class ReadTarget(SimpleTransformation):
    """Of an entry the target (T,), or (C, T), and whose it is.

    Covariates are left out, with one warning; another frequency than the model's is told likewise.

    Raises:
        InputError: if the target has another number of columns, or a value that is infinite in single precision.
    """

    @validated()
    def __init__(self, channels: int, frequency: str = "") -> None:
        self.channels, self.frequency = channels, frequency
        self.told: set[str] = set()

    def _tell(self, subject: str, message: str) -> None:
        if subject not in self.told:
            warn(message)
            self.told.add(subject)

    def transform(self, data: DataEntry) -> DataEntry:
        """Called by GluonTS for each entry."""
        target = np.asarray(data["target"], np.float64)
        name = f"Entry {quoted(str(data.get('item_id', '')))}"
        wanted = "(T,)" if self.channels == 1 else f"({self.channels}, T)"
        if target.ndim != (1 if self.channels == 1 else 2) or (target.ndim == 2 and len(target) != self.channels):
            raise InputError(f"{name} has a target of shape {target.shape}; the model reads {wanted}.")
        if (beyond := np.abs(target) > np.finfo(np.float32).max).any():
            row = int(np.argwhere(beyond)[0][-1])
            raise InputError(f"{name}: row {row + 1} is infinite or beyond 3e38. Mend it, or give NaN for missing.")
        if left := [field for field in data if "feat_" in field]:
            self._tell("covariates", f"{name}: {', '.join(left)} is not read: the model takes no covariates.")
        if self.frequency and (other := frequency_of(data)) != self.frequency:
            steps = f"one row every {other or data['start'].freqstr}, the model was trained on {self.frequency}"
            self._tell("frequency", f"{name} has {steps}: expect less of its forecasts.")
        return {"target": target} | {key: data[key] for key in ("start", "item_id", "info") if key in data}


def read_target(task: Forecasting) -> ReadTarget:
    """What a model reads of an entry."""
    return ReadTarget(channels=len(task.channels), frequency=task.frequency)


def reading(task: Forecasting) -> Transformation:
    """Entries to targets in single precision, 0 where missing, and marks of observation."""
    return (
        read_target(task)
        + AsNumpyArray(field="target", expected_ndim=1 if len(task.channels) == 1 else 2)
        + AddObservedValuesIndicator(target_field="target", output_field="observed_values")
    )


def windows(task: Forecasting, sampler: InstanceSampler) -> InstanceSplitter:
    """Cut look-back and future at the origins of a sampler; what a short series lacks is not observed."""
    return InstanceSplitter(
        target_field="target",
        is_pad_field="is_pad",
        start_field="start",
        forecast_start_field="forecast_start",
        instance_sampler=sampler,
        past_length=task.window,
        future_length=task.horizon,
        time_series_fields=["observed_values"],
    )


def rows_and_marks(values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Values and marks (B, T) or (B, T, C) as (B, T, C), the marks as bool."""
    apart = values.ndim == 2
    return (values[..., None], observed[..., None] > 0) if apart else (values, observed > 0)


def arrays_of(task: Forecasting) -> dict[str, str]:
    """What GluonTS calls each array of a forecast, mean or a quantile, and the column of ours that it is.

    A point forecast is its own median, and ends of its calibrated intervals are quantiles.
    """
    levels = task.output.levels
    if len(levels) > 1:
        return {"mean": "mean"} | {f"{level:g}": f"q{level:g}" for level in levels}
    middle = levels[0] if levels else 0.5
    ends = ((side, sign * level) for level in task.conformal for side, sign in (("lo", -1), ("hi", 1)) if task.margins)
    return {"mean": "mean", f"{middle:g}": "mean"} | {f"{0.5 + end / 200:g}": f"{s}-{abs(end):g}" for s, end in ends}


def forecast_arrays(task: Forecasting, output: Tensor) -> Tensor:
    """Output (B, H, C, ...) of the head as (B, H, C, K) in the data's units, or (B, H, K) of one channel."""
    columns = task.columns(output)
    found = torch.stack([columns[name] for name in arrays_of(task).values()], -1)
    return found[:, :, 0] if len(task.channels) == 1 else found


class ForecastNetwork(nn.Module):
    """Windows as GluonTS batches them in, quantiles in the data's units out."""

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.model = model

    def forward(self, past_target: Tensor, past_observed_values: Tensor) -> tuple[tuple[Tensor], None, None]:
        """(B, L) or (B, L, C), twice, to ((B, H, K) or (B, H, C, K), no location, no scale)."""
        past, observed = rows_and_marks(past_target, past_observed_values)
        output = self.model({"past": past, "observed": observed})
        return (forecast_arrays(self.model.task, output),), None, None


class TitansPredictor(PyTorchPredictor):
    """Forecasts what follows the last row of each entry; make one with `TitansPredictor.of` or `predictor_of`.

    It is saved as GluonTS saves, with the weights as a checkpoint folder of ours in ``model/``: no pickle, and
    ``titans-seq forecast predict FOLDER TABLE`` reads it too. A model that reads streams reads all rows of an entry,
    in double precision; another its last ``lookback``.
    """

    @validated()
    def __init__(
        self, backbone: dict[str, Any], task: dict[str, Any], batch_size: int = 64, device: str = "auto"
    ) -> None:
        model = SequenceModel(BackboneConfig.model_validate(backbone), Forecasting.model_validate(task))
        super().__init__(
            input_names=PAST,
            prediction_net=ForecastNetwork(model).eval(),
            batch_size=batch_size,
            prediction_length=model.task.horizon,
            input_transform=reading(model.task) + windows(model.task, TestSplitSampler()),
            forecast_generator=QuantileForecastGenerator(list(arrays_of(model.task))),
            device=device,
        )

    @classmethod
    def of(cls, model: SequenceModel, batch_size: int = 64, device: str = "auto") -> "TitansPredictor":
        """A predictor with the weights of a model, which it copies."""
        configs = (config.model_dump(mode="json") for config in (model.backbone.config, model.task))
        predictor = cls(*configs, batch_size=batch_size, device=device)
        predictor.model.load_state_dict(model.state_dict())
        return predictor

    @property
    def model(self) -> SequenceModel:
        """What `save_pretrained` saves."""
        return self.prediction_net.model

    def predict(self, dataset: Dataset, num_samples: int | None = None) -> Iterator[QuantileForecast]:
        """Forecasts of all entries, in their order."""
        if self.model.task.reads == "window":
            yield from super().predict(dataset, num_samples)
            return
        for entry in read_target(self.model.task)(dataset, is_train=False):
            yield self._of_stream(entry)

    def _of_stream(self, entry: DataEntry) -> QuantileForecast:
        reader = Forecaster(self.model)
        rows = np.atleast_2d(entry["target"]).T
        reader.update(rows)
        arrays = forecast_arrays(self.model.task, reader.output())[0].movedim(-1, 0)
        return QuantileForecast(
            arrays.cpu().numpy(),
            start_date=entry["start"] + len(rows),
            forecast_keys=list(arrays_of(self.model.task)),
            item_id=entry.get("item_id"),
            info=entry.get("info"),
        )

    def serialize(self, path: Path) -> None:
        """Write the predictor into the folder ``path``."""
        RepresentablePredictor.serialize(self, path)
        save_pretrained(self.model, path / MODEL)

    @classmethod
    def deserialize(cls, path: Path, device: str | torch.device | None = None) -> "TitansPredictor":
        """Read what `serialize` wrote."""
        predictor = super(PyTorchPredictor, cls).deserialize(path)
        predictor.model.load_state_dict(load_pretrained(str(path / MODEL)).state_dict())
        return predictor if device is None else predictor.to(resolve_device(device))


def predictor_of(source: str | Path, batch_size: int = 64, device: str = "auto") -> TitansPredictor:
    """The predictor of a run, a checkpoint folder or a shipped model that forecasts.

    Entries must have the model's channels, in their order (`TitansPredictor.model.task.channels`).

    Raises:
        ModelError: if there is no such model, or it does not forecast.
    """
    model = load_pretrained(str(source))
    if model.task.kind != "forecasting":
        raise ModelError(f"{source} is a model for {model.task.kind}, which GluonTS does not know. Give a forecaster.")
    if model.task.covariates.location or model.task.zero_shot:
        reads = "takes its scale from a table" if model.task.zero_shot else "reads covariates"
        raise ModelError(f"{source} {reads}, and entries bring none here. Use titans-seq forecast predict.")
    return TitansPredictor.of(model, batch_size, device)
