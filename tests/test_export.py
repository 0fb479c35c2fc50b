"""An exported model says the same in every bit where nothing but torch, safetensors and numpy can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import thinned
from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, load_pretrained, save_pretrained
from titans_seq.export import example
from titans_seq.miras.presets import PRESETS
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic
from titans_seq.tasks.forecasting import Forecasting

# runs with the exported folder as the only place beside torch, safetensors and numpy with what these import
PROGRAM = """
import sys
from pathlib import Path

names = "titans_seq lightning pytorch_lightning gluonts polars pandas pydantic yaml typer sklearn scipy matplotlib"
names += " huggingface_hub tensorboard torchmetrics tqdm"
sys.modules |= dict.fromkeys(names.split())  # what is None there is not found
folder, given, found = map(Path, sys.argv[1:4])
sys.path.insert(0, str(folder))
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
batch = {name.partition("_")[2]: part for name, part in sorted(load_file(given).items())}

def named(output, name):
    parts = [output] if isinstance(output, torch.Tensor) else output
    return {f"{name}{i}": part.clone() for i, part in enumerate(parts)}

from load import load, load_window
with torch.no_grad():
    tensors = {}
    if (folder / "window.pt2").exists():
        tensors |= named(load_window()(*batch.values()), "window")
        assert not [name for name in sys.modules if name.endswith(".backbone")], "it needs none of the model's code"
    tensors |= named(load()(batch), "model")
save_file(tensors, found)
"""


def read_elsewhere(folder: Path, batch: dict[str, torch.Tensor], at: Path) -> dict[str, torch.Tensor]:
    """What an exported model says in a process of its own."""
    # the parts have an order, and a file of safetensors has its own
    save_file({f"{i}_{name}": part for i, (name, part) in enumerate(batch.items())}, at / "given")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(folder), str(at / "given"), str(at / "found")]
    done = subprocess.run(command, env=environment, cwd=at, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(at / "found")


def of_variates(folder: Path) -> Path:
    """A forecaster whose channels attend to each other, as it was initialised."""
    facts = {"channels": ("a", "b"), "location": (0.0, 1.0), "scale": (1.0, 2.0), "frequency": "1h"}
    task = Forecasting(horizon=4, lookback=24, patch=8, stride=8, mixing="attention", **facts)
    config = BackboneConfig(width=16, heads=2, depth=1, embedding=task.embedding())
    save_pretrained(SequenceModel(config, task), folder)
    return folder


@pytest.mark.parametrize("name", thinned(["wide", "language", "variates"]))
def test_an_exported_model_says_the_same_elsewhere(titans: Any, models: Any, tmp_path: Path, name: str) -> None:
    source = of_variates(tmp_path / "saved") if name == "variates" else getattr(models, name)
    model = load_pretrained(str(source))
    length = 40 if name == "language" else model.task.before
    titans("models", "export", source, "--out", tmp_path / "exported", "--window", length)
    text = (tmp_path / "exported" / "README.md").read_text()
    batch = example(model, length, 1)
    assert all(f"`{part}`: {tuple(tensor.shape)}" in text for part, tensor in batch.items())
    found = read_elsewhere(tmp_path / "exported", batch, tmp_path)
    use_fastest_exact_arithmetic()
    with torch.no_grad():
        output = model(batch)
    parts = [output] if isinstance(output, torch.Tensor) else list(output)
    assert len(found) == 2 * len(parts)
    for number, part in enumerate(parts):
        assert torch.equal(found[f"model{number}"], part) and torch.equal(found[f"window{number}"], part)


def test_what_pydantic_made_is_made_without_it(titans: Any, models: Any, tmp_path: Path) -> None:
    """Every named point of the map, as an exported folder's own code reads it from JSON."""
    titans("models", "export", models.language, "--out", tmp_path / "exported")
    configs = {name: BackboneConfig.model_validate({"preset": name}).model_dump(mode="json") for name in PRESETS}
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    program = """
import json, sys
sys.path.insert(0, sys.argv[1])
import load
import importlib
from pathlib import Path
code = next(Path(sys.argv[1]).glob("titans_seq_*")).name
backbone, fields = (importlib.import_module(f"{code}.{name}") for name in ("backbone", "fields"))

def dumped(value):
    if isinstance(value, fields.BaseModel):
        return {name: dumped(part) for name, part in vars(value).items()}
    return [dumped(part) for part in value] if isinstance(value, tuple) else value

for name, config in json.load(open(sys.argv[2])).items():
    built = fields.TypeAdapter(backbone.BackboneConfig).validate_python(config)
    assert dumped(built) == config, (name, built)
    assert "dict" not in {type(part).__name__ for part in vars(built).values()}, name
    backbone.Backbone(built)
assert "pydantic" not in sys.modules
"""
    command = [sys.executable, "-c", program, str(tmp_path / "exported"), str(tmp_path / "configs.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_an_export_is_overwritten(titans: Any, models: Any, tmp_path: Path) -> None:
    out, given = tmp_path / "export", ["models", "export", models.wide, "--overwrite", "--out"]
    for _ in range(2):
        titans(*given, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all I have")
    (out / "notes.txt").touch()
    for folder, what in ((tmp_path / "mine", "thesis.txt"), (out, "notes.txt"), (models.wide, "checkpoints")):
        assert f"it holds {what}, so that --overwrite does not replace it" in titans(*given, folder, code=2).stderr
        assert (folder / what).exists()
    (tmp_path / "file").touch()
    assert "is a file" in titans(*given, tmp_path / "file", code=2).stderr
    assert "reads windows of 12 rows" in titans(*given, tmp_path / "new", "--window", 7, code=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "file", "mine"]


@pytest.mark.parametrize(("name", "batch"), [("dna_small", "(1, 64)"), ("series_small", "(1, 504, 1)")])
def test_what_is_shipped_is_exported(titans: Any, tmp_path: Path, name: str, batch: str) -> None:
    titans("models", "export", name, "--out", tmp_path / "exported")
    assert f"{batch}, " in (tmp_path / "exported" / "README.md").read_text()


def test_a_changed_byte_is_noticed_elsewhere_too(titans: Any, models: Any, tmp_path: Path) -> None:
    titans("models", "export", models.classifier, "--out", tmp_path / "exported")
    assert "exists" in titans("models", "export", models.classifier, "--out", tmp_path / "exported", code=2).stderr
    content = bytearray((file := tmp_path / "exported" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "is not what was saved" in titans("models", "show", tmp_path / "exported", code=5).stderr


def test_what_is_not_exact_is_refused_with_the_reason(
    titans: Any, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["models", "export", models.classifier, "--out", tmp_path / "exported", "--window", 8]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "equal", lambda a, b: False)
        assert "the program that torch makes of it rounds otherwise" in titans(*given, code=5).stderr

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("data decide what is computed\nand much more")

    monkeypatch.setattr(torch.export, "export", fails)
    told = titans(*given, code=5).stderr
    assert "cannot be written by torch.export: data decide what is computed. Leave out --window" in told
    assert not list(tmp_path.iterdir())
