"""What is kept of a measurement says the same as the measurement."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Call, Models, Tiny, bases
from titans_seq.checkpoint import load_pretrained
from titans_seq.data.fasta import Block, read_fasta
from titans_seq.data.record import decode
from titans_seq.evaluation import REGION, _region_of_genome, evaluate
from titans_seq.files import sha256
from titans_seq.measured import Measured, kept_measured
from titans_seq.report.examples import _bands
from titans_seq.stream.tracks import token_loglik


def latest(run: Path) -> Measured:
    return kept_measured(run, sha256(run / "model" / "model.safetensors"))[0]


@pytest.fixture(scope="module", params=["wide", "long", "stream", "point"])
def backtested(request: Any, titans: Call, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("backtest")
    table = tiny.long if request.param == "long" else tiny.wide
    more = {"stream": ["--set", "task.reads=stream"], "point": ["--set", "task.output={kind: point}"]}
    options = [*tiny.forecast, "--set", "training.steps=1", *more.get(request.param, [])]
    titans("forecast", "train", table, "--out", folder / "run", *options)
    suffix = {"wide": "csv", "long": "parquet", "stream": "jsonl", "point": "tsv"}[request.param]
    out = folder / f"out.{suffix}"
    titans("forecast", "backtest", folder / "run", table, "--windows", 5, "--step", 2, "--out", out)
    return latest(folder / "run")


def test_errors_by_step_have_the_overall_errors_as_their_mean(backtested: Measured) -> None:
    for model, errors in backtested.drawn["steps"].items():
        assert {len(values) for values in errors.values()} == {4}
        for score, values in ((name, errors[name]) for name in ("mse", "mae")):
            assert np.mean(values) == pytest.approx(backtested.found[model][score], rel=1e-5)  # the model is float32


def test_calibration_and_coverage_agree(backtested: Measured) -> None:
    shares = dict(backtested.drawn["calibration"])
    if "coverage_80" not in backtested.found["model"]:
        assert shares == {}
        return
    assert shares[0.9] - shares[0.1] == pytest.approx(backtested.found["model"]["coverage_80"], abs=1e-9)
    assert sorted(shares.values()) == list(shares.values())


def test_examples_hold_what_came(backtested: Measured) -> None:
    examples = backtested.drawn["examples"]
    assert [one["mae"] for one in examples] == sorted(one["mae"] for one in examples)
    for one in examples:
        assert len(one["times"]) == len(one["observed"]) and one["times"] == sorted(one["times"])
        ends = [0]
        for forecast in one["forecasts"]:
            assert forecast["row"] >= ends[-1] and len(forecast["middle"]) == 4
            ends.append(forecast["row"] + 4)
            for low, high in forecast["bands"].values():
                assert all(a <= m <= b for a, m, b in zip(low, forecast["middle"], high, strict=True))
        assert ends[-1] == len(one["times"])


def test_surprise_is_of_models_that_read_streams(backtested: Measured) -> None:
    if "surprise" not in backtested.drawn:
        return
    found = backtested.drawn["surprise"]
    assert len(found["values"]) == len(found["times"]) == 79 // 4  # the last patch is open
    assert min(found["values"]) > 0 and np.isfinite(found["values"]).all()


def test_bands_lie_between_the_quantiles() -> None:
    levels = {0.1: np.array([0.0]), 0.5: np.array([4.0]), 0.9: np.array([8.0])}
    bands = _bands(levels)
    assert bands["0.8"] == [[0.0], [8.0]]
    np.testing.assert_allclose(bands["0.5"], [[1.5], [6.5]])
    assert _bands({0.5: levels[0.5]}) == {} and list(_bands({0.2: levels[0.1], 0.8: levels[0.9]})) == ["0.5"]


def test_a_region_of_a_genome_is_what_score_says(models: Models, tiny: Tiny, tmp_path: Path) -> None:
    evaluate(str(models.language), str(tiny.fasta), resamples=0, baseline=False)
    region = latest(models.language).drawn["region"]
    record = next(iter(read_fasta(tiny.fasta)))
    expected = token_loglik(load_pretrained(str(models.language)), record.codes)
    assert region["id"] == "r0" and region["start"] == 0 and region["bases"] == decode(record.codes)
    np.testing.assert_allclose(region["tracks"]["loglik"], expected, rtol=1e-3)  # four digits are kept
    assert set(region["tracks"]) == {"loglik", "entropy", "surprise"}


def test_a_region_begins_where_a_genome_is_known_and_is_cut(models: Models) -> None:
    model = load_pretrained(str(models.language))
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 4, 4096).astype(np.uint8) for _ in range(5)]
    blocks = [Block(0, "chr", 4096 * i, part, i == 4) for i, part in enumerate(codes)]
    blocks[0].codes[100:] = 4
    region = _region_of_genome(model, blocks, both_strands=False)["region"]
    assert region["start"] == 4096 and len(region["bases"]) == REGION == len(region["tracks"]["entropy"])


@pytest.mark.parametrize(("task", "labels"), [("segmentation", "ab" * 8), ("tracks", "1;2;3;4"), ("regression", "1.5")])
def test_what_runs_along_records_is_kept_beside_its_label(
    titans: Call, tiny: Tiny, tmp_path: Path, task: str, labels: str
) -> None:
    table, run = tmp_path / "t.csv", tmp_path / "run"
    other = {"segmentation": "ba" * 8, "tracks": "4;3;2;9", "regression": "2.5"}[task]
    rows = [f"{bases(16, i)},{(labels, other)[i % 2]}" for i in range(12)]
    table.write_text("\n".join(["sequence,label", *rows, ""]))
    given = ["--task", task, "--set", "training.steps=1", "--set", "data.on_conflict=warn"]
    titans("genomics", "finetune", table, "--out", run, *tiny.size, *given)
    titans("genomics", "evaluate", run, table, "--resamples", 0)
    drawn = latest(run).drawn
    titans("report", run)
    page = (run / "report.html").read_text()
    if task == "regression":
        assert drawn == {} and "Predicted against observed" in page
        return
    expected = {"segmentation": {"p_a": [1, 0] * 8, "p_b": [0, 1] * 8}, "tracks": {"predicted": [1, 2, 3, 4]}}
    assert drawn["region"]["observed"] == expected[task]
    assert drawn["region"]["bin"] == (4 if task == "tracks" else 1) and 'class="track"' in page
