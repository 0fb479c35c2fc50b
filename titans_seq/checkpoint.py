"""A checkpoint is a folder: ``config.json`` and ``task.json`` say what to build, ``model.safetensors`` fills it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from titans_seq.backbone import Backbone, BackboneConfig
from titans_seq.embedding import Patches, other_strand
from titans_seq.errors import ModelError, inform
from titans_seq.files import sha256, whole_folder
from titans_seq.memory_state import MemoryState
from titans_seq.tasks import Task

SCHEMA = 1  # of config.json and task.json; a reader refuses what is newer and reads all that is older
REQUIRED = ("config.json", "task.json", "model.safetensors", "SHA256SUMS")


OF_BASES = ("tokens", "masked")  # parts of a batch, (B, T), that hold a base a place


def mean_of(a: Any, b: Any) -> Any:
    """Mean of two outputs of one head, tensors or named tuples of them."""
    return (a + b) / 2 if isinstance(a, Tensor) else type(a)(*map(mean_of, a, b))


def for_tokens(task: Any, backbone: BackboneConfig) -> Any:
    """The task with the words that a backbone reads side by side, where it predicts them."""
    return task.model_copy(update={"word": backbone.embedding.stride}) if hasattr(task, "word") else task


def to_tensors(batch: dict[str, np.ndarray], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """A collated batch as tensors on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in batch.items()}


class SequenceModel(nn.Module):
    """A backbone and the head of a task: batches in, what the task's columns are made of out."""

    task: Any  # one of `Task`: what is called here all of them have, and each its own fields beside
    head: Any

    def __init__(self, backbone: BackboneConfig, task: Task):
        super().__init__()
        self.task = for_tokens(task, backbone)
        self.backbone = Backbone(backbone)
        self.head = self.task.head(backbone.width)

    def hidden(
        self, batch: dict[str, Tensor], state: MemoryState | None = None, head: Any = None
    ) -> tuple[Tensor, MemoryState]:
        """Hidden rows (B, T, D) for a head, the model's own if none is given, and the next state.

        Of an equivariant backbone a row is the mean of both strands: those of the other strand are the same, turned
        around. A head that tells strands apart (``stranded``) gets both halves, (B, T, 2 D).
        """
        head = self.head if head is None else head
        rows, state = self.backbone(head.inputs(batch), state)
        if self.backbone.config.equivariant and not getattr(head, "stranded", False):
            rows = rows.unflatten(-1, (2, -1)).mean(-2)
        return rows, state

    def read(self, batch: dict[str, Tensor], so_far: Any, state: MemoryState | None) -> tuple[Any, MemoryState]:
        """Read one block of a stream: fold it into what the head keeps, and carry the memory on."""
        hidden, state = self.hidden(batch, state)
        return self.head.fold(so_far, hidden, batch), state

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Read whole inputs from the start."""
        return self.head.result(self.read(batch, self.head.start(batch), None)[0])

    def of_both_strands(self, batch: dict[str, Tensor]) -> Any:
        """Mean of what whole inputs and their other strands give: the same for both, whatever the model is."""
        other = {name: other_strand(part) if name in OF_BASES else part for name, part in batch.items()}
        turned = getattr(self.head, "turned", lambda output, tokens: output)  # what runs along a sequence
        return mean_of(self(batch), turned(self(other), batch["tokens"]))


def save_pretrained(model: SequenceModel, folder: Path, card: str = "") -> None:
    """Write ``model`` as a folder that can be handed on; the folder appears whole or not at all."""
    from safetensors.torch import save

    with whole_folder(folder) as draft:
        for name, config in (("config", model.backbone.config), ("task", model.task)):
            text = json.dumps({"schema_version": SCHEMA, **config.model_dump(mode="json")}, indent=2)
            (draft / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        (draft / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
        (draft / "README.md").write_text(card or _card(model), encoding="utf-8")
        sums = [f"{sha256(file)}  {file.name}\n" for file in sorted(draft.iterdir())]
        (draft / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def _card(model: SequenceModel) -> str:
    c = model.backbone.config
    count = sum(p.numel() for p in model.parameters())
    reads = f"direction {c.direction}{', equivariant' if c.equivariant else ''}"
    return (
        f"# titans-seq model\n\n{model.task.kind}, {count:,} parameters: {c.depth} blocks ({c.block.kind}) of width "
        f"{c.width}, {c.heads} heads, {reads}, memory {c.memory.structure.kind}, chunk {c.memory.chunk_size}.\n\n"
        "```python\nfrom titans_seq import load_pretrained\n\nmodel = load_pretrained('THIS FOLDER')\n```\n"
    )


def find(source: str) -> Path:
    """Return the folder of ``source``: a run or checkpoint folder, a shipped backbone, or ``hf://owner/name``.

    Raises:
        ModelError: if there is no such thing; says what there is.
    """
    if source.startswith("hf://"):
        from huggingface_hub import snapshot_download  # on use: everything else is offline

        try:
            return Path(snapshot_download(source.removeprefix("hf://")))
        except Exception as error:  # the hub client raises a family of its own, of the network and of itself
            raise ModelError(
                f"{source} could not be fetched: {error}. Without a network give the path of a local folder."
            ) from error
    path = Path(source)
    if path.is_dir():
        if (path / "recipe.yaml").is_file() and not (path / "model").is_dir():
            raise ModelError(f"{path} is a run without a finished model. Finish it with --resume, then use it.")
        return path / "model" if (path / "model").is_dir() else path
    if path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        raise ModelError(f"{path} is a pickle, which could run code. Give a folder with {', '.join(REQUIRED)}.")
    known = shipped()
    if source in known:
        return known[source]
    raise ModelError(
        f"{source!r} is no folder and no shipped backbone. Shipped: {', '.join(known) or 'none in this release'}."
    )


def shipped() -> dict[str, Path]:
    """Backbones that travel with the package, by name."""
    root = Path(__file__).parent / "pretrained"
    return {folder.name: folder for folder in sorted(root.glob("*")) if (folder / "config.json").is_file()}


def _check_sums(folder: Path) -> None:
    sums = {}
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8", errors="replace").splitlines():
        value, _, name = line.partition("  ")
        sums[name] = value
    for name in REQUIRED[:-1]:
        if sums.get(name) != sha256(folder / name):
            raise ModelError(
                f"{folder / name} is not what was saved: its SHA-256 differs from SHA256SUMS. Fetch or train it again."
            )


def _read_config(file: Path, kind: Any) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.pop("schema_version")
        if version > SCHEMA:
            raise ModelError(
                f"{file} has schema {version}, this release reads up to {SCHEMA}. Update titans-seq to use it."
            )
        return TypeAdapter(kind).validate_python(content)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, ValidationError):
            error = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())  # type: ignore[assignment]
        raise ModelError(f"{file} does not describe a model: {error}.") from None


def load_config(source: str) -> tuple[Path, BackboneConfig, Any]:
    """Folder, backbone config and task of a checkpoint whose sums are right."""
    folder = find(source)
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise ModelError(f"{folder} is not a checkpoint: it lacks {' and '.join(missing)}.")
    _check_sums(folder)
    return (
        folder,
        _read_config(folder / "config.json", BackboneConfig),
        _read_config(folder / "task.json", Task),
    )


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint folder, checked to be finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}.") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{file}: {name} holds values that are not finite. Fetch or train it again.")
    return tensors


def fill(module: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Give ``module`` its weights; every name and shape must fit."""
    wanted = module.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        side = "lacks" if name in wanted else "has an unexpected"
        raise ModelError(f"{file} {side} tensor {name}.")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise ModelError(f"{file}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}.")
    module.load_state_dict(tensors)


def load_pretrained(source: str) -> SequenceModel:
    """Build and fill the model of ``source``, for inference; refuse what is missing, changed, newer or not finite."""
    folder, backbone, task = load_config(source)
    model = SequenceModel(backbone, task)
    fill(model, load_tensors(folder), folder / "model.safetensors")
    return model.eval()


def check_backbone(ours: BackboneConfig, source: str) -> Path:
    """Return the folder of ``source``, whose backbone is to start ``ours``.

    Raises:
        ModelError: if the two backbones are not of one build; says what differs.
    """
    folder, theirs, _ = load_config(source)
    free = {"dropout", "equivariant"}  # the weights are the same with and without
    if isinstance(ours.embedding, Patches) and isinstance(theirs.embedding, Patches):
        free.add("embedding")  # patches of another form begin anew: see `load_backbone`
    here, there = ours.model_dump(exclude=free), theirs.model_dump(exclude=free)
    if different := [f"{key} {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]:
        raise ModelError(f"The backbone of {source} cannot be used here: {'; '.join(different)}.")
    return folder


def load_backbone(model: SequenceModel, source: str) -> bool:
    """Start the backbone of ``model`` from that of ``source``; the head stays as it was initialised.

    Patches of a series that hold other numbers have an embedding that begins anew. The head of a forecast of the same
    form is taken over too. What was taken over is told.

    Returns:
        Whether all of the model was, so that it can be used as it is.
    """
    folder, theirs = check_backbone(model.backbone.config, source), load_config(source)[2]
    tensors, own = load_tensors(folder), model.state_dict()
    anew = {
        name
        for name in own
        if name.startswith("backbone.embedding.") and name in tensors and tensors[name].shape != own[name].shape
    }
    takes_head = getattr(model.task, "takes_head", None)
    head = takes_head is not None and model.task.kind == theirs.kind and not anew and takes_head(theirs)
    parts = {"backbone": model.backbone, **({"head": model.head} if head else {})}
    for part, module in parts.items():
        given = {name: own[name] if name in anew else tensor for name, tensor in tensors.items()}
        of_part = {
            name.removeprefix(f"{part}."): tensor for name, tensor in given.items() if name.startswith(f"{part}.")
        }
        fill(module, of_part, folder / "model.safetensors")
    if takes_head is not None:
        taken = ["blocks", *([] if anew else ["patch embedding"]), *(["forecast layer"] if head else [])]
        begun = [*(["patch embedding"] if anew else []), *([] if head else ["forecast layer"])]
        other = model.task.other_than(theirs) if model.task.kind == theirs.kind else []
        inform(
            f"{source}: taken over: {', '.join(taken)}; begins anew: {', '.join(begun) or 'nothing'}"
            f"{' (' + '; '.join(other) + ')' if other else ''}."
        )
    return head
