"""The verb train, of both fields: a recipe carried out into a run folder, on one device or several."""

import math
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

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
    save_pretrained,
)
from titans_seq.data.windows import Items, LabelledSequences
from titans_seq.embedding import Patches
from titans_seq.errors import ConfigError, InputError, UsageError, warn
from titans_seq.files import (
    DRAFT,
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
from titans_seq.job import must_fit, parameters, prepare
from titans_seq.measured import FOLDER, SEEDS
from titans_seq.recipe import Recipe, differences, load_recipe
from titans_seq.training.calibration import calibrate, must_suffice
from titans_seq.training.world import Place, Strategy, World, joined, place_of

# What runs write into their folders; these say whether one is finished
_MARKS = ("manifest.json", SEEDS)
_OWN = re.compile(
    rf"checkpoints|events|{FOLDER}|metrics\.csv|model|recipe\.yaml|report\.html|seed-\d+"
    rf"|{'|'.join(map(re.escape, _MARKS))}"
)


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
        must_be_new(out, overwrite=overwrite, resume=resume, folder=True)
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
                _clear(out, overwrite, recipe)
                manifest = _begin(recipe, out, device, place, sums)
            clear_drafts(out)
            clear_drafts(out / "checkpoints")
            model, best, spent = _fitted(recipe, plan, out, device, world)
        facts = plan.facts | _ranks(place)
        calibrate(model, plan.validation, recipe.training.batch_size)
        save_pretrained(model, out / "model")
        result = {"validation": best, "seconds": round(spent, 1)}
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
) -> tuple[SequenceModel, dict[str, float], float]:
    """A model with the weights that were best on the validation items, their metrics, and the seconds it took."""
    from titans_seq.training.module import fit  # Lightning takes seconds, which only training needs

    torch.manual_seed(recipe.seed)
    model = SequenceModel(plan.backbone, plan.task)
    whole = load_backbone(model, recipe.start_from) if recipe.start_from else False
    model.to(device)
    training = recipe.training
    return model, *fit(model, plan.training, plan.validation, training, recipe.seed, out, device, world, whole)


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
        must_be_new(out, overwrite=overwrite, resume=resume, folder=True)
        if not (resume and (out / SEEDS).exists()):
            _clear(out, overwrite, recipe)
            write_text(out / "recipe.yaml", recipe.text())
            write_text(out / SEEDS, to_json({"status": "running"}))
        clear_drafts(out)
        runs = {name: _told(train(one, out / name, resume=resume, **options)) for name, one in each.items()}
        scores = {name: run["validation"] for name, run in runs.items()}
        monitor, sign = load_config(str(out / next(iter(runs))))[2].monitor
        best = max(
            scores, key=lambda name: -math.inf if math.isnan(scores[name][monitor]) else sign * scores[name][monitor]
        )
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
    if not backbone.padded and recipe.training.batch_size > 1 and _ragged(training):
        warn(
            "MAC as printed (mode: paper) reads what pads the shorter sequences of a batch, in training alone. "
            "Set training.batch_size=1, or give sequences of one length."
        )
    if recipe.training.freeze and not recipe.start_from:
        raise ConfigError(
            "training.freeze (--head-only) trains the head alone, and this backbone was never trained. Give one that "
            "was, as --backbone, or leave that out."
        )
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


def _ragged(items: Items) -> bool:
    return isinstance(items, LabelledSequences) and len({len(record) for record in items.records}) > 1


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


def _clear(out: Path, overwrite: bool, recipe: Recipe) -> None:
    """Remove from a folder that is held what an earlier run wrote there, and nothing else.

    Its manifest goes first, so that what a kill leaves never looks finished, and its recipe last. A recipe alone is
    what a kill left of a run that had hardly begun.

    Raises:
        UsageError: if it is no run folder, or one from which the new run reads.
    """
    entries = {e.name: e for e in out.iterdir() if e.name != LOCK and not e.name.startswith(DRAFT)}
    if entries.keys() <= {"recipe.yaml"}:
        return
    own = [name for name in entries if _OWN.fullmatch(name)]
    is_run = "recipe.yaml" in entries and (entries.keys() & set(_MARKS) or len(own) == len(entries))
    if not is_run:
        raise UsageError(
            f"{out} is not a run folder, so it is neither resumed nor overwritten: it holds other files, and no "
            "recipe.yaml with the manifest.json of a run. Choose another --out."
        )
    if not overwrite:
        raise UsageError(f"{out} lacks the manifest.json of a run and cannot be resumed. Begin anew with --overwrite.")
    reads = [*recipe.data.files(), *([find(recipe.start_from)] if recipe.start_from else [])]
    for file in reads:
        if any(file.resolve().is_relative_to(entries[name].resolve()) for name in own):
            raise UsageError(f"{file} is part of {out}, which --overwrite would empty. Choose another --out.")
    for name in sorted(own, key=lambda name: (name not in _MARKS, name == "recipe.yaml")):
        entry = entries[name]
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
