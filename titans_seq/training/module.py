"""The Lightning module of every task, and `fit`."""

import copy
import logging
import math
import time
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
from titans_seq.errors import ModelError, NumericFault, warn
from titans_seq.memory import Memory, NeuralMemory
from titans_seq.progress import Progress
from titans_seq.signals import Watch, watching
from titans_seq.training.config import Training
from titans_seq.training.evaluation import evaluate
from titans_seq.training.optimizer import optimizer
from titans_seq.training.order import Order, seed_step
from titans_seq.training.points import BEST, LAST, Metrics, load_point, save_point
from titans_seq.training.strategy import gathered_weights, load_optimizer, of_trainer, optimizer_of, weights_of, whole
from titans_seq.training.world import ALONE, World

EVALUATION_BATCH = 4  # times the training batch: no gradients are kept


class SequenceModule(L.LightningModule):
    """Trains a `SequenceModel`; steps are counted from the run's start, whatever process runs them."""

    model: SequenceModel
    watch: Watch
    progress: Progress
    metrics: Metrics

    def __init__(
        self,
        model: SequenceModel,
        train: Items,
        validation: Items,
        config: Training,
        seed: int,
        run: Path,
        world: World = ALONE,
        usable: bool = False,
    ):
        super().__init__()
        self.world, self.batch_size = world, config.batch_size // world.size
        self.model, self.items, self.validation, self.config = model, train, validation, config
        self.seed, self.run, self.usable = seed, run, usable
        self.total, self.interval = config.total(len(train)), config.interval(len(train))
        self.name, self.sign = model.task.monitor
        self.step = 0
        self.best: dict[str, float] = {}
        self.since_best = 0
        self.began = time.monotonic()
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
        rank, world = self.world.rank, self.world.size
        order = Order(self.items, self.batch_size, self.seed, self.step, self.total, rank, world)
        return DataLoader(order, batch_size=None)

    def on_train_start(self) -> None:
        """Take over the signals from Lightning, and put the optimiser where it was."""
        self.watch.arm()
        if self.optimizer_state is not None:
            load_optimizer(self.model, self._optimizer, self.optimizer_state)
            self.optimizer_state = None
        if self.usable and self.step == 0:  # then training hands on nothing worse than what it began with
            self._log({"step": 0, "epoch": 0} | self._validate())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Random numbers and rate of this step, whatever came before."""
        seed_step(self.seed, self.step, self.world.rank)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.rate(self.step, self.total)

    def training_step(self, batch: tuple[int, dict[str, Tensor]], batch_idx: int) -> Tensor:
        """Loss of one batch; not finite, it ends the run before the weights move."""
        inputs = batch[1]
        if self.config.first_length is not None:
            rows = self.config.rows(inputs["tokens"].shape[1], self.step, self.total)
            inputs = self.model.task.cut(inputs, rows)
        output = self.model(inputs)
        loss: Tensor = self.model.task.loss(output, inputs)
        self.last_loss, share = float(loss.detach()), 1.0
        if self.world.size > 1:  # a mean of means would give the bases of a rank with few of them too much weight
            terms = float(self.model.task.terms(output, inputs))
            parts = self.world.numbers(self.last_loss * terms, terms)
            loss_of_all, terms_of_all = parts.sum(0).tolist()
            self.last_loss, share = loss_of_all / max(terms_of_all, 1), terms / max(terms_of_all, 1)
        if not math.isfinite(self.last_loss):
            raise self._fault(f"The loss is {self.last_loss}", self.step + 1)
        return loss * (share * self.world.size) if self.world.size > 1 else loss  # ranks' gradients are averaged

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip; a gradient that is not finite ends the run before the weights move."""
        self.last_norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)).item()
        if not math.isfinite(self.last_norm):
            gradients = ((name, whole(p.grad)) for name, p in self.model.named_parameters() if p.grad is not None)
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
            self._log(row)
        caught = self.world.agreed(self.watch.caught)  # one that comes from here on is of the next step
        stop = self.config.patience is not None and self.since_best >= self.config.patience
        if due or stop or caught is not None or self.step % self.config.checkpoint_every == 0:
            self.save(finished=stop or self.step == self.total)
        best = f", best {self.name} {self.best[self.name]:.4f}" if self.best else ""
        self.progress.add(1, f"loss {self.last_loss:.4f}{best}")
        if caught is not None:
            self.watch.caught = caught
            self.watch.stop(f"{self.run} is saved at step {self.step}; the same command with --resume goes on.")
        if stop:
            self.trainer.should_stop = True

    # --- our own

    def _log(self, row: dict[str, float | int]) -> None:
        if self.world.first:
            self.metrics.write(row)
        self.logger.log_metrics({k: v for k, v in row.items() if k not in ("step", "epoch")}, self.step)  # type: ignore[union-attr]

    def _fault(self, what: str, step: int) -> NumericFault:
        file = self.run / "checkpoints" / LAST
        good = f"The last good point is {file}." if file.exists() else "No point was saved before."
        return NumericFault(
            f"{what} at step {step} of {self.run}. {good} "
            "Lower training.learning_rate or memory.learning.step, or look at the data of this batch."
        )

    def _validate(self) -> dict[str, float | int]:
        try:
            with self.trainer.precision_plugin.forward_context(), gathered_weights(self.model):
                size = EVALUATION_BATCH * self.batch_size
                scores = evaluate(self.model, self.validation, size, world=self.world)
        except NumericFault as fault:
            raise self._fault(f"Validation: {fault}", self.step) from None
        score, least = scores[self.name], self.best.get(self.name, math.nan)
        if math.isnan(score) and not self.best and self.world.first:
            warn(f"{self.run}: {self.name} of the validation items is no number, so that the last weights are kept.")
        better = math.isnan(least) or self.sign * (score - least) > 0
        self.since_best = 0 if better else self.since_best + 1
        if better:
            self.best = {"step": float(self.step), **scores}
            self._save(BEST, {"step": self.step, "model": weights_of(self.model)})
        return {f"validation_{name}": score for name, score in scores.items()}

    def save(self, finished: bool) -> None:
        """Write the point from which a later process goes on; never one that is not finite."""
        weights = weights_of(self.model)
        for name, parameter in weights.items():
            if not torch.isfinite(parameter).all():
                raise self._fault(f"{name} is no longer finite", self.step)
        self._save(
            LAST,
            {
                "step": self.step,
                "finished": finished,
                "model": weights,
                "optimizer": optimizer_of(self.model, self._optimizer),
                "best": self.best,
                "since_best": self.since_best,
                "seconds": time.monotonic() - self.began,
            },
        )

    def _save(self, name: str, content: dict[str, Any]) -> None:
        if self.world.first:
            save_point(self.run / "checkpoints" / name, content)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        """As torch has it, without Lightning's wrapping."""
        return self.optimizers().optimizer  # type: ignore[union-attr]

    def restore(self) -> bool:
        """Go back to the last point, if there is one; returns whether the run is finished."""
        file = self.run / "checkpoints" / LAST
        point = self.world.shared(lambda: load_point(file) if file.exists() else None)
        if point is None:
            return False
        try:
            self.model.load_state_dict(point["model"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise ModelError(f"{file} does not fit the recipe of its run: {error}") from None
        self.step, self.best, self.since_best = point["step"], point["best"], point["since_best"]
        self.began -= point.get("seconds", 0)  # of the processes before; points of earlier releases do not tell
        self.optimizer_state = point["optimizer"]
        return bool(point["finished"])


def fit(
    model: SequenceModel,
    train: Items,
    validation: Items,
    config: Training,
    seed: int,
    run: Path,
    device: str,
    world: World = ALONE,
    usable: bool = False,
) -> tuple[dict[str, float], float]:
    """Train ``model`` in place, resuming from the run's last point; it ends with the best weights.

    Args:
        model: a `SequenceModel`.
        train: items to train on.
        validation: items that choose the best weights.
        config: how long and how.
        seed: of the data's order, augmentation and dropout.
        run: folder of ``checkpoints/``, ``metrics.csv`` and ``events/``.
        device: ``cpu`` or ``cuda``.
        world: the ranks that train it together, each of which calls this; the first one writes into ``run``.
        usable: the model can be used as it is: its first weights are validated too, as those of step 0.

    Returns:
        Metrics of the best weights on the validation items with their ``step``, and the seconds that training took,
        those up to the last point of the processes before among them.

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
    trained = copy.deepcopy(model) if world.place.strategy == "fsdp" else model  # which is cut into parts
    module = SequenceModule(trained, train, validation, config, seed, run, world, usable)
    if not module.restore():
        with watching() as watch, Progress("training", "steps", module.total, module.step) as progress:
            module.watch, module.progress = watch, progress
            if world.first:
                module.metrics = Metrics(run / "metrics.csv", module.step)
            _trainer(module, config, run, device).fit(module)
    best = world.shared(lambda: load_point(run / "checkpoints" / BEST))
    model.load_state_dict(best["model"])
    for memory in model.modules():
        if isinstance(memory, NeuralMemory):  # what comes now, calibration too, is read as it will be by others
            memory.operands = "float32"
    return module.best, time.monotonic() - module.began


def _trainer(module: SequenceModule, config: Training, run: Path, device: str) -> L.Trainer:
    return L.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        **of_trainer(module.world.place),
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
