"""The demo, cut short: some steps of each training, part of the genome and of the test windows, the rest as it is."""

import gzip
import shlex
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.conftest import Call
from titans_seq import demo
from titans_seq.data.fasta import read_fasta
from titans_seq.data.record import decode
from titans_seq.recipe import Recipe, load_recipe
from titans_seq.resources import data_file

WINDOWS = 137  # every tenth
BASES = 60_000


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, titans: Call) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    out, windows, region = folder / "it's <here>", folder / "test.csv", folder / "region.fa"
    with gzip.open(data_file(demo.NEW_WINDOWS), "rt") as table:
        head, *rows = table
    windows.write_text(head + "".join(rows[:: len(rows) // WINDOWS][:WINDOWS]))
    record = next(iter(read_fasta(data_file(demo.REGION))))
    region.write_text(f">{record.id}\n{decode(record.codes[:BASES])}\n")

    def shortened(name: Path) -> Recipe:
        settings = ["training.steps=2", "training.batch_size=2", "training.validate_every=2"]
        return load_recipe(name, settings + [f"data.paths=[{region}]"] * (str(name) == "demo_pretrain"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "REGION", str(region))
        patch.setattr(demo, "load_recipe", shortened)
        patch.setattr(demo, "NEW_WINDOWS", str(windows))
        result = titans("demo", "--out", out, "--threads", 1, "--device", "cpu")
    return out, result.output


def test_demo_leaves_every_file_that_it_lists(done: tuple[Path, str]) -> None:
    out, _ = done
    made = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert made == set(demo.FILES)
    for picture in out.glob("*.png"):
        assert float((imread(picture)[..., :3].min(-1) < 0.95).mean()) > 0.01


def test_demo_says_scores_beside_baselines_and_which_command_does_a_step(done: tuple[Path, str]) -> None:
    out, told = done
    for words in ("k-mer logistic regression", "seasonal naive", "AUROC", "MAE", "did not win on", *demo.FILES):
        assert words in told, words
    quoted = shlex.quote(str(out / "classifier"))
    windows = shlex.quote(str(out.parent / "test.csv"))
    assert f"$ titans-seq genomics predict {quoted} {windows} --both-strands --out" in told
    assert "$ titans-seq run demo_finetune --set" in told
    assert (out / "summary.txt").read_text() in told


def test_a_row_for_every_test_window_and_every_hour(done: tuple[Path, str]) -> None:
    out, _ = done
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + WINDOWS
    assert len((out / "backtest.csv").read_text().splitlines()) == 1 + 60 * 24 * 4
    assert len((out / "forecast.csv").read_text().splitlines()) == 1 + 24 * 4


def test_demo_does_not_touch_a_folder_that_is_there(titans: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "--overwrite" in titans("demo", "--out", tmp_path, code=2).output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("ours", "told"),
    [
        ({"mse": 1.0, "mae": 1.0}, "won on MSE and MAE."),
        ({"mse": 1.0, "mae": 3.0}, "won on MSE, did not win on MAE."),
        ({"mse": 2.0, "mae": 3.0}, "did not win on MSE and MAE."),
    ],
)
def test_who_won_is_said_plainly(ours: dict[str, float], told: str) -> None:
    found = {"model": ours, "seasonal_naive": {"mse": 2.0, "mae": 2.0}}
    lines = demo._compared(found, "seasonal naive", {"mse": "MSE", "mae": "MAE"}, -1)
    assert lines[-1] == f"    titans-seq {told}"
