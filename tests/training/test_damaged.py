"""A run folder or a point that was damaged, by a disk or by hand, is told by file, and never called a bug of ours."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Change = Callable[[Path], Any]


def point(**changed: Any) -> Change:
    """A change of the last point; what becomes None is left out."""

    def change(run: Path) -> None:
        file = run / "checkpoints" / "last.ckpt"
        content = torch.load(file, weights_only=True) | changed
        torch.save({key: value for key, value in content.items() if value is not None}, file)

    return change


def text(name: str, content: str | bytes) -> Change:
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


DAMAGED: dict[str, tuple[str, Change]] = {
    "manifest, cut": ("manifest.json", text("manifest.json", '{"status": "run')),
    "manifest, a list": ("manifest.json", text("manifest.json", '["status", "data_sha256"]')),
    "manifest, empty": ("manifest.json", text("manifest.json", "{}")),
    "manifest, binary": ("manifest.json", text("manifest.json", b"\xff\xfe\x00")),
    "metrics, no steps": ("metrics.csv", text("metrics.csv", "x,y\n1,2\n")),
    "metrics, text": ("metrics.csv", text("metrics.csv", "step,train_loss\nmany,1\n")),
    "metrics, binary": ("metrics.csv", text("metrics.csv", b"\xff\xfe\x00\n")),
    "point, a list": ("last.ckpt", lambda run: torch.save([1], run / "checkpoints" / "last.ckpt")),
    "point, no step": ("last.ckpt", point(step=None)),
    "point, no optimizer": ("last.ckpt", point(optimizer=None)),
    "point, text for a step": ("last.ckpt", point(step="two")),
    "point, a step below none": ("last.ckpt", point(step=-2)),
    "point, no weights": ("last.ckpt", point(model=[1])),
    "best weights, gone": ("best.ckpt", lambda run: (run / "checkpoints" / "best.ckpt").unlink()),
    "best weights, a list": ("best.ckpt", lambda run: torch.save([1], run / "checkpoints" / "best.ckpt")),
}
MENDED_BY_TRAINING = ("best weights",)  # when a later validation is better


@pytest.mark.parametrize("name", [name for name in DAMAGED if not name.startswith(MENDED_BY_TRAINING)])
def test_a_resume_names_the_file(titans: Any, stopped: tuple[list[Any], Path], tmp_path: Path, name: str) -> None:
    given, run = stopped[0], Path(shutil.copytree(stopped[1], tmp_path / "run"))
    file, change = DAMAGED[name]
    change(run)
    told = titans(*given, "--out", run, "--resume", code=5).stderr
    assert file in told and str(run) in told and not (run / "model").exists()


@pytest.mark.parametrize("name", [name for name in DAMAGED if name.startswith(("manifest", "metrics"))])
def test_a_report_names_the_file(titans: Any, models: Any, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(models.classifier, tmp_path / "run"))
    file, change = DAMAGED[name]
    change(run)
    told = titans("report", run, "--out", tmp_path / "page.html", code=5).stderr
    assert str(run / file) in told and not (tmp_path / "page.html").exists()


def test_a_report_of_a_damaged_recipe(titans: Any, models: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(models.classifier, tmp_path / "run"))
    for content in ("a: [1", "- a\n", "data: 1\nstart_from"):
        (run / "recipe.yaml").write_text(content)
        assert str(run / "recipe.yaml") in titans("report", run, "--out", tmp_path / "page.html", code=5).stderr


def test_a_run_without_its_checkpoints_begins_anew(
    titans: Any, stopped: tuple[list[Any], Path], tmp_path: Path
) -> None:
    given, run = stopped[0], Path(shutil.copytree(stopped[1], tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    titans(*given, "--out", run, "--resume")
    assert (run / "model").is_dir()


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"size": "3"},
        {"size": "3", "identity": "["},
        {"size": "3", "identity": "1"},
        {"size": "x", "identity": "{}"},
    ],
    ids=["nothing", "no identity", "cut", "a number", "no size"],
)
def test_a_point_of_a_stream_names_the_file(
    titans: Any, tiny: Any, models: Any, tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    out = tmp_path / "o.csv"
    save_file({"done": torch.tensor(1)}, tmp_path / "o.csv.point", metadata)
    told = titans("genomics", "predict", models.classifier, tiny.fasta, "--out", out, "--resume", code=5).stderr
    assert f"{out}.point cannot be read" in told and "--overwrite" in told and not out.exists()
