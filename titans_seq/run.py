"""What both fields share: the verb train, and the parts of those that write predictions."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch

from titans_seq import __version__
from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import (
    SequenceModel,
    check_backbone,
    find,
    for_tokens,
    load_backbone,
    load_config,
    load_pretrained,
    save_pretrained,
)
from titans_seq.data.record import printable
from titans_seq.data.shards import Shard
from titans_seq.data.shards import described as shard_facts
from titans_seq.data.windows import Items
from titans_seq.data.write import SUFFIXES, PartFile, RowFile, check_suffix
from titans_seq.embedding import Patches
from titans_seq.errors import ConfigError, EnvironmentFault, InputError, ModelError, UsageError, warn
from titans_seq.files import (
    LOCK,
    clear_drafts,
    locked,
    must_be_new,
    read_json,
    sha256,
    to_json,
    whole_folder,
    write_text,
)
from titans_seq.measured import SEEDS, Measured, keep_measured
from titans_seq.ops.matmul import use_fastest_exact_matmul
from titans_seq.recipe import Recipe, differences, load_recipe
from titans_seq.resources import data_file
from titans_seq.stream import Point, Steps, left_beside, run_stream
from titans_seq.training.calibration import calibrate, must_suffice
from titans_seq.training.world import Place, Strategy, World, joined, place_of

# --- what every verb needs


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
        use_fastest_exact_matmul()
    elif not torch.cuda.is_available():
        raise EnvironmentFault(
            f"--device cuda: this torch ({torch.__version__}) finds no CUDA device. Use --device cpu, "
            "or install a torch built for your GPU."
        )
    return device


def parameters(backbone: BackboneConfig, task: Any) -> int:
    """Number of parameters, counted without building the model."""
    with torch.device("meta"):
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


# --- train


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    dry_run: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    strategy: Strategy = "auto",
) -> dict[str, Any] | None:
    """Carry out a recipe into the run folder ``out``, on one device or several; see `place_of`.

    Several share the batches of the recipe, so that their number changes its results no more than rounding does, where
    nothing is dropped out at random.

    Returns:
        What the command reports; None in a process that is not the first of several.
    """
    device = prepare(device, recipe.threads, width=recipe.backbone.width)
    place = place_of(devices, num_nodes, strategy, device)
    must_share(recipe, place, device)
    if Path("-") in recipe.data.files():
        raise UsageError("A run can be resumed and repeated, so its data must be a file, not stdin.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, and a run is a folder. Choose another --out.")
    if dry_run:
        return {"run": str(out), **_plan(recipe, device).facts, **_ranks(place), "dry_run": True}
    if place.rank:
        follow(recipe, out, device, place)
        return None
    if (out / SEEDS).exists() and not overwrite:
        raise UsageError(f"{out} holds runs of several seeds. Give --seeds again, or choose another --out.")
    with locked(out / LOCK, out):
        must_be_new(out, overwrite=overwrite, resume=resume)
        manifest = _begun(recipe, out, device, place) if resume else None
        if manifest and manifest["status"] == "finished":
            if place.size > 1 and not place.starts:  # the others wait to hear of it
                with joined(place, device) as world:
                    world.shared(lambda: False)
            if not (out / "report.html").exists():
                _report(out)
            return {"run": str(out), **manifest["result"], "already_finished": True}
        sums = _sums(recipe)
        job = {"recipe": recipe.model_dump(mode="json"), "out": str(out), "device": device}
        with joined(place, device, ["-m", "titans_seq.rank"], job) as world:
            world.shared(lambda: True)
            plan = _plan(recipe, device)
            if manifest is None:
                _clear(out)
                manifest = _begin(recipe, out, device, place, sums)
            clear_drafts(out)
            clear_drafts(out / "checkpoints")
            began = time.monotonic()
            model, best = _fitted(recipe, plan, out, device, world)
        facts = plan.facts | _ranks(place)
        calibrate(model, plan.validation, recipe.training.batch_size)
        save_pretrained(model, out / "model")
        result = {"validation": best, "seconds": round(time.monotonic() - began, 1)}
        manifest |= {
            "status": "finished",
            "sizes": {name: facts[name] for name in ("parameters", "training_items", "validation_items", "steps")},
            "result": result,
            "model_sha256": sha256(out / "model" / "model.safetensors"),
        }
        write_text(out / "manifest.json", to_json(manifest))
        _report(out)
        return {"run": str(out), **facts, **result}


def follow(recipe: Recipe, out: Path, device: str, place: Place) -> None:
    """Take part, as any but the first rank, in a training that the first one carries out into ``out``."""
    with joined(place, device) as world:
        if world.shared(lambda: False):  # the first rank says whether there is something to train
            _fitted(recipe, _plan(recipe, device), out, device, world)


def _fitted(
    recipe: Recipe, plan: "_Plan", out: Path, device: str, world: World
) -> tuple[SequenceModel, dict[str, float]]:
    """A model with the weights that were best on the validation items, and their metrics."""
    from titans_seq.training.module import fit  # Lightning takes seconds, which only training needs

    torch.manual_seed(recipe.seed)
    model = SequenceModel(plan.backbone, plan.task)
    if recipe.start_from:
        load_backbone(model, recipe.start_from)
    model.to(device)
    return model, fit(model, plan.training, plan.validation, recipe.training, recipe.seed, out, device, world)


def must_share(recipe: Recipe, place: Place, device: str) -> None:
    """Let the ranks of a host share its cores, and refuse what they cannot share."""
    if place.size > 1 and device == "cpu" and recipe.threads is None:
        torch.set_num_threads(max(1, torch.get_num_threads() // place.devices))
    if recipe.training.batch_size % place.size:
        raise ConfigError(
            f"training.batch_size: {recipe.training.batch_size} items a step cannot be shared by {place.size} "
            "processes. Give a multiple."
        )
    if place.strategy == "fsdp" and place.size == 1:
        raise ConfigError("--strategy fsdp shares weights among devices. Give --devices N, or leave it out.")


def _ranks(place: Place) -> dict[str, Any]:
    """What a run says of its processes, where there are several."""
    return {"world_size": place.size, "strategy": place.strategy} if place.size > 1 else {}


def train_seeds(
    recipe: Recipe, out: Path, count: int, *, resume: bool = False, overwrite: bool = False, **options: Any
) -> dict[str, Any]:
    """Carry out a recipe with ``count`` seeds, each into a run folder of its own, ``out/seed-N``.

    The weights that are best by their own validation are handed on as ``out/model``; without a validation table each
    seed carves its own rows from the training table, as is usual (Caduceus), and so does not see the same ones.

    Args:
        recipe: its seed is the first.
        out: gets the runs, ``model/``, and ``seeds.json`` with what is returned.
        count: of runs.
        resume: go on where a stopped call left off; with more seeds than there were, train those too.
        overwrite: begin anew in a folder that exists.
        options: ``device`` and ``dry_run`` of `train`.

    Returns:
        The validation metrics of each run, their mean, least and largest, and which is handed on.
    """
    each = {
        f"seed-{seed}": recipe.model_copy(update={"seed": seed}) for seed in range(recipe.seed, recipe.seed + count)
    }
    if options.get("dry_run"):
        return {**_told(train(recipe, out, **options)), "seeds": list(each)}
    if place_of().size > 1:
        raise UsageError("--seeds trains one run after another; torchrun starts processes of one. Leave out either.")
    if (out / "checkpoints").is_dir() and not overwrite:
        raise UsageError(f"{out} is one run and not several. Choose another --out.")
    with locked(out / LOCK, out):
        must_be_new(out, overwrite=overwrite, resume=resume)
        if not (resume and (out / SEEDS).exists()):
            _clear(out)
            write_text(out / "recipe.yaml", recipe.text())
            write_text(out / SEEDS, to_json({"status": "running"}))
        clear_drafts(out)
        runs = {name: _told(train(one, out / name, resume=resume, **options)) for name, one in each.items()}
        scores = {name: run["validation"] for name, run in runs.items()}
        monitor, sign = load_config(str(out / next(iter(runs))))[2].monitor
        best = max(scores, key=lambda name: sign * scores[name][monitor])
        with whole_folder(out / "model") as draft:
            shutil.copytree(out / best / "model", draft, dirs_exist_ok=True)
        write_text(out / "recipe.yaml", each[best].text())
        found = {
            "run": str(out),
            "validation": _spread(list(scores.values())),
            "seeds": scores,
            "chosen_by": monitor,
            "best": best,
            "model": str(out / "model"),
        }
        write_text(out / SEEDS, to_json(found))
        return found


def _told(found: dict[str, Any] | None) -> dict[str, Any]:
    assert found is not None, "the first process reports"
    return found


def _spread(scores: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, least and largest of each metric that all have, over seeds."""
    names = [name for name in scores[0] if name != "step" and all(name in one for one in scores)]
    values = {name: [one[name] for one in scores] for name in names}
    return {name: {"mean": sum(v) / len(v), "min": min(v), "max": max(v)} for name, v in values.items()}


def _report(out: Path) -> None:
    from titans_seq.report import write_report  # on use: the page is the run's last work

    write_report(out)


class _Plan(NamedTuple):
    """A recipe with all that its data decide."""

    backbone: BackboneConfig
    task: Any
    training: Items
    validation: Items
    facts: dict[str, Any]


def _plan(recipe: Recipe, device: str) -> _Plan:
    """Read the data of a recipe and check that all of it can be carried out."""
    task, training, validation = recipe.data.parts(for_tokens(recipe.task, recipe.backbone), recipe.seed)
    must_suffice(task, len(validation))
    backbone = recipe.backbone.model_copy(update={"embedding": task.embedding(recipe.backbone.embedding)})
    count = parameters(backbone, task)
    must_fit(count, 4, "the backbone")
    if recipe.start_from:
        check_backbone(backbone, recipe.start_from)
        _must_train_what_is_new(recipe, backbone)
    facts = {
        "task": task.kind,
        "parameters": count,
        "training_items": len(training),
        "validation_items": len(validation),
        "steps": recipe.training.total(len(training)),
        "device": device,
        "weights_and_optimizer_bytes": 16 * count,
    }
    return _Plan(backbone, task, training, validation, facts)


def _must_train_what_is_new(recipe: Recipe, backbone: BackboneConfig) -> None:
    """Of a backbone whose patch embedding begins anew more than the head must be trained."""
    assert recipe.start_from
    if recipe.training.freeze and isinstance(backbone.embedding, Patches):
        there = load_config(recipe.start_from)[1].embedding
        if there != backbone.embedding:
            raise ConfigError(
                f"training.freeze trains the head alone, and patches of {backbone.embedding.features} numbers are not "
                f"those of {recipe.start_from}, so their embedding begins anew. Leave out training.freeze, or give "
                "task.patch, channels and covariates as they were there."
            )


def _sums(recipe: Recipe) -> dict[str, str]:
    """Sums of the files that a recipe reads."""
    return {str(file): sha256(file) for file in recipe.data.files()}


def _clear(out: Path) -> None:
    """Empty a run folder that is held, its recipe last: it tells what the folder is."""
    entries = sorted((e for e in out.iterdir() if e.name != LOCK), key=lambda e: e.name == "recipe.yaml")
    if entries and entries[-1].name != "recipe.yaml":
        raise UsageError(f"{out} is not a run folder, so --overwrite does not empty it. Choose another --out.")
    for entry in entries:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _begun(recipe: Recipe, out: Path, device: str, place: Place) -> dict[str, Any] | None:
    """Manifest of a run that was begun in ``out``, if one was, with this recipe and these data."""
    file = out / "recipe.yaml"
    if not file.is_file() or not (out / "manifest.json").is_file():
        return None
    there, now = load_recipe(file).model_dump(mode="json"), recipe.model_dump(mode="json")
    if changed := differences(there, now):
        raise ConfigError(f"{out} was begun with another recipe: {'; '.join(changed)}. Resume with the same one.")
    manifest = read_json(out / "manifest.json", "status", "data_sha256")
    if changed := differences(manifest["data_sha256"], _sums(recipe)):
        raise InputError(f"{out} was begun with other data; sums: {'; '.join(changed)}. Bring the old data back.")
    ranks = {name: manifest[name] for name in ("world_size", "strategy") if name in manifest}
    if manifest["status"] != "finished" and ranks != _ranks(place):
        told = (
            f"{r['world_size']} processes ({r['strategy']})" if r else "one process" for r in (ranks, _ranks(place))
        )
        raise ConfigError(f"{out} was begun by {' and is now resumed by '.join(told)}. Resume with as many.")
    here = _circumstances(device)
    changed = differences({key: manifest.get(key) for key in here}, here)
    if changed and manifest["status"] != "finished":
        warn(f"{out} was begun under other circumstances and will not repeat bit for bit: {'; '.join(changed)}.")
    return manifest


def _circumstances(device: str) -> dict[str, Any]:
    """What the numbers of a run depend on beside its recipe and data."""
    return {
        "titans_seq": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
    }


def _begin(recipe: Recipe, out: Path, device: str, place: Place, sums: dict[str, str]) -> dict[str, Any]:
    """Make the folder of a new run: its recipe and manifest."""
    manifest = {
        "schema_version": 1,
        "status": "running",
        "command": sys.argv,
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **_circumstances(device),
        **_ranks(place),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "seed": recipe.seed,
        "data_sha256": sums,
    }
    write_text(out / "recipe.yaml", recipe.text())
    write_text(out / "manifest.json", to_json(manifest))
    (out / "checkpoints").mkdir(exist_ok=True)
    return manifest


# --- predict


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
        path=printable(path),
        identity={printable(k): printable(v) for k, v in identity(source, [data_file(path)], **options).items()},
        when=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        titans_seq=__version__,
        found=found,
        drawn=drawn(),
    )
    try:
        keep_measured(run, one)
    except EnvironmentFault as error:
        warn(f"The report of {run} will not have this measurement: {error}")


def finished(out: Path, job: Job, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Check an output before any work is done; True if a resume finds it complete."""
    check_suffix(out, suffixes)
    out = job.target(out)
    must_be_new(out, overwrite=job.overwrite, resume=job.resume)
    done = job.resume and out.exists() and not job.overwrite
    if done and left_beside(out):
        with _held(out):
            for file in left_beside(out):
                file.unlink()
    return done


def _held(out: Path) -> AbstractContextManager[None]:
    """Keep other processes from writing ``out``."""
    return locked(out.with_name(f".{out.name}{LOCK}"), out)


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
        shard = span, shard_facts(out, job.part, span, kind, identity)
        identity = identity | {"shard": str(job.part)}
    with _held(target):
        return run_stream(
            steps, target, identity, resume=job.resume, template=template, kind=kind, shard=shard, **options
        )
