"""What ``evaluate`` and ``backtest`` found of a run's model, kept in its folder for its report.

A file ``evaluations/VERB-SUM.json`` a measurement, of the schema `Measured`; the same measurement made again takes the
place of the earlier one. The folder is emptied with the run.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from titans_seq.errors import InputError
from titans_seq.files import to_json, write_text
from titans_seq.miras.choice import Choice

FOLDER = "evaluations"
SEEDS = "seeds.json"  # of a folder that holds a run a seed


class Measured(Choice):
    """One measurement: numbers that a report shows, and a few thousand more that it draws."""

    schema_version: Literal[1] = 1
    verb: Literal["evaluate", "backtest"]
    path: str = Field(description="What was measured on.")
    identity: dict[str, str] = Field(description="Sums of the model and of what was read, and the options.")
    when: str = Field(description="Local time, ISO 8601.")
    titans_seq: str = Field(description="The release.")
    found: dict[str, Any] = Field(description="What the command reported.")
    drawn: dict[str, Any] = Field(
        default={},
        description="evaluate: `region`, tracks along a sequence. backtest: `steps`, `calibration`, `examples`, and"
        " of a model that reads streams `surprise`.",
    )

    def seen(self, trained: Mapping[str, str]) -> bool:
        """Whether a file of these sums, which a run was trained on, is what was measured on."""
        return any(value in trained.values() for key, value in self.identity.items() if key.startswith("input "))


def keep_measured(run: Path, measured: Measured) -> Path:
    """Write a measurement into a run folder; returns its file."""
    told = f"{measured.path} {sorted(measured.identity.items())}"
    file = run / FOLDER / f"{measured.verb}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json"
    write_text(file, to_json(measured.model_dump(mode="json"), indent=None))
    return file


def kept_measured(run: Path, model: str) -> list[Measured]:
    """Measurements of a run folder, of the model with this sum, the latest first.

    Raises:
        InputError: if a file is none.
    """
    found = [_read(file) for file in (run / FOLDER).glob("*.json")]
    return sorted((m for m in found if m.identity.get("model") == model), key=lambda m: m.when, reverse=True)


def _read(file: Path) -> Measured:
    try:
        return Measured.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{file} does not hold what evaluate or backtest left: {place}: {first['msg']}. "
            "Remove it, and measure again."
        ) from None
