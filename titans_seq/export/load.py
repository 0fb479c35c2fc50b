"""Load the model of this folder with torch, safetensors and numpy, and nothing else.

from load import load

model = load()
output = model(batch)  # README.md says of what
"""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def load(folder: Path | str = HERE) -> Any:
    """The model, for inference; what is missing, changed or not finite is refused."""
    _compute_alike()
    from titans_seq.checkpoint import load_pretrained

    return load_pretrained(str(folder))


def load_window(folder: Path | str = HERE) -> Any:
    """The forward pass of windows of one size, if it was exported: a module that takes the parts of a batch in order.

    It needs torch alone, and none of the model's code.
    """
    import torch

    _compute_alike()
    return torch.export.load(str(Path(folder) / "window.pt2")).module()


def _compute_alike() -> None:
    """Compute in float32 as titans-seq does: another library multiplies, and rounds, otherwise."""
    if str(HERE) not in sys.path:
        sys.path.append(str(HERE))
    from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic

    use_fastest_exact_arithmetic()
