"""A run that was stopped, made once for all tests that harm a copy of it."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def stopped(titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """A command, and the run that it left when it was stopped."""
    from titans_seq.training.module import SequenceModule  # brings in Triton, whose mode tests/conftest.py sets first

    run = tmp_path_factory.mktemp("stopped") / "run"
    sets = ("steps=4", "validate_every=1", "log_every=1")
    given = ["genomics", "finetune", tiny.table, *tiny.size, *(p for s in sets for p in ("--set", f"training.{s}"))]
    whole = SequenceModule.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SequenceModule, "training_step", step)
        titans(*given, "--out", run, code=143)
    return given, run
