"""What a run leaves for its own resume: the last point, the best weights, and the rows of ``metrics.csv``."""

import csv
import io
from pathlib import Path
from typing import Any

import torch

from titans_seq.errors import ModelError
from titans_seq.files import telling_disk_faults, whole_file

LAST, BEST = "last.ckpt", "best.ckpt"
KEYS = {LAST: ("step", "model", "finished", "optimizer", "best", "since_best"), BEST: ("step", "model")}


def save_point(file: Path, content: dict[str, Any]) -> None:
    """Write a point; the file appears whole or not at all."""
    packed = io.BytesIO()  # torch tells a full disk as an error of its own; Python tells it as what it is
    torch.save(content, packed)
    with whole_file(file) as draft:
        draft.write_bytes(packed.getbuffer())


def load_point(file: Path) -> dict[str, Any]:
    """Read a point; never runs code from it.

    Raises:
        ModelError: if the file is damaged.
    """
    try:
        point = torch.load(file, map_location="cpu", weights_only=True)
        if lacking := [key for key in KEYS[file.name] if key not in point]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        if not isinstance(point["step"], int) or point["step"] < 0:
            raise ValueError(f"step {point['step']!r} is no number of steps")
        return point
    except Exception as error:  # torch raises what its unpickler and zip reader happen to raise
        raise ModelError(
            f"{file} cannot be read ({type(error).__name__}: {error}). Start anew with --overwrite."
        ) from None


def read_metrics(file: Path) -> list[dict[str, str]]:
    """Rows of a ``metrics.csv``; a last one that a full disk cut is left out.

    Raises:
        ModelError: if the file is damaged.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
        for row in rows:
            int(row["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is damaged: {error!r}. Bring it back, or start anew with --overwrite.") from None
    return rows


class Metrics:
    """Rows of ``metrics.csv``, one a logged step; cut back to the point that a resume starts from."""

    def __init__(self, file: Path, step: int):
        self.file, self.rows = file, []
        if step and file.exists():
            self.rows = [row for row in read_metrics(file) if int(row["step"]) <= step]
        self.names: list[str] = list(self.rows[0]) if self.rows else []
        self._rewrite()

    def _rewrite(self) -> None:
        with whole_file(self.file) as draft, draft.open("w", newline="") as out:
            writer = csv.DictWriter(out, self.names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def write(self, row: dict[str, float | int]) -> None:
        """Append one row; the first with a new column, such as the first validation, writes the file anew."""
        told = {name: repr(value) for name, value in row.items()}
        self.rows.append(told)
        if new := [name for name in told if name not in self.names]:
            self.names += new
            self._rewrite()
        else:
            with telling_disk_faults(self.file), self.file.open("a", newline="") as out:
                csv.DictWriter(out, self.names, lineterminator="\n").writerow(told)
