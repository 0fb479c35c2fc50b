"""The small models that are compared, by name: all of one width, depth and heads.

To add one: its name and what it chooses, in `MODELS`. Any preset of MIRAS is known by its name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from titans_seq.backbone import BackboneConfig
from titans_seq.errors import UsageError
from titans_seq.miras.presets import PRESETS

SIZE = {"width": 64, "depth": 2, "heads": 2}
CHUNK = 16  # tokens
WINDOW = 16  # of a segment, and rows that sliding attention sees: two blocks reach 30 back, and a copy stands 32 off

Choices = Mapping[str, Any]  # fields of a `BackboneConfig`

MODELS: dict[str, Choices] = {
    "lmm": {"block": {"kind": "lmm"}},
    "lmm_linear": {"block": {"kind": "lmm"}, "memory": {"structure": {"kind": "matrix"}}},
    "mac": {"block": {"kind": "mac", "segment": WINDOW}},
    "mag": {"block": {"kind": "mag", "window": WINDOW}},
    "mal": {"block": {"kind": "mal", "window": WINDOW}},
    "attention": {"block": {"kind": "attention"}},
    "sliding": {"block": {"kind": "attention", "window": WINDOW}},
    **{name: {"preset": name} for name in ("gated_deltanet", "mamba2", "yaad")},
}
KNOWN = MODELS | {name: {"preset": name} for name in PRESETS if name not in MODELS}


def backbone(choices: Choices, conv: int) -> BackboneConfig:
    """The backbone that makes these choices; ``conv`` is the kernel of a memory that does not choose its own."""
    memory = {"chunk_size": CHUNK, "conv": conv, **choices.get("memory", {})}
    return BackboneConfig.model_validate({**SIZE, **choices, "memory": memory})


def models(names: Sequence[str], conv: int = 4, known: Mapping[str, Choices] = KNOWN) -> dict[str, BackboneConfig]:
    """Backbones by name.

    Raises:
        UsageError: if one is not known.
    """
    if strange := [name for name in names if name not in known]:
        raise UsageError(f"--models {strange[0]} is not one of {', '.join(known)}.")
    return {name: backbone(known[name], conv) for name in names}
