"""The map of MIRAS: every named point with its four choices."""

from typing import Any

from titans_seq.backbone import BackboneConfig
from titans_seq.miras.choice import Choice
from titans_seq.miras.presets import PRESETS

_COLUMNS = ("preset", "block", "structure", "bias", "retention", "learning", "operator", "source")


def describe_presets() -> tuple[str, list[dict[str, Any]]]:
    """The map as a table, and as a list of mappings with each memory's whole config."""
    found = [_row(name) for name in PRESETS]
    rows = [_COLUMNS, *(tuple(row[column] for column in _COLUMNS) for row in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    said = (
        "In a config: backbone: {preset: NAME}, or memory: {preset: NAME}; any field beside it comes over it.\n"
        "What stands in no brackets is a default: forgetting is towards the initial memory, steps are normalised."
    )
    return "\n".join([*lines, said]), found


def _row(name: str) -> dict[str, Any]:
    config = BackboneConfig.model_validate({"preset": name})
    memory = config.memory
    row: dict[str, Any] = {"preset": name, "block": config.block.kind, "source": PRESETS[name].source}
    if config.block.kind == "attention":
        return row | dict.fromkeys(("structure", "bias", "retention", "learning", "operator"), "-")
    given = PRESETS[name].memory
    choices = {
        field: _said(getattr(memory, field), given.get(field, {}))
        for field in ("structure", "bias", "retention", "learning")
    }
    return row | choices | {"operator": memory.operator, "memory": memory.model_dump(mode="json")}


def _said(choice: Choice, given: dict[str, Any]) -> str:
    """The kind of a choice, and what the preset says of it beside."""
    fields = ", ".join(f"{name} {value}" for name, value in given.items() if name != "kind")
    kind = choice.model_dump()["kind"]
    return f"{kind} ({fields})" if fields else kind
