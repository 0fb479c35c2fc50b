"""What a state file holds, by block and head."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titans_seq.checkpoint import SequenceModel, find, load_pretrained
from titans_seq.errors import ModelError, TitansError
from titans_seq.files import sha256
from titans_seq.memory_state import read_state

SHOWN = 64  # rows of the table; --json has them all
_BLOCK = re.compile(r"(?:(?P<stream>.+)\.)?layers\.(?P<block>\d+)\.position")
_COLUMNS = {
    "stream": "stream",
    "block": "block",
    "head": "head",
    "tokens": "tokens",
    "norm": "norm",
    "distance": "from start",
    "rank": "effective rank",
    "surprise": "surprise",
    "window": "window",
}


def describe_state(path: Path, source: str | None = None) -> tuple[str, dict[str, Any]]:
    """A state file as a table, and as the mapping behind it.

    Of every head: ``norm`` of its memory, over all weights; ``distance`` from the memory that the model has learned
    to start with; ``rank`` of each weight matrix, exp of the entropy of its singular values; ``surprise`` as Titans
    defines it, the norm of the momentum S. Of every block: rows in the window of its attention.

    Args:
        path: what ``--state-out`` wrote.
        source: the model; the one that the file names, if it is still there.

    Raises:
        ModelError: if the file is damaged or no state, or ``source`` is not its model.
    """
    tensors, about = read_state(path)
    model = _model(path, about, source)
    rows = [row for name in tensors for row in _rows(tensors, name, model)]
    if not rows:
        raise ModelError(f"{path} holds no state of a backbone. Give what --state-out wrote.")
    facts = {
        "state": str(path),
        "model": about.get("name", "not told"),
        "model_found": model is not None,
        "model_sha256": about.get("model", "not told"),
        "tokens": max(row["tokens"] for row in rows),
        "heads": rows,
    }
    return _text(facts), facts


def _model(path: Path, about: dict[str, str], source: str | None) -> SequenceModel | None:
    """The model of a state, where it can be found."""
    name = source or about.get("name", "")
    try:
        fits = sha256(find(name) / "model.safetensors") == about.get("model")
    except (TitansError, OSError):
        if source:
            raise
        return None
    if fits:
        return load_pretrained(name)
    if source:
        raise ModelError(
            f"{path} is not of the model {source}, but of {about.get('name', 'one that it does not name')}."
        )
    return None


def _rows(tensors: dict[str, Tensor], name: str, model: SequenceModel | None) -> Iterator[dict[str, Any]]:
    """What is told of each head of the block whose position has this name; nothing of any other tensor."""
    found = _BLOCK.fullmatch(name)
    if not found:
        return
    at, block = name.removesuffix(".position"), int(found["block"])
    weights, momentum = (_matrices(tensors, f"{at}.scan.{part}.") for part in ("weights", "momentum"))
    start = _matrices_at_start(model, block)
    windows = [t.shape[-2] for key, t in tensors.items() if key.startswith(f"{at}.window.")]
    B, H = weights[0].shape[:2] if weights else (1, 1)
    for row in range(B):
        for head in range(H):
            stream = (found["stream"] or "memory").removesuffix("memory").rstrip(".") or "0"
            yield {
                "stream": f"{stream}:{row}" if B > 1 else stream,
                "block": block,
                "head": head if weights else None,
                "tokens": int(tensors[name]),
                "norm": _norm([w[row, head] for w in weights]),
                "distance": _norm([w[row, head] - w0[0, head] for w, w0 in zip(weights, start, strict=False)]),
                "rank": [_effective_rank(w[row, head]) for w in weights],
                "surprise": _norm([m[row, head] for m in momentum]),
                "window": windows[-1] if windows else None,
            }


def _matrices(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """Weights (B, H, d_in, d_out), a layer each, whose names begin so."""
    names = [name for name in tensors if name.startswith(prefix)]
    return [tensors[name].double() for name in sorted(names, key=lambda name: int(name.rpartition(".")[2]))]


def _matrices_at_start(model: SequenceModel | None, block: int) -> list[Tensor]:
    if model is None:
        return []
    with torch.no_grad():
        scan = model.backbone.blocks[block].mixer.initial_state(1).scan
    return [] if scan is None else [w.detach().double() for w in scan.weights]


def _norm(matrices: list[Tensor]) -> float | None:
    """Frobenius norm of all together; None of none."""
    return float(torch.stack([m.square().sum() for m in matrices]).sum().sqrt()) if matrices else None


def _effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the singular values, taken as shares of their sum; 0 of a matrix of zeros."""
    values = torch.linalg.svdvals(matrix)
    shares = values[values > 0] / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else 0.0


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{v:.1f}" for v in value) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _text(facts: dict[str, Any]) -> str:
    rows = [[_cell(row[key]) for key in _COLUMNS] for row in facts["heads"][:SHOWN]]
    table = [list(_COLUMNS.values()), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
    where = "" if facts["model_found"] else " (not found here, so nothing is known of where it started)"
    more = len(facts["heads"]) - len(rows)
    return "\n".join(
        [
            f"{facts['state']}: {facts['tokens']:,} tokens read by {facts['model']}{where}",
            *lines,
            *([f"and {more:,} rows more; --json has them all"] if more else []),
        ]
    )
