"""`TitansEstimator`: our backbones and forecast heads, trained as GluonTS trains."""

import math
from collections.abc import Iterable
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
from gluonts.core.component import validated
from gluonts.dataset.common import Dataset
from gluonts.dataset.loader import as_stacked_batches
from gluonts.itertools import Cyclic
from gluonts.torch.model.estimator import PyTorchLightningEstimator, TrainOutput
from gluonts.transform import ExpectedNumInstanceSampler, Transformation, ValidationSplitSampler
from pydantic import ValidationError
from torch import Tensor

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel
from titans_seq.errors import ConfigError, InputError
from titans_seq.gluonts.entries import frequency_of
from titans_seq.gluonts.predictor import FUTURE, PAST, TitansPredictor, reading, rows_and_marks, windows
from titans_seq.recipe import explain, load_backbone_config
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.training.config import Training
from titans_seq.training.optimizer import optimizer

# Of a window's deviation, in training deviations: in the loss a window that hardly moves would outweigh all others.
LEAST_SCALE = 0.01


class TitansModule(L.LightningModule):
    """Trains a `SequenceModel` on GluonTS' batches of windows.

    The loss of windows that are normalised one by one is taken in each one's deviations: in a panel, series with
    large numbers then count no more than others. Streams are trained as our own runs train them.
    """

    def __init__(self, model: SequenceModel, training: Training, batches_per_epoch: int):
        super().__init__()
        self.model, self.training_config, self.batches_per_epoch = model, training, batches_per_epoch

    def _loss(self, batch: dict[str, Tensor], train: bool) -> Tensor:
        task = self.model.task
        past, observed = rows_and_marks(*(batch[name] for name in PAST))
        future, future_observed = rows_and_marks(*(batch[name] for name in FUTURE))
        ours = {"past": past, "observed": observed, "future": future, "future_observed": future_observed}
        if task.reads == "stream":
            cut = {"open": torch.randint(1, task.open + 1, past.shape[:1], device=past.device)} if train else {}
            return task.loss(self.model(ours | cut), ours | cut)
        read, _ = self.model.read(ours, self.model.head.start(ours), None)
        location, scale = self.model.head.location, read.scale.clamp(min=LEAST_SCALE)
        ours["future"] = location + (future - location) / scale
        output = task.output.moved(self.model.head.result(read), torch.zeros_like(scale), 1 / scale)
        return task.loss(output, ours)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        loss = self._loss(batch, train=True)
        self.log("train_loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=len(batch[PAST[0]]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        loss = self._loss(batch, train=False)
        self.log("val_loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=len(batch[PAST[0]]))
        return loss

    def configure_optimizers(self) -> Any:
        """Our AdamW, its rate with warm-up and cosine decay over the steps, where their number is known."""
        config, trainer = self.training_config, self.trainer
        adam = optimizer(self.model, config)
        each = math.ceil(self.batches_per_epoch / trainer.accumulate_grad_batches)
        limits = [steps for steps in (trainer.max_steps, (trainer.max_epochs or 0) * each) if steps > 0]
        if not limits:
            return adam
        steps = min(limits)
        rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: config.rate(step, steps) / config.learning_rate)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


class TitansEstimator(PyTorchLightningEstimator):
    """Trains a Titans model on any GluonTS dataset; ``train(dataset)`` returns a `TitansPredictor`.

    Targets are (T,), or (C, T) where every entry has the same C; missing values are NaN. Covariates are not read,
    which is told once. Nothing is written but into ``default_root_dir`` of ``trainer_kwargs``: without it a temporary
    folder is used and removed.

    Args:
        prediction_length: rows to forecast, H.
        context_length: rows read before them, L; 96 if None, or what ``task`` says.
        backbone: name of a config (``titans-seq models list``), a YAML file, or the fields of a `BackboneConfig`.
        task: other fields of `Forecasting`: patch, stride, reads, normalisation, mixing, output ...
        lr: largest learning rate of AdamW.
        weight_decay: of weights, per unit of rate.
        batch_size: windows a batch.
        num_batches_per_epoch: GluonTS draws windows at random, so that an epoch is a number of batches.
        trainer_kwargs: of Lightning's Trainer; 100 epochs and clipped gradients if they do not say so.

    Raises:
        ConfigError: if backbone or task are not valid.
    """

    trainer_kwargs: dict[str, Any]

    @validated()
    def __init__(
        self,
        prediction_length: int,
        context_length: int | None = None,
        backbone: str | dict[str, Any] = "series_tiny",
        task: dict[str, Any] = {},  # noqa: B006  (copied by `validated`)
        lr: float = 3e-3,
        weight_decay: float = 0.1,
        batch_size: int = 32,
        num_batches_per_epoch: int = 50,
        trainer_kwargs: dict[str, Any] = {},  # noqa: B006
    ) -> None:
        try:
            self.training = Training(learning_rate=lr, weight_decay=weight_decay, batch_size=batch_size)
        except ValidationError as error:
            raise ConfigError(f"TitansEstimator: {explain(error)}.") from None
        default = {"max_epochs": 100, "gradient_clip_val": self.training.clip}
        super().__init__(trainer_kwargs={**default, **trainer_kwargs})
        self.prediction_length = prediction_length
        self.num_batches_per_epoch = num_batches_per_epoch
        size = {"horizon": prediction_length} | ({} if context_length is None else {"lookback": context_length})
        try:
            self.task = Forecasting.model_validate({**task, **size})
            fields = load_backbone_config(backbone) if isinstance(backbone, str) else backbone
            self.backbone = BackboneConfig.model_validate(fields)
        except ValidationError as error:
            raise ConfigError(f"TitansEstimator: {explain(error)}.") from None
        if self.task.conformal:
            raise ConfigError("TitansEstimator calibrates no intervals: leave task.conformal out.")
        if self.task.causal and not self.backbone.causal:
            raise ConfigError('TitansEstimator: reads "stream" needs a causal backbone: set direction to forward.')

    def train_model(self, training_data: Dataset, *arguments: Any, **options: Any) -> TrainOutput:
        """What `train` calls: the predictor, the trained network and Lightning's trainer.

        Raises:
            InputError: if no series is long enough for a window.
        """
        self.task = fitted(self.task, training_data)
        given = self.trainer_kwargs
        with TemporaryDirectory(prefix="titans-seq-") as folder:
            # a copy: GluonTS takes the callbacks out of it
            self.trainer_kwargs = {"default_root_dir": folder, "logger": "default_root_dir" in given, **given}
            try:
                return super().train_model(training_data, *arguments, **options)
            finally:
                self.trainer_kwargs = given

    def create_transformation(self) -> Transformation:
        """Entries to targets and marks of observation."""
        return reading(self.task)

    def create_lightning_module(self) -> TitansModule:
        """A new model."""
        backbone = self.backbone.model_copy(update={"embedding": self.task.embedding()})
        return TitansModule(SequenceModel(backbone, self.task), self.training, self.num_batches_per_epoch)

    def create_training_data_loader(
        self, data: Dataset, module: TitansModule, shuffle_buffer_length: int | None = None, **_: Any
    ) -> Iterable[Any]:
        """Batches of windows at random origins: in a pass over the data, one of each series on average."""
        sampler = ExpectedNumInstanceSampler(num_instances=1.0, min_past=1, min_future=self.task.horizon)
        return as_stacked_batches(
            windows(self.task, sampler).apply(Cyclic(data).stream(), is_train=True),
            batch_size=self.training.batch_size,
            shuffle_buffer_length=shuffle_buffer_length,
            field_names=PAST + FUTURE,
            output_type=torch.tensor,
            num_batches_per_epoch=self.num_batches_per_epoch,
        )

    def create_validation_data_loader(self, data: Dataset, module: TitansModule, **_: Any) -> Iterable[Any]:
        """Batches of the last window of each series."""
        sampler = ValidationSplitSampler(min_past=1, min_future=self.task.horizon)
        return as_stacked_batches(
            windows(self.task, sampler).apply(data, is_train=True),
            batch_size=self.training.batch_size,
            field_names=PAST + FUTURE,
            output_type=torch.tensor,
        )

    def create_predictor(self, transformation: Transformation, module: TitansModule) -> TitansPredictor:
        """The predictor of a trained network; ``transformation`` is its own."""
        return TitansPredictor.of(module.model, self.training.batch_size)


def fitted(task: Forecasting, data: Dataset) -> Forecasting:
    """The task with channels, frequency and scaling of the data: a typical series' mean and deviation of each channel.

    Typical is the median over series, so that one with large numbers does not make all others small.
    """
    moments: list[list[tuple[float, float]]] = []
    longest, frequency, channels = 0, "", 1
    for entry in data:
        if not moments:
            channels = 1 if np.ndim(entry["target"]) == 1 else len(entry["target"])
            frequency = frequency_of(entry)
        target = np.atleast_2d(np.asarray(entry["target"], np.float64))
        if len(target) != channels:
            raise InputError(f"Entry {entry.get('item_id', '')!r} has {len(target)} channels, the first {channels}.")
        longest = max(longest, target.shape[1])
        moments.append([_moments(row) for row in target])
    if longest <= task.horizon:
        raise InputError(
            f"The longest series has {longest} rows; {task.horizon + 1} are needed for a window: one to read, "
            f"{task.horizon} to forecast."
        )
    location, scale = np.nan_to_num(_medians(np.array(moments))).T
    return task.model_copy(
        update={
            "channels": ("y",) if channels == 1 else tuple(f"y{c}" for c in range(channels)),
            "frequency": frequency,
            "location": tuple(location.tolist()),
            "scale": tuple(np.where(scale > 0, scale, 1.0).tolist()),
        }
    )


def _moments(row: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of what is finite in a row (T,); NaN if nothing is."""
    known = row[np.isfinite(row)]
    return (float(known.mean()), float(known.std())) if len(known) else (np.nan, np.nan)


def _medians(moments: np.ndarray) -> np.ndarray:
    """Medians (C, 2) over the series of moments (n, C, 2), of those that have any."""
    known = [values[np.isfinite(values)] for values in moments.reshape(len(moments), -1).T]
    return np.array([np.median(values) if len(values) else 0.0 for values in known]).reshape(-1, 2)
