"""Bad checkpoints through the command line: each row of the contract's table, by `genomics predict`."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from titans_seq.files import sha256

Check = Callable[..., Result]


@pytest.fixture
def model(models: Any, tmp_path: Path) -> Path:
    """A checkpoint folder to break."""
    return Path(shutil.copytree(models.classifier / "model", tmp_path / "model"))


def sign(folder: Path) -> None:
    """Write sums that fit, as one would who changes a model on purpose."""
    names = ("config.json", "task.json", "model.safetensors")
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names))


@pytest.fixture
def check(titans: Any, tiny: Any, tmp_path: Path) -> Check:
    """What `predict` says of a model."""

    def run(model: Any, code: int = 5) -> Result:
        out = tmp_path / "out" / "out.csv"
        result: Result = titans("genomics", "predict", model, tiny.fasta, "--out", out, code=code)
        assert out.parent.exists() is not bool(code)
        return result

    return run


def test_the_copy_is_good(check: Check, model: Path) -> None:
    sign(model)
    check(model, code=0)


@pytest.mark.parametrize("name", ["config.json", "task.json", "model.safetensors", "SHA256SUMS"])
def test_a_missing_file(check: Check, model: Path, name: str) -> None:
    (model / name).unlink()
    told = check(model).stderr
    assert str(model) in told and f"lacks {name}" in told


@pytest.mark.parametrize("name", ["config.json", "task.json", "model.safetensors"])
def test_a_flipped_byte(check: Check, model: Path, name: str) -> None:
    content = bytearray((model / name).read_bytes())
    content[-9] ^= 1
    (model / name).write_bytes(content)
    assert f"{model / name} is not what was saved" in check(model).stderr


@pytest.mark.parametrize("signed", [False, True])
def test_a_truncated_file(check: Check, model: Path, signed: bool) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    if signed:
        sign(model)
    assert f"{file} cannot be read" in check(model).stderr if signed else "is not what was saved" in check(model).stderr


def test_sums_that_are_none(check: Check, model: Path) -> None:
    (model / "SHA256SUMS").write_bytes(b"\xff\x00\xfe")
    assert "differs from SHA256SUMS" in check(model).stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t | {"head.logits.bias": torch.full((2,), torch.nan)}, "head.logits.bias holds values that are not"),
        (lambda t: t | {"head.logits.bias": torch.full((2,), torch.inf)}, "head.logits.bias holds values that are not"),
        (lambda t: t | {"head.logits.bias": torch.zeros(5)}, "head.logits.bias has shape (5,), expected (2,)"),
        (lambda t: t | {"extra": torch.zeros(1)}, "has an unexpected tensor extra"),
        (lambda t: {n: v for n, v in t.items() if n != "head.logits.bias"}, "lacks tensor head.logits.bias"),
    ],
    ids=["NaN", "infinity", "shape", "unexpected", "missing"],
)  # fmt: skip
def test_weights_that_do_not_fit(check: Check, model: Path, change: Callable[..., Any], says: str) -> None:
    file = model / "model.safetensors"
    save_file(change(load_file(file)), file)
    sign(model)
    told = check(model).stderr
    assert says in told and str(file) in told


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("config.json", "schema_version", 99, "has schema 99, this release reads up to 1. Update titans-seq"),
        ("task.json", "schema_version", 99, "has schema 99"),
        ("config.json", "schema_version", "new", "does not describe a model"),
        ("config.json", "width", -4, "width: Input should be greater than"),
        ("config.json", "colour", 1, "colour: Extra inputs are not permitted"),
        ("task.json", "kind", "magic", "does not describe a model"),
        ("task.json", "dropout", float("nan"), "finite number"),
    ],
)
def test_descriptions_that_cannot_be(check: Check, model: Path, name: str, key: str, value: Any, says: str) -> None:
    content = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps(content | {key: value}))
    sign(model)
    told = check(model).stderr
    assert says in told and str(model / name) in told


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '"x"'])
def test_a_description_that_is_none(check: Check, model: Path, content: str) -> None:
    (model / "config.json").write_text(content)
    sign(model)
    assert "config.json does not describe a model" in check(model).stderr


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".bin", ".ckpt", ".pth"])
def test_a_pickle_is_not_opened(check: Check, tmp_path: Path, suffix: str) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "hacked",)

    file = tmp_path / f"model{suffix}"
    file.write_bytes(pickle.dumps(Hostile()))
    assert f"{file} is a pickle, which could run code" in check(file).stderr
    assert not (tmp_path / "hacked").exists()


def test_a_pickle_in_the_place_of_weights(check: Check, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    sign(model)
    assert "model.safetensors cannot be read" in check(model).stderr


def test_what_is_no_model(check: Check, models: Any, tmp_path: Path) -> None:
    assert "is no folder and no shipped backbone" in check(tmp_path / "nowhere").stderr
    (tmp_path / "empty").mkdir()
    assert "is not a checkpoint: it lacks config.json" in check(tmp_path / "empty").stderr
    unfinished = Path(shutil.copytree(models.classifier, tmp_path / "unfinished"))
    shutil.rmtree(unfinished / "model")
    assert "is a run without a finished model. Finish it with --resume" in check(unfinished).stderr
    assert "for `titans-seq forecast`" in check(models.wide).stderr


def test_a_model_that_does_not_fit_the_machine(check: Check, model: Path) -> None:
    content = json.loads((model / "config.json").read_text())
    content |= {"width": 65536, "depth": 64}
    (model / "config.json").write_text(json.dumps(content))
    sign(model)
    told = check(model, code=4).stderr
    assert "parameters and needs" in told and "bytes; this machine has" in told


def test_no_network_is_touched_and_the_message_says_what_to_do(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "Without a network give the path of a local folder" in check("hf://nobody/nothing").stderr
