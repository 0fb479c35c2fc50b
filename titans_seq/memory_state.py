"""State of a memory, a block or a backbone: what a stream hands on, as named tensors and as a file."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_seq.errors import ModelError
from titans_seq.files import whole_file

STATE = "titans_seq.memory_state"  # format of a state file


class MemoryState(NamedTuple):
    """All that a stream hands on: of one block, or with ``layers`` of a backbone. Batch is axis 0 of every tensor."""

    position: int = 0  # tokens read
    scan: Any = None  # ScanState: memory at the open chunk's start, now, and its momentum
    tails: Any = None  # (B, conv - 1, 3 D) last inputs of the convolutions
    window: tuple[Tensor, ...] = ()  # keys and values that attention still sees
    prefix: Tensor | None = None  # (B, N_p, D) what the memory made of the persistent tokens (MAL)
    segment: Any = None  # ScanState: memory at the open segment's start (MAC)
    segment_tail: Any = None  # (B, conv - 1, D) convolution tail of the segment's own queries (MAC)
    symbols: Tensor | None = None  # (B, k - 1) last nucleotides, of a backbone that reads k-mers that overlap
    layers: tuple["MemoryState", ...] = ()


def state_tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """Flatten a state into named tensors; whole numbers become int64 scalars, absent parts are left out."""
    if state is None:
        return {}
    if isinstance(state, Tensor):
        return {name: state}
    if isinstance(state, int):
        return {name: torch.tensor(state, dtype=torch.int64)}
    keys = state._fields if hasattr(state, "_fields") else range(len(state))
    found: dict[str, Tensor] = {}
    for key, part in zip(keys, state, strict=True):
        found |= state_tensors(part, f"{name}.{key}" if name else str(key))
    return found


def fill_state(template: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Rebuild a state of the form of ``template`` (a model's `initial_state`) from named tensors.

    Raises:
        ModelError: if a tensor is missing or cannot belong to this model.
    """
    if template is None:
        return None
    if isinstance(template, Tensor | int):
        if name not in tensors:
            raise ModelError(f"The memory state lacks {name}: it was not made by this model.")
        found, expected = tensors[name], torch.as_tensor(template)
        if _fixed_shape(found, name) != _fixed_shape(expected, name):
            raise ModelError(
                f"The memory state holds {name} of shape {tuple(found.shape)}, "
                f"this model expects {tuple(expected.shape)}."
            )
        return int(found) if isinstance(template, int) else found.to(expected.device)
    keys = template._fields if hasattr(template, "_fields") else range(len(template))
    parts = [
        fill_state(part, tensors, f"{name}.{key}" if name else str(key))
        for key, part in zip(keys, template, strict=True)
    ]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)


def detached(state: Any) -> Any:
    """A state through which no slope goes back."""
    return fill_state(state, {name: tensor.detach() for name, tensor in state_tensors(state).items()})


def _fixed_shape(tensor: Tensor, name: str) -> tuple[int, ...]:
    """Shape without what grows as a stream is read: the rows of attention's window, and those that wait for a chunk."""
    grows = {"window", "waiting"} & set(name.split("."))
    return (*tensor.shape[:-2], *tensor.shape[-1:]) if grows else tuple(tensor.shape)


def _sum_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors: a flipped byte of a file shows."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return total.hexdigest()


def _settled(content: bytes) -> bytes:
    """A safetensors file with its header in alphabetical order, which else is drawn anew by each process."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the tensors behind it stay aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def save_state(state: Any, path: Path, about: dict[str, str] | None = None) -> None:
    """Write a state as one safetensors file, with what is told ``about`` it; it appears whole or not at all."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_tensors(state).items()}
    facts = {"format": STATE, "version": "1", "sum": _sum_of(tensors)} | (about or {})
    with whole_file(path) as draft:
        draft.write_bytes(_settled(save(tensors, facts)))  # `save_file` would let nobody else read it


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a state file by name, and what `save_state` was told about them.

    Raises:
        ModelError: if the file is damaged, newer than this release, no state, or not finite.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a memory state that can be read: {error}.") from error
    if about.get("format", STATE) != STATE:
        raise ModelError(
            f"{path} is not a memory state: its format is {about['format']!r}. Give what --state-out wrote."
        )
    if about.get("version", "1") != "1":
        raise ModelError(f"{path} has schema {about['version']}, this release reads 1. Update titans-seq to use it.")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} is not finite. Make the state again from finite input.")
    if about.get("sum", sum_ := _sum_of(tensors)) != sum_:
        raise ModelError(f"{path} is not what was saved: its sum differs. Make the state again.")
    return tensors, about


def load_state(path: Path, template: Any, model: str | None = None) -> Any:
    """Read a state that `save_state` wrote for a model whose state at the start is ``template``.

    Args:
        path: the file.
        template: what the state looks like, such as a model's `initial_state`.
        model: the sum of this model's weights, when the file must say that it is of this one.

    Raises:
        ModelError: if the file is damaged, not finite, or of another model.
    """
    tensors, about = read_state(path)
    if model is not None and about.get("model") != model:
        whose = f"by another model ({about['name']})" if "name" in about else "without saying by which model"
        raise ModelError(f"{path} was made {whose}, and a state fits its own model alone. Give that one.")
    if strange := sorted(tensors.keys() - state_tensors(template).keys()):
        raise ModelError(f"{path} was made by another model: this one has no {strange[0]}.")
    try:
        return fill_state(template, tensors)
    except ModelError as error:
        raise ModelError(f"{path} was made by another model: {error}") from error
