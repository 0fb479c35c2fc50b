"""Small models on tasks: each trained at the rate that a validation set chose, and tested once."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from pydantic import ValidationError
from torch import Tensor, nn

from titans_seq.backbone import Backbone, BackboneConfig
from titans_seq.bench.results import Results
from titans_seq.bench.synthetic import NOTHING, Drawn
from titans_seq.blocks import AttentionOnly
from titans_seq.memory_state import MemoryState
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
from titans_seq.progress import Progress
from titans_seq.signals import Watch
from titans_seq.stream.walk import block_size
from titans_seq.training.config import Training
from titans_seq.training.optimizer import optimizer

RATES = (3e-3, 1e-2)  # of which the first seed's validation chooses, for each model and task
SEEDS = (0, 1, 2)
TRAIN, VALIDATION, TEST = 1, 2, 3  # streams of random numbers under one seed
VALIDATED = 16_384  # tokens that choose a rate
SIDE_BY_SIDE = 16_384  # tokens that a test draws and reads at once, or one sequence
SHARED = {"steps", "batch_size", "weight_decay", "clip", "first_length"}  # of a task's training, by all its trials
QUADRATIC = 4096  # tokens up to which attention to everything before is tested: its time grows with the square

Value = TypeVar("Value")
Draw = Callable[[Generator, int, int], Drawn]  # (random numbers, length, batch)


class Draws(NamedTuple):
    """What a task is trained on, what chooses the rate, and what it is tested on."""

    train: Draw
    validation: Draw
    test: Draw


class Task(NamedTuple):
    """What is asked, how long it is trained, and where it is tested."""

    draws: Draws
    vocabulary: int
    classes: int
    length: int  # tokens of a sequence in training
    training: Training  # but for the rate
    tests: Mapping[int, int]  # sequences by length
    conv: int = 4  # kernel of the memories' convolutions
    source: str = ""  # file that it draws from

    def facts(self) -> dict[str, Any]:
        """What results of this task have in common."""
        training = self.training.model_dump(mode="json", include=SHARED)
        return {
            "length": self.length,
            "conv": self.conv,
            **training,
            "tests": {str(k): n for k, n in self.tests.items()},
        }


class Score(NamedTuple):
    """How well targets were met, over sequences."""

    nats: float  # summed negative log-likelihood of the targets
    asked: int
    hits: int  # targets that were the likeliest class
    sequences: int
    whole: int  # sequences all of whose targets were


class Model(nn.Module):
    """A backbone that reads tokens of any vocabulary, with a linear head."""

    def __init__(self, config: BackboneConfig, vocabulary: int, classes: int):
        super().__init__()
        self.backbone = Backbone(config)
        self.backbone.embedding = nn.Embedding(vocabulary, config.width)
        self.head = nn.Linear(config.width, classes)

    def forward(self, tokens: Tensor, asked: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """Logits (n, C) at the n places of (B, T) that are ``asked``, and the state behind the tokens."""
        hidden, state = self.backbone(tokens, state)
        return self.head(hidden[asked]), state


def train(model: Model, task: Task, rate: float, seed: int, watch: Watch) -> bool:
    """Train ``model`` in place; returns whether every loss was finite, and stops at one that is not."""
    config = task.training.model_copy(update={"learning_rate": rate})
    rng, steps = np.random.default_rng([seed, TRAIN]), config.total(0)
    optimiser = optimizer(model, config)
    for step in range(steps):
        watch.stop("The same command goes on.")
        rows = config.rows(task.length, step, steps)  # of a sequence's tokens, shorter ones in the beginning
        tokens, targets = map(torch.from_numpy, task.draws.train(rng, task.length // rows, config.batch_size * rows))
        asked = targets != NOTHING
        loss = F.cross_entropy(model(tokens, asked)[0], targets[asked])
        if not math.isfinite(float(loss.detach())):
            return False
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step, steps)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
    return True


@torch.inference_mode()
def score(model: Model, drawn: Drawn) -> Score:
    """Read sequences as a stream, block by block, and compare with their targets."""
    tokens, targets = map(torch.from_numpy, drawn)
    state, size = None, block_size(model.backbone.config)
    right = torch.ones(len(tokens), dtype=torch.bool)
    nats, hits = 0.0, 0
    for block, target in zip(tokens.split(size, 1), targets.split(size, 1), strict=True):
        asked = target != NOTHING
        logits, state = model(block, asked, state)
        hit = logits.argmax(-1) == target[asked]
        nats += float(F.cross_entropy(logits, target[asked], reduction="sum"))
        hits += int(hit.sum())
        right[asked.nonzero()[:, 0][~hit]] = False
    return Score(nats, int((targets != NOTHING).sum()), hits, len(tokens), int(right.sum()))


def total(parts: Sequence[Score]) -> Score:
    """The scores of some sequences as one."""
    nats, *whole = (sum(column) for column in zip(*parts, strict=True))
    return Score(nats, *map(int, whole))


def scored(model: Model, draw: Draw, seed: Sequence[int], length: int, sequences: int) -> Score:
    """Score of ``sequences`` of a length, drawn and read some at a time."""
    rng, most = np.random.default_rng(seed), max(1, SIDE_BY_SIDE // length)
    counts = [min(most, sequences - first) for first in range(0, sequences, most)]
    return total([score(model, draw(rng, length, count)) for count in counts])


def trained(
    config: BackboneConfig, task: Task, seed: int, rates: Sequence[float], watch: Watch
) -> tuple[Model, dict[str, Any]]:
    """Train at each of ``rates``, and keep the model of the least validation loss.

    Returns:
        That model, and its facts. ``validation``: nats a target by rate, infinite where training was; the ``rate``
        that was chosen; ``parameters``.

    Raises:
        Interrupted: after a signal, at the end of a step.
    """
    losses: dict[float, float] = {}
    kept: dict[float, Model] = {}
    for rate in rates:
        torch.manual_seed(seed)
        model = Model(config, task.vocabulary, task.classes)
        finite = train(model, task, rate, seed, watch)
        count = max(1, VALIDATED // task.length)
        found = scored(model.eval(), task.draws.validation, [seed, VALIDATION], task.length, count)
        losses[rate] = found.nats / found.asked if finite and math.isfinite(found.nats) else math.inf
        kept[rate] = model
    chosen = min(losses, key=lambda rate: losses[rate])
    return kept[chosen], {
        "parameters": sum(p.numel() for p in kept[chosen].parameters()),
        "validation": {f"{rate:g}": loss for rate, loss in losses.items()},
        "rate": chosen,
    }


def trial(config: BackboneConfig, task: Task, seed: int, rates: Sequence[float], watch: Watch) -> dict[str, Any]:
    """The facts of `trained`, and ``test``: its `Score` by length, of every length that it can be expected to read."""
    model, facts = trained(config, task, seed, rates, watch)
    full = isinstance(config.block, AttentionOnly) and config.block.window is None
    tests = {length: count for length, count in task.tests.items() if not full or length <= QUADRATIC}
    return {
        **facts,
        "test": {str(n): scored(model, task.draws.test, [seed, TEST], n, tests[n])._asdict() for n in tests},
    }


# --- many trials


def key_of(task: str, model: str, seed: int) -> str:
    """Name of a cell."""
    return f"{task}, {model}, seed {seed}"


def settings(tasks: Mapping[str, Task], threads: int) -> dict[str, Any]:
    """Set torch up, and return what all cells of a file have in common."""
    torch.set_num_threads(threads)
    return {
        "threads": threads,
        "rates": list(RATES),
        "float32_products": use_fastest_exact_arithmetic(),
        "tasks": {name: task.facts() for name, task in tasks.items()},
    }


def is_there(wanted: Mapping[str, Any], cell: dict[str, Any] | None) -> bool:
    """Whether a cell is of the file and the model that are wanted; what a config has gained since counts as default."""
    try:
        return (
            cell is not None
            and cell["source"] == wanted["source"]
            and BackboneConfig.model_validate(cell["backbone"]) == BackboneConfig.model_validate(wanted["backbone"])
        )
    except ValidationError:
        return False


Models = Callable[[Task], Mapping[str, BackboneConfig]]  # backbones by name, for a task


def trials(tasks: Mapping[str, Task], models: Models, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """What is known of the cell of each trial before it is made, by key, seed by seed."""
    wanted: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        for name, task in tasks.items():
            for model, config in models(task).items():
                about = {"task": name, "model": model, "seed": seed, "source": task.source}
                wanted[key_of(name, model, seed)] = {**about, "backbone": config.model_dump(mode="json")}
    return wanted


def rates_of(results: Results, cell: Mapping[str, Any], first: int) -> Sequence[float]:
    """Rates to train at: that which the ``first`` seed chose for a model and a task, or those to choose from."""
    chosen = results.cells.get(key_of(cell["task"], cell["model"], first))
    return RATES if cell["seed"] == first or chosen is None else (chosen["rate"],)


def measure(results: Results, tasks: Mapping[str, Task], models: Models, seeds: Sequence[int], watch: Watch) -> None:
    """Carry out the trials that ``results`` do not have yet, or of another model or file, seed by seed.

    The first seed chooses a model's rate for a task.
    """
    wanted = trials(tasks, models, seeds)
    missing = {key: cell for key, cell in wanted.items() if not is_there(cell, results.cells.get(key))}
    with Progress("measuring", "trials", len(wanted), len(wanted) - len(missing)) as progress:
        for key, cell in missing.items():
            config, rates = BackboneConfig.model_validate(cell["backbone"]), rates_of(results, cell, seeds[0])
            results.keep(key, {**cell, **trial(config, tasks[cell["task"]], cell["seed"], rates, watch)})
            progress.add(1, key)


def values(
    cells: Iterable[dict[str, Any]], task: str, model: str, value: Callable[[dict[str, Any]], Value]
) -> dict[int, list[Value]]:
    """What ``value`` makes of the `Score` of every seed, by the length of the test."""
    tests = [cell["test"] for cell in cells if cell["task"] == task and cell["model"] == model]
    lengths = sorted({int(length) for test in tests for length in test})
    return {n: [value(test[str(n)]) for test in tests if str(n) in test] for n in lengths}


def interval(hits: int, asked: int) -> tuple[float, float]:
    """Bounds of the share behind ``hits`` of ``asked`` with 95 % confidence (Wilson 1927)."""
    z, share = 1.96, hits / asked
    centre, spread = share + z * z / (2 * asked), z * math.sqrt(share * (1 - share) / asked + (z / (2 * asked)) ** 2)
    return tuple((centre + sign * spread) / (1 + z * z / asked) for sign in (-1, 1))  # type: ignore[return-value]
