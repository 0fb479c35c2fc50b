"""The small models that are compared, by name: all of one width, depth and heads.

To add one: its name and what it chooses, in `choices_of`. Any preset of MIRAS is known by its name.
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


def choices_of(window: int) -> dict[str, Choices]:
    """What every model chooses, by name; ``window``: tokens of a segment, or rows that sliding attention sees."""
    titans: dict[str, Choices] = {
        "lmm": {"kind": "lmm"},
        "mac": {"kind": "mac", "segment": window},
        "mag": {"kind": "mag", "window": window},
        "mal": {"kind": "mal", "window": window},
    }
    chosen: dict[str, Choices] = {}
    for name, block in titans.items():
        chosen[name] = {"block": block}
        chosen[f"{name}_linear"] = {"block": block, "memory": {"structure": {"kind": "matrix"}}}
    chosen["attention"] = {"block": {"kind": "attention"}}
    chosen["sliding"] = {"block": {"kind": "attention", "window": window}}
    presets = ("gated_deltanet", "mamba2", "yaad", *PRESETS)
    return chosen | {name: {"preset": name} for name in presets if name not in chosen}


KNOWN = choices_of(WINDOW)
NAMES = ("lmm", "lmm_linear", "mac", "mag", "mal", "attention", "sliding", "gated_deltanet", "mamba2", "yaad")
MODELS = {name: KNOWN[name] for name in NAMES}  # what is compared if nothing else is asked for


def backbone(choices: Choices, conv: int, chunk: int) -> BackboneConfig:
    """The backbone that makes these choices, with the memory's convolution and chunk where they are not chosen."""
    memory = {"chunk_size": chunk, "conv": conv, **choices.get("memory", {})}
    return BackboneConfig.model_validate({**SIZE, **choices, "memory": memory})


def models(
    names: Sequence[str], conv: int = 4, choices: Mapping[str, Choices] = KNOWN, chunk: int = CHUNK
) -> dict[str, BackboneConfig]:
    """Backbones by name.

    Args:
        names: of some of them.
        conv: kernel of the memories' convolutions, tokens.
        choices: what each that is known chooses.
        chunk: of the memories, tokens.

    Raises:
        UsageError: if one is not known.
    """
    if strange := [name for name in names if name not in choices]:
        raise UsageError(f"--models {strange[0]} is not one of {', '.join(choices)}.")
    return {name: backbone(choices[name], conv, chunk) for name in names}
