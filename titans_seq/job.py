"""What every verb shares: the machine made ready, the model, and the job that writes what it says of some input."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from titans_seq import __version__
from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, find, load_config, load_pretrained
from titans_seq.data.record import printable
from titans_seq.data.shards import Shard
from titans_seq.data.shards import described as shard_facts
from titans_seq.data.write import SUFFIXES, PartFile, RowFile, check_suffix
from titans_seq.errors import ConfigError, EnvironmentFault, ModelError, UsageError, warn
from titans_seq.files import held, must_be_new, read_json, sha256
from titans_seq.measured import Measured, keep_measured
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
from titans_seq.recipe import load_recipe
from titans_seq.resources import data_file, located
from titans_seq.stream import Point, Steps, left_beside, run_stream

NARROW = 256  # width up to which two threads gain nothing on one: benchmarks/results/threads.md


def prepare(device: str, threads: int | None, seed: int = 0, width: int | None = None) -> str:
    """Set the number of threads and the seed, and return ``cpu`` or ``cuda``.

    Without ``threads`` a backbone of a known ``width`` whose products are too small to share gets one, any other all
    cores.

    Raises:
        EnvironmentFault: if CUDA is asked for and not there.
    """
    torch.manual_seed(seed)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is None and device == "cpu" and width is not None and width <= NARROW:
        threads = 1
    if threads:
        torch.set_num_threads(threads)
    if device == "cpu":
        use_fastest_exact_arithmetic()
    elif not torch.cuda.is_available():
        raise EnvironmentFault(
            f"--device cuda: this torch ({torch.__version__}) finds no CUDA device. Use --device cpu, "
            "or install a torch built for your GPU."
        )
    return device


class _Unfilled(TorchFunctionMode):
    """Weights of shapes alone: what would fill or scale a tensor returns it as it is.

    To compute with a meta tensor torch imports its compiler, which takes longer than to load a small model.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        tensors = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
        fills = func.__name__.endswith("_") and not func.__name__.startswith("_")
        if len(tensors) == 1 and (fills or func.__name__ in ("mul", "div", "log")):
            return tensors[0]
        return func(*args, **kwargs)


def parameters(backbone: BackboneConfig, task: Any) -> int:
    """Number of parameters, counted without building the model."""
    with torch.device("meta"), _Unfilled():
        return sum(p.numel() for p in SequenceModel(backbone, task).parameters())


def must_fit(count: int, copies: int, what: str) -> None:
    """Refuse a model whose weights (times ``copies``: gradients, optimiser) do not fit this machine's memory."""
    need, there = 4 * count * copies, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > there:
        raise ConfigError(
            f"{what} has {count:,} parameters and needs {need:,} bytes; this machine has {there:,}. "
            "Choose a smaller backbone."
        )


def load(source: str, kind: str, device: str = "auto", threads: int | None = None, seed: int = 0) -> SequenceModel:
    """Load a model of the field ``kind`` for inference, and `prepare` for it.

    Raises:
        EnvironmentFault: if CUDA is asked for and not there.
        ModelError: if it is damaged, or of the other field.
        ConfigError: if it does not fit this machine.
    """
    _, backbone, task = load_config(source)
    if task.field != kind:
        raise ModelError(f"{source} is a model of task {task.kind}, for `titans-seq {task.field}`.")
    must_fit(parameters(backbone, task), 1, source)
    return load_pretrained(source).to(prepare(device, threads, seed, backbone.width))


@dataclass(frozen=True)
class Job:
    """Options of every verb that makes a file of what a model says of some input."""

    resume: bool = False  # go on where a stopped job left off
    overwrite: bool = False  # replace what is there
    dry_run: bool = False  # check and plan alone
    device: str = "auto"  # or ``cpu`` or ``cuda``
    threads: int | None = None
    seed: int = 0  # of everything random
    batch_size: int = 64  # records or windows read side by side

    @classmethod
    def among(cls, options: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The job that options ask for, and those that are not its own."""
        own = {field.name for field in fields(cls)} & options.keys()
        return cls(**{name: options[name] for name in own}), {n: v for n, v in options.items() if n not in own}

    def target(self, out: Path) -> Path:
        """The file that is written for ``out``."""
        return out

    def load(self, source: str, kind: str) -> SequenceModel:
        """The model of the job; arguments and errors as for `load`."""
        return load(source, kind, self.device, self.threads, self.seed)


@dataclass(frozen=True)
class SharedJob(Job):
    """Options of a verb of which several jobs may each do a part."""

    shard: str | None = None  # i/n: the i-th of n parts alone, for `titans_seq.gather`

    @property
    def part(self) -> Shard | None:
        """The part that is asked for."""
        return None if self.shard is None else Shard.parse(self.shard)

    def target(self, out: Path) -> Path:
        """The file that is written for ``out``."""
        return self.part.path(out) if self.part else out

    def refuse_state(self, carried: bool) -> None:
        """Refuse a part of what is read as one stream."""
        if self.part and carried:
            raise UsageError(
                f"--shard {self.shard}: a memory that goes from one record to the next, or to a file, is of all of "
                "them. Leave out --shard, or --state-in, --state-out and --reset."
            )


def data_of(source: str) -> Any:
    """The recipe's ``data`` of a model that is a run; None for a checkpoint folder alone."""
    recipe = find(source).parent / "recipe.yaml"
    return load_recipe(recipe).data if recipe.is_file() else None


def reading_of(source: str) -> dict[str, Any]:
    """Options that the training files of a model needed, and others like them are likely to need too."""
    data = data_of(source)
    return {} if data is None else data.model_dump(include=set(data.reading))


def dry(model: SequenceModel, **facts: Any) -> dict[str, Any]:
    """What a command reports that was asked to start nothing."""
    count = sum(p.numel() for p in model.parameters())
    device = next(model.parameters()).device.type
    return {
        "task": model.task.kind,
        "parameters": count,
        "weights_bytes": 4 * count,
        "device": device,
        **facts,
        "dry_run": True,
    }


def identity(source: str, inputs: list[Path], **options: Any) -> dict[str, str]:
    """What must not change between a job and its resume."""
    sums = {f"input {path}": sha256(path) for path in inputs if path.is_file() or path.is_dir()}  # no pipe: read once
    return {"model": sha256(find(source) / "model.safetensors"), **sums, **{k: str(v) for k, v in options.items()}}


def keep(
    source: str,
    verb: Literal["evaluate", "backtest"],
    path: str,
    found: dict[str, Any],
    drawn: Callable[[], dict[str, Any]] = dict,
    **options: Any,
) -> None:
    """Keep what was measured in the model's run folder, where it has one, for the run's report; see `Measured`.

    ``drawn`` makes what the report draws; it is called where something is kept.
    """
    run = find(source).parent
    if not (run / "recipe.yaml").is_file():
        return
    one = Measured(
        verb=verb,
        path=printable(located(path)),
        identity={printable(k): printable(v) for k, v in identity(source, [data_file(path)], **options).items()},
        when=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        titans_seq=__version__,
        found=found,
        drawn=drawn(),
    )
    manifest = run / "manifest.json"
    if verb == "evaluate" and manifest.is_file() and one.seen(read_json(manifest, "data_sha256")["data_sha256"]):
        warn(f"{source} was trained on {path}, or on a part of it: these scores say little about new data.")
    try:
        keep_measured(run, one)
    except EnvironmentFault as error:
        warn(f"The report of {run} will not have this measurement: {error}")


def finished(out: Path, job: Job, source: str, inputs: list[str], suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Check an output before any work is done; True if a resume finds it complete.

    A finished file does not say what made it: where the model or an input is younger than it, that is told.
    """
    check_suffix(out, suffixes)
    out = job.target(out)
    must_be_new(out, overwrite=job.overwrite, resume=job.resume)
    done = job.resume and out.exists() and not job.overwrite
    if done:
        # without `find`, which may go to a hub, and fails where a model is gone
        model = (Path(source) / name for name in ("model.safetensors", "model/model.safetensors"))
        made_of = [path for path in (*model, *map(Path, inputs)) if path.is_file()]
        if changed := [str(path) for path in made_of if path.stat().st_mtime > out.stat().st_mtime]:
            warn(
                f"{out} was finished before {' and '.join(changed)} was last written, and stays as it is. "
                "To make it again add --overwrite."
            )
    if done and left_beside(out):
        with held(out):
            for file in left_beside(out):
                file.unlink()
    return done


def must_differ(out: Path, option: str, other: Path | None) -> None:
    """Refuse two outputs of one name.

    Raises:
        UsageError: if they are.
    """
    if other is not None and other.absolute() == out.absolute():
        raise UsageError(f"{option} is the file of --out, {out}. Give it another name.")


def check_state_files(state_in: Path | None, state_out: Path | None, may_exist: bool) -> None:
    """Check the files that a memory is read from and written to, before any work is done."""
    if state_in is not None and not state_in.is_file():
        raise UsageError(f"{state_in} is not there. Give the file that an earlier --state-out wrote.")
    if state_out is not None:
        if state_in is not None and state_in.resolve() == state_out.resolve():
            raise UsageError(
                f"--state-out is the file of --state-in, {state_in}: a stopped command could not be resumed. "
                "Give it another name."
            )
        must_be_new(state_out, overwrite=may_exist)


def about(source: str, **facts: str) -> dict[str, str]:
    """What a state file says of itself: the sum and the name of the model that it belongs to."""
    return {**identity(source, []), "name": source, **facts}


def write(
    out: Path,
    steps: Callable[[Point], Steps],
    identity: dict[str, str],
    *,
    job: Job,
    template: Callable[[Point], Any] = lambda point: None,
    units: Callable[[], Iterable[tuple[int, int]]] = tuple,
    kind: Callable[[Path, int], PartFile] = RowFile,
    **options: Any,
) -> int:
    """Run a streaming job into ``out``, which no second process may write at the same time; see `run_stream`.

    Of a job that is a part ``units`` say what is read together, see `Shard.span`.
    """
    shard, target = None, job.target(out)
    if isinstance(job, SharedJob) and job.part:
        span = job.part.span(units())
        if not span:
            smaller = f" A smaller --batch-size than {job.batch_size}, the same in all shards, may make more of it."
            warn(
                f"--shard {job.part} has nothing to do: what is read together stays together, and of that there is too "
                f"little for {job.part.total} shards.{smaller if job.batch_size > 1 else ''}"
            )
        shard = span, shard_facts(out, job.part, span, kind, identity)
        identity = identity | {"shard": str(job.part)}
    with held(target):
        return run_stream(
            steps, target, identity, resume=job.resume, template=template, kind=kind, shard=shard, **options
        )
