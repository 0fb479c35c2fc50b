"""Training computes its memories with what ``training.backend`` names."""

import csv
from pathlib import Path
from typing import Any

import pytest

# Sums in another order; AdamW's first steps are nearly the signs of slopes. Measured: apart by 8e-8.
SAME = 1e-6


def test_kernels_give_the_losses_of_the_chunked_path(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """A block and two heads of the demo's backbone, two tiny steps; kernels are interpreted where there is no GPU."""
    losses = {}
    for backend in ("chunked", "triton"):
        out = tmp_path / backend
        settings = ["backbone.width=32", "backbone.heads=2", "backbone.depth=1", "data.length=30"]
        settings += ["training.steps=2", "training.batch_size=1", "training.log_every=1"]
        settings += ["training.validate_every=2", "data.validation=0.04", f"training.backend={backend}"]
        given = ["genomics", "pretrain", tiny.fasta, "--out", out, "--config", "dna_nano", "--threads", "1"]
        titans(*given, *(part for setting in settings for part in ("--set", setting)))
        with (out / "metrics.csv").open() as file:
            losses[backend] = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert len(losses["triton"]) == 2
    assert losses["triton"] == pytest.approx(losses["chunked"], rel=SAME)


def test_kernels_are_refused_where_a_memory_has_none(titans: Any, tiny: Any, tmp_path: Path) -> None:
    given = ["genomics", "pretrain", tiny.fasta, "--out", tmp_path / "run", *tiny.size, "--set", "data.length=30"]
    told = titans(*given, "--set", "training.steps=1", "--set", "training.backend=triton", code=4).stderr
    assert "memory_scan has no Triton kernel for this: kernels need" in told
