"""What this machine offers, and whether the installation is whole."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from titans_seq import __version__
from titans_seq.miras.structure import Matrix
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
from titans_seq.ops.kernels import missing
from titans_seq.ops.memory_scan import BACKENDS, memory_scan, triton
from titans_seq.resources import PACKAGE, Kind, names

KINDS: tuple[Kind, ...] = ("configs", "datasets", "pipelines")
LIBRARIES = ("torch", "lightning", "numpy", "polars", "scikit-learn", "safetensors", "pydantic", "typer", "triton")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _works(backend: str) -> str:
    if backend == "triton" and not torch.cuda.is_available():
        return missing() or "for CUDA alone"
    q = torch.nn.functional.normalize(torch.ones(1, 1, 3, 2), dim=-1)
    gate = torch.full((1, 1, 3), 0.1)
    initial = (torch.zeros(1, 2, 2),)
    try:
        if backend == "triton":
            triton.probe("cuda")
        else:
            memory_scan(q, q, q, gate, gate, initial=initial, structure=Matrix(), chunk_size=2, backend=backend)  # type: ignore[arg-type]
    except Exception as error:  # whatever it is, it is what the doctor is asked to tell
        return f"fails: {type(error).__name__}: {error}"
    return "works"


def examine() -> dict[str, Any]:
    """Versions, devices, room, kernels and samples, as the command ``doctor`` reports them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "titans-seq": __version__,
        "package": str(PACKAGE),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "memory_GiB": round(memory / 2**30, 1),
        "disk_free_GiB": round(shutil.disk_usage(".").free / 2**30, 1),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "libraries": {name: _version(name) for name in LIBRARIES},
        "float32_products": use_fastest_exact_arithmetic(),
        "memory_scan": {backend: _works(backend) for backend in BACKENDS},
        "shipped": {kind: len(names(kind)) for kind in KINDS},
    }
