"""What is not finite stops a run at its step and is never saved; a run starts from a backbone or says why not."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from titans_seq.files import sha256
from titans_seq.training.module import SequenceModule


def job(field: str, tiny: Any, out: Path, **settings: Any) -> list[Any]:
    """A training command of some steps in a field."""
    given = {
        "language": ["genomics", "pretrain", tiny.fasta, *tiny.size, "--set", "data.length=64"],
        "classifier": ["genomics", "finetune", tiny.table, *tiny.size],
        "wide": ["forecast", "train", tiny.wide, *tiny.forecast],
    }[field]
    sets = [part for key, value in settings.items() for part in ("--set", f"training.{key}={value}")]
    return [*given, "--out", out, *sets]


def assert_all_that_is_saved_is_finite(run: Path) -> list[str]:
    """Check what a failed run left; returns the names of its points."""
    points = sorted((run / "checkpoints").glob("*"))
    for file in points:
        for name, tensor in torch.load(file, weights_only=True)["model"].items():
            assert torch.isfinite(tensor).all(), f"{name} of {file}"
    assert not (run / "model").exists()
    return [file.name for file in points]


@pytest.mark.parametrize("field", ["language", "classifier", "wide"])
@pytest.mark.parametrize("rate", ["1e3", "1e9", "1e30"])
def test_a_rate_far_too_high_ends_with_code_7(titans: Any, tiny: Any, tmp_path: Path, field: str, rate: str) -> None:
    run = tmp_path / "run"
    given = job(field, tiny, run, steps=40, learning_rate=rate, checkpoint_every=1, batch_size=4)
    told = titans(*given, code=7).stderr
    step = re.search(r"at step (\d+) of ", told)
    assert step and str(run) in told and "Lower training.learning_rate" in told
    assert "last.ckpt" in assert_all_that_is_saved_is_finite(run)
    assert f"The last good point is {run / 'checkpoints' / 'last.ckpt'}" in told
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["step"] < int(step[1])


@pytest.mark.parametrize("poisoned", ["loss", "gradient", "weight", "validation"])
def test_what_is_not_finite_is_named_with_its_step(
    titans: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poisoned: str
) -> None:
    run, at = tmp_path / "run", 6
    clip, step, end = (
        getattr(SequenceModule, name) for name in ("configure_gradient_clipping", "training_step", "on_train_batch_end")
    )

    def poisoned_step(self: SequenceModule, batch: Any, batch_idx: int) -> Any:
        if self.step == at - 1 and poisoned == "loss":
            with torch.no_grad():
                self.model.head.logits.bias.fill_(torch.nan)
        return step(self, batch, batch_idx)

    def poisoned_gradient(self: SequenceModule, *given: Any, **named: Any) -> None:
        if self.step == at - 1 and poisoned == "gradient":
            self.model.head.logits.bias.grad.fill_(torch.inf)
        clip(self, *given, **named)

    def poisoned_end(self: SequenceModule, *given: Any) -> None:
        if self.step == at - 1 and poisoned in ("weight", "validation"):
            with torch.no_grad():
                self.model.head.logits.bias.fill_(torch.inf if poisoned == "validation" else torch.nan)
            self.interval = at if poisoned == "validation" else 1000
        end(self, *given)

    monkeypatch.setattr(SequenceModule, "training_step", poisoned_step)
    monkeypatch.setattr(SequenceModule, "configure_gradient_clipping", poisoned_gradient)
    monkeypatch.setattr(SequenceModule, "on_train_batch_end", poisoned_end)
    given = job("classifier", tiny, run, steps=20, checkpoint_every=3, validate_every=5, batch_size=4)
    told = titans(*given, code=7).stderr
    says = {
        "loss": "The loss is nan at step 6",
        "gradient": "The gradient of head.logits.bias is not finite at step 6",
        "weight": "model.head.logits.bias is no longer finite at step 6",
        "validation": "of items 1 to 2 is not finite at step 6",
    }[poisoned]
    assert says.removeprefix("model.") in told
    assert assert_all_that_is_saved_is_finite(run) == ["best.ckpt", "last.ckpt"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["step"] == 5


def test_a_first_step_that_fails_has_no_good_point(
    titans: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SequenceModule.on_train_start

    def poisoned(self: SequenceModule) -> None:
        with torch.no_grad():
            self.model.head.logits.bias.fill_(torch.nan)
        start(self)

    monkeypatch.setattr(SequenceModule, "on_train_start", poisoned)
    told = titans(*job("classifier", tiny, tmp_path / "run", steps=2), code=7).stderr
    assert "The loss is nan at step 1" in told and "No point was saved before" in told


def test_evaluating_a_model_whose_output_is_not_finite(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    shutil.copytree(models.wide, tmp_path / "run")
    weights, sums = (tmp_path / "run" / "model" / name for name in ("model.safetensors", "SHA256SUMS"))
    before, changed = sha256(weights), load_file(weights)
    changed["head.steps.weight"].fill_(3e38)  # finite, and what it is multiplied with is not
    save_file(changed, weights)
    sums.write_text(sums.read_text().replace(before, sha256(weights)))
    given = ("--windows", 2, "--out", tmp_path / "o.csv")
    told = titans("forecast", "backtest", tmp_path / "run", tiny.wide, *given, code=7)
    assert "is not finite" in told.stderr and not (tmp_path / "o.csv").exists()


def test_series_of_any_size_that_can_be_read_are_forecast(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    huge = tmp_path / "s.csv"
    huge.write_text(tiny.wide.read_text().replace(".5,", ".5e37,"))
    titans("forecast", "predict", models.wide, huge, "--out", tmp_path / "o.csv")
    assert np.isfinite(pl.read_csv(tmp_path / "o.csv")["mean"].to_numpy()).all()


# --- where a run starts


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def last(run: Path) -> dict[str, torch.Tensor]:
    """Weights after the last step, which need not be those that validated best."""
    model: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["model"]
    return model


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> list[bool]:
    return [torch.equal(a[name], b[name]) for name in a if name.startswith(prefix)]


@pytest.mark.parametrize(
    ("field", "source"), [("classifier", "language"), ("classifier", "classifier"), ("wide", "wide")]
)
def test_a_run_starts_from_the_weights_of_a_backbone(
    titans: Any, tiny: Any, models: Any, tmp_path: Path, field: str, source: str
) -> None:
    start = tensors(getattr(models, source))
    given = ["--backbone", getattr(models, source)]
    titans(*job(field, tiny, tmp_path / "frozen", steps=3, freeze="true"), *given)
    titans(*job(field, tiny, tmp_path / "free", steps=3), *given)
    frozen, free = last(tmp_path / "frozen"), last(tmp_path / "free")
    assert all(same(frozen, start, "backbone."))
    assert not any(same(free, start, "backbone.blocks.0.ffn"))
    assert not any(same(free, frozen, "head."))


def test_freeze_trains_the_head_alone(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    for name, steps in (("a", 1), ("b", 4)):
        given = job("classifier", tiny, tmp_path / name, steps=steps, freeze="true")
        told = titans(*given, code=4).stderr
        assert "this backbone was never trained" in told and not (tmp_path / name / "model").exists()
        titans(*given, "--backbone", models.language)
    one, four = last(tmp_path / "a"), last(tmp_path / "b")
    assert all(same(one, four, "backbone.")) and not any(same(one, four, "head."))


def test_a_run_that_starts_from_a_backbone_can_be_repeated(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    given = ["genomics", "finetune", tiny.table, "--threads", 1, "--backbone", models.language, "--out", tmp_path / "a"]
    titans(*given, "--set", "training.steps=2")
    titans("run", tmp_path / "a" / "recipe.yaml", "--out", tmp_path / "b")
    assert all(same(tensors(tmp_path / "a"), tensors(tmp_path / "b"), ""))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_backbone_of_another_build_is_explained(
    titans: Any, tiny: Any, models: Any, tmp_path: Path, dry: list[str]
) -> None:
    given = ["genomics", "finetune", tiny.table, "--threads", 1, "--out", tmp_path / "run", *dry]
    told = titans(*given, "--backbone", models.language, "--set", "backbone.width=32", code=5).stderr
    assert f"The backbone of {models.language} cannot be used here: width 16 there, 32 here" in told
    told = titans(*given, "--backbone", models.wide, code=5).stderr
    assert "'kind': 'patches'" in told and "'kind': 'nucleotides'" in told
    assert "is no folder and no shipped backbone" in titans(*given, "--backbone", tmp_path / "no", code=5).stderr
    assert "give one of them" in titans(*given, "--backbone", models.wide, "--config", "dna_tiny", code=2).stderr
    assert not list(tmp_path.iterdir())


def test_a_backbone_named_none_is_a_new_one(titans: Any, tiny: Any, tmp_path: Path) -> None:
    titans(*job("classifier", tiny, tmp_path / "run", steps=1), "--backbone", "none", "--dry-run")


def test_the_best_weights_are_kept(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """`model/` holds the weights of the best validation, not those of the last step."""
    run = tmp_path / "run"
    titans(*job("wide", tiny, run, steps=12, validate_every=1, patience=3, learning_rate=0.3, batch_size=4))
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    losses = [float(line[lines[0].index("validation_loss")]) for line in lines[1:]]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["step"] == int(np.argmin(losses)) + 1
    assert all(torch.equal(tensor, best["model"][name]) for name, tensor in tensors(run).items())
    assert len(losses) in (12, best["step"] + 3), "it stops three validations after the best one"
