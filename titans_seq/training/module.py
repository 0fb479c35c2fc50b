"""The Lightning module of every task, and `fit`."""

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from titans_seq.checkpoint import SequenceModel
from titans_seq.data.windows import Items
from titans_seq.errors import ModelError, NumericFault
from titans_seq.memory import Memory, NeuralMemory
from titans_seq.progress import Progress
from titans_seq.signals import Watch, watching
from titans_seq.training.config import Training
from titans_seq.training.evaluation import evaluate
from titans_seq.training.optimizer import optimizer
from titans_seq.training.order import Order, seed_step
from titans_seq.training.points import BEST, LAST, Metrics, load_point, save_point

EVALUATION_BATCH = 4  # times the training batch: no gradients are kept


class SequenceModule(L.LightningModule):
    """Trains a `SequenceModel`; steps are counted from the run's start, whatever process runs them."""

    model: SequenceModel
    watch: Watch
    progress: Progress
    metrics: Metrics

    def __init__(self, model: SequenceModel, train: Items, validation: Items, config: Training, seed: int, run: Path):
        super().__init__()
        self.model, self.items, self.validation, self.config = model, train, validation, config
        self.seed, self.run = seed, run
        self.total, self.interval = config.total(len(train)), config.interval(len(train))
        self.name, self.sign = model.task.monitor
        self.step = 0
        self.best: dict[str, float] = {}
        self.since_best = 0
        self.optimizer_state: dict[str, Any] | None = None
        model.backbone.truncate, model.backbone.recompute = config.truncate, config.recompute
        if config.freeze:
            model.backbone.requires_grad_(False)

    # --- what Lightning asks for

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained."""
        return optimizer(self.model, self.config)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the step where this process starts."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        order = Order(self.items, self.config.batch_size, self.seed, self.step, self.total, rank, world)
        return DataLoader(order, batch_size=None)

    def rows(self, length: int, first: int) -> int:
        """Into how many rows a window of ``length`` is cut at this step: a power of two, from the one that gives rows
        of ``first`` tokens down to 1 half-way through the run."""
        most = max(0, int(math.log2(length / first)))
        return int(2 ** max(0, most - int((most + 1) * 2 * self.step / self.total)))

    def on_train_start(self) -> None:
        """Take over the signals from Lightning, and put the optimiser where it was."""
        self.watch.arm()
        if self.optimizer_state is not None:
            self.optimizers().optimizer.load_state_dict(self.optimizer_state)  # type: ignore[union-attr]
            self.optimizer_state = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Random numbers and rate of this step, whatever came before."""
        seed_step(self.seed, self.step, self.global_rank)
        for group in self.optimizers().optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = self.config.rate(self.step, self.total)

    def training_step(self, batch: tuple[int, dict[str, Tensor]], batch_idx: int) -> Tensor:
        """Loss of one batch; not finite, it ends the run before the weights move."""
        inputs = batch[1]
        if self.config.first_length is not None:
            inputs = self.model.task.cut(inputs, self.rows(inputs["tokens"].shape[1], self.config.first_length))
        loss: Tensor = self.model.task.loss(self.model(inputs), inputs)
        self.last_loss = float(loss.detach())
        if not math.isfinite(self.last_loss):
            raise self._fault(f"The loss is {self.last_loss}", self.step + 1)
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip; a gradient that is not finite ends the run before the weights move."""
        self.last_norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        if not math.isfinite(self.last_norm):
            gradients = ((name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None)
            names = [f"gradient of {name}" for name, gradient in gradients if not torch.isfinite(gradient).all()]
            raise self._fault(f"The {(names or ['norm of the gradient'])[0]} is not finite", self.step + 1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, log, validate, save, and look whether to stop."""
        self.step += 1
        rate = self.config.rate(self.step - 1, self.total)
        row: dict[str, float | int] = {
            "step": self.step,
            "epoch": self.step * self.config.batch_size // max(1, len(self.items)),
            "learning_rate": rate,
            "train_loss": self.last_loss,
            "gradient_norm": self.last_norm,
        }
        due = self.step % self.interval == 0 or self.step == self.total
        if due:
            row |= self._validate()
        if due or self.step % self.config.log_every == 0:
            self.metrics.write(row)
            self.logger.log_metrics({k: v for k, v in row.items() if k not in ("step", "epoch")}, self.step)  # type: ignore[union-attr]
        stop = self.config.patience is not None and self.since_best >= self.config.patience
        if due or stop or self.watch.caught is not None or self.step % self.config.checkpoint_every == 0:
            self.save(finished=stop or self.step == self.total)
        best = f", best {self.name} {self.best[self.name]:.4f}" if self.best else ""
        self.progress.add(1, f"loss {self.last_loss:.4f}{best}")
        self.watch.stop(f"{self.run} is saved at step {self.step}; the same command with --resume goes on.")
        if stop:
            self.trainer.should_stop = True

    # --- our own

    def _fault(self, what: str, step: int) -> NumericFault:
        file = self.run / "checkpoints" / LAST
        good = f"The last good point is {file}." if file.exists() else "No point was saved before."
        return NumericFault(
            f"{what} at step {step} of {self.run}. {good} "
            "Lower training.learning_rate or memory.learning.step, or look at the data of this batch."
        )

    def _validate(self) -> dict[str, float | int]:
        try:
            with self.trainer.precision_plugin.forward_context():
                scores = evaluate(self.model, self.validation, EVALUATION_BATCH * self.config.batch_size)
        except NumericFault as fault:
            raise self._fault(f"Validation: {fault}", self.step) from None
        better = not self.best or self.sign * (scores[self.name] - self.best[self.name]) > 0
        self.since_best = 0 if better else self.since_best + 1
        if better:
            self.best = {"step": float(self.step), **scores}
            save_point(self.run / "checkpoints" / BEST, {"step": self.step, "model": self.model.state_dict()})
        return {f"validation_{name}": score for name, score in scores.items()}

    def save(self, finished: bool) -> None:
        """Write the point from which a later process goes on; never one that is not finite."""
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise self._fault(f"{name} is no longer finite", self.step)
        save_point(
            self.run / "checkpoints" / LAST,
            {
                "step": self.step,
                "finished": finished,
                "model": self.model.state_dict(),
                "optimizer": self.optimizers().optimizer.state_dict(),  # type: ignore[union-attr]
                "best": self.best,
                "since_best": self.since_best,
            },
        )

    def restore(self) -> bool:
        """Go back to the last point, if there is one; returns whether the run is finished."""
        file = self.run / "checkpoints" / LAST
        if not file.exists():
            return False
        point = load_point(file)
        try:
            self.model.load_state_dict(point["model"])
        except (RuntimeError, KeyError) as error:
            raise ModelError(f"{file} does not fit the recipe of its run: {error}") from None
        self.step, self.best, self.since_best = point["step"], point["best"], point["since_best"]
        self.optimizer_state = point["optimizer"]
        return bool(point["finished"])


def fit(
    model: SequenceModel, train: Items, validation: Items, config: Training, seed: int, run: Path, device: str
) -> dict[str, float]:
    """Train ``model`` in place, resuming from the run's last point; it ends with the best weights.

    Args:
        model: a `SequenceModel`.
        train: items to train on.
        validation: items that choose the best weights.
        config: how long and how.
        seed: of the data's order, augmentation and dropout.
        run: folder of ``checkpoints/``, ``metrics.csv`` and ``events/``.
        device: ``cpu`` or ``cuda``.

    Returns:
        Metrics of the best weights on the validation items, and their ``step``.

    Raises:
        NumericFault: if a loss or gradient is not finite.
        Interrupted: after a signal, with the run saved.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # bf16 rows, float32 gain
    for memory in model.modules():
        if isinstance(memory, Memory):
            memory.backend = config.backend
        if isinstance(memory, NeuralMemory) and config.precision == "bf16":
            memory.operands = "bfloat16"
    module = SequenceModule(model, train, validation, config, seed, run)
    if not module.restore():
        with watching() as watch, Progress("training", "steps", module.total, module.step) as progress:
            module.watch, module.progress = watch, progress
            module.metrics = Metrics(run / "metrics.csv", module.step)
            _trainer(module, config, run, device).fit(module)
    best = load_point(run / "checkpoints" / BEST)
    model.load_state_dict(best["model"])
    return module.best


def _trainer(module: SequenceModule, config: Training, run: Path, device: str) -> L.Trainer:
    return L.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        max_steps=module.total - module.step,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        logger=TensorBoardLogger(run, name="", version="events"),
        default_root_dir=run,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=config.log_every,
    )
