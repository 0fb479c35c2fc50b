"""Titans and MIRAS long-memory models for genomics and time series."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {  # public name: its module; looked up on use, so that importing titans_seq imports no torch
    "Backbone": "titans_seq.backbone",
    "BackboneConfig": "titans_seq.backbone",
    "MemoryConfig": "titans_seq.memory",
    "MemoryState": "titans_seq.memory_state",
    "NeuralMemory": "titans_seq.memory",
    "SequenceModel": "titans_seq.checkpoint",
    "load_pretrained": "titans_seq.checkpoint",
    "memory_scan": "titans_seq.ops.memory_scan",
    "save_pretrained": "titans_seq.checkpoint",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'titans_seq' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
