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
    if str(HERE) not in sys.path:
        sys.path.append(str(HERE))
    from titans_seq.checkpoint import load_pretrained
    from titans_seq.ops.matmul import use_fastest_exact_matmul

    use_fastest_exact_matmul()
    return load_pretrained(str(folder))


def load_window(folder: Path | str = HERE) -> Any:
    """The forward pass of windows of one size, if it was exported: a module that takes the parts of a batch in order.

    It needs torch alone, and none of the code beside it.
    """
    import torch

    return torch.export.load(str(Path(folder) / "window.pt2")).module()
