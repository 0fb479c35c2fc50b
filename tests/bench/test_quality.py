"""The scripts in ``benchmarks/`` that measure quality, with tiny settings on the samples; real data where they are."""

import gzip
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from scripts import Script, kept, real_data

from titans_seq.resources import card, data_file

REGION, RECORD = "sample:ecoli_region/region.fa.gz", "U00096.3:1-400000"
TINY = "width: 16\ndepth: 1\nheads: 2\n"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


# --- rows


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    return Namespace(out=tmp_path / "out", threads=1, budget=None, again=False)


def test_a_row_that_is_there_is_not_measured_again(script: Script, options: Namespace, tmp_path: Path) -> None:
    common = script("common")
    asked: list[str] = []

    def rows_of(*keys: str, **settings: Any) -> None:
        with common.results("toy", options, lambda rows: ", ".join(rows)) as rows:
            for key in keys:
                rows.row(key, settings, lambda k=key: {"found": asked.append(k) or len(asked)})

    rows_of("a", "b", steps=1)
    rows_of("a", "b", "c", steps=1)
    assert asked == ["a", "b", "c"]
    assert (options.out / "toy.md").read_text() == "a, b, c"
    with pytest.raises(SystemExit, match=r"row 'a' has other settings, steps: 1 there, 2 now. Add --again"):
        rows_of("a", steps=2)
    options.again = True
    rows_of("a", steps=2)
    assert asked == ["a", "b", "c", "a"]
    row = kept(tmp_path, "toy")["a"]
    assert row["settings"] == {"steps": 2} and row["found"] == 4
    assert {"date", "command", "machine", "versions", "commit"} <= set(row)


def test_rows_before_a_fault_are_kept(script: Script, options: Namespace, tmp_path: Path) -> None:
    common = script("common")
    with pytest.raises(ZeroDivisionError), common.results("toy", options, str) as rows:
        rows.row("a", {}, dict)
        rows.row("b", {}, lambda: {"found": 1 / 0})
    assert list(kept(tmp_path, "toy")) == ["a"]


def test_no_row_is_begun_when_the_time_is_over(script: Script, options: Namespace, tmp_path: Path) -> None:
    common = script("common")
    options.budget = 1e-9
    with common.results("toy", options, str) as rows:
        rows.keep("a", {}, {})
        rows.row("a", {}, dict)
        rows.row("b", {}, dict)
        raise AssertionError("b was measured")
    assert list(kept(tmp_path, "toy")) == ["a"]


def test_a_command_is_kept_without_folders_of_this_machine(script: Script, options: Namespace, tmp_path: Path) -> None:
    common = script("common", "--seeds", "0,1", "--work=elsewhere")
    with common.results("toy", options, str) as rows:
        rows.row("a", {}, dict)
    assert kept(tmp_path, "toy")["a"]["command"] == "python benchmarks/common.py --threads 1 --seeds 0,1"


# --- classification


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, str]:
    """Some rows of the sample, a part of the test rows as those without a leak."""
    found = {}
    for name, source, count in (("train", "train", 200), ("test", "test", 60), ("clean", "test", 40)):
        with gzip.open(data_file(f"sample:ecoli_region/{source}.csv.gz"), "rt") as file:
            lines = file.read().splitlines()
        (tmp_path / f"{name}.csv").write_text("\n".join([*lines[: count + 1], ""]))
        found[name] = str(tmp_path / f"{name}.csv")
    return found


@pytest.mark.parametrize("name", ["gue", "genomic_benchmarks"])
def test_classification_from_scratch_and_from_a_backbone(
    script: Script, tables: dict[str, str], backbone: Path, tmp_path: Path, name: str
) -> None:
    benchmark = script(name, "--seeds", 0, "--backbone", backbone)
    classification = sys.modules["classification"]
    known = list(benchmark.SETTINGS if name == "gue" else benchmark.SETS)
    clean = None if name == "gue" else tables["clean"]

    def task_of(task: str) -> Any:
        return classification.Task(task, tables["train"], tables["test"], 2, leak_free=clean, batch_size=4)

    def run(*options: Any) -> dict[str, Any]:
        script(name, "--tasks", known[0], "--seeds", 0, *options)
        classification.measure_all(name, classification.options_of("", known), task_of, benchmark.report)
        return kept(tmp_path, name)

    rows = run("--backbone", backbone)
    assert list(rows) == [f"{known[0]}, k-mers", f"{known[0]}, scratch, seed 0"]
    (trained,) = (tmp_path / "work").glob("*-scratch-0-*")
    both = run("--backbone", trained)
    assert list(both) == [*rows, f"{known[0]}, pretrained, seed 0"]
    assert all(both[key] == row for key, row in rows.items())
    for row in both.values():
        for part in ("test", "leak_free") if clean else ("test",):
            low, high = row[part]["intervals"]["accuracy"]
            assert 0 <= low <= row[part]["accuracy"] <= high <= 1
    assert ("leak_free" in both[f"{known[0]}, k-mers"]) is bool(clean)
    run("--backbone", backbone, "--rates", "1e-3,1e-2")
    tried = kept(tmp_path, f"{name}_dev")
    assert [row["settings"]["training"]["learning_rate"] for row in tried.values()] == [1e-3, 1e-2]
    assert not any("test" in row for row in tried.values())
    text = (tmp_path / "out" / f"{name}.md").read_text()
    assert all(key in text for key in both)
    assert str(tmp_path) not in text + json.dumps(both)


def test_tasks_of_gue_are_files_of_its_card(script: Script) -> None:
    gue = script("gue")
    files = {f"card:gue/{file}" for file in card("gue")["files"]}
    tasks = [gue.task_of(name) for name in gue.SETTINGS]
    assert {file for task in tasks for file in (task.train, task.validation, task.test)} == files


@real_data
@pytest.mark.parametrize(
    ("name", "rows", "left"),
    [
        ("human_enhancers_cohn", (496, 177), 177),
        ("human_enhancers_ensembl", (2898, 682), 392),
        ("human_ensembl_regulatory", (4877, 1241), 1236),
        ("human_nontata_promoters", (7228, 1806), 1246),
        ("human_ocr_ensembl", (3047, 778), 761),
    ],
)
def test_genomic_benchmarks_are_cut_and_freed_of_leaks(
    script: Script, tmp_path: Path, name: str, rows: tuple[int, int], left: int
) -> None:
    task = script("genomic_benchmarks").task_of(tmp_path, name)
    counts = [Path(file).read_text().count("\n") - 1 for file in (task.train, task.test, task.leak_free)]
    assert counts == [*rows, left]


# --- genomes


def test_genomes_beside_markov_models(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genomes = script("genomes", "--genomes", "toy", "--steps", 1, "--bases", 5000)
    held = {"validation": 0.02, "test_regions": [f"{RECORD}:300000-400000"]}
    toy = genomes.Genome("toy", (REGION,), (f"{RECORD}:350000-360000",), held, steps=3200)
    monkeypatch.setattr(genomes, "GENOMES", {"toy": toy})
    monkeypatch.setattr(genomes, "BACKBONE", {"width": 16, "depth": 1, "heads": 2})
    monkeypatch.setattr(genomes, "ORDERS", 4)
    genomes.main()
    rows = kept(tmp_path, "genomes")
    assert list(rows) == ["toy, Markov", "toy, trained here"]
    markov, trained = rows.values()
    assert markov["test"]["scored_bases"] == trained["test"]["scored_bases"] == 5000
    assert list(markov["orders"]) == ["0", "1", "2", "3"]
    assert markov["test"]["bits_per_nt"] == min(markov["orders"].values()) < 2
    low, high = trained["intervals"]["bits_per_nt"]
    assert low <= trained["test"]["bits_per_nt"] <= high
    before = (tmp_path / "out" / "genomes.json").read_bytes()
    genomes.main()
    assert (tmp_path / "out" / "genomes.json").read_bytes() == before


def test_regions_of_genomes_do_not_meet(script: Script) -> None:
    """What is measured lies in what is held out of training."""
    genomes = script("genomes")
    for genome in genomes.GENOMES.values():
        held = list(map(genomes.read_region, genome.data["test_regions"]))
        for region in map(genomes.read_region, genome.test):
            assert any(
                region.record == h.record and h.start <= region.start and (h.end is None or region.end <= h.end)
                for h in held
            )


# --- zero-shot forecasts


def test_forecasts_zero_shot_fine_tuned_and_from_scratch(
    script: Script, titans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general, table = tmp_path / "general", tmp_path / "table.csv"
    rows = [f"2024-01-{1 + h // 24:02} {h % 24:02}:00,{h % 24 + h % 7},{h * 7 % 25}" for h in range(300)]
    table.write_text("\n".join(["ds,a,b", *rows, ""]))
    sizes = ["--set", "task.reads=stream", "--set", "task.patch=4", "--lookback", 16, "--set", "backbone.width=16"]
    tiny = [*sizes, "--set", "backbone.depth=1", "--set", "training.steps=1", "--set", "task.zero_shot=true"]
    titans("forecast", "train", "synthetic:0/20/100", "--horizon", 8, "--out", general, *tiny, "--quiet")

    def run(*options: Any) -> None:
        zero_shot = script("zero_shot", "--model", general, "--steps", 1, *options)
        toy = zero_shot.Set("toy", 6, 2, {}, lookback=16, validation=20)
        monkeypatch.setattr(zero_shot, "SETS", {"toy": toy, "short": toy._replace(lookback=None)})
        monkeypatch.setattr(zero_shot.Job, "table", lambda job: str(table))
        zero_shot.main()

    run("--starts", "zero-shot")
    assert list(kept(tmp_path, "zero_shot")) == ["toy, zero-shot", "short, zero-shot"]
    run()
    rows = kept(tmp_path, "zero_shot")
    assert list(rows)[2:] == ["toy, fine-tuned", "toy, from scratch"]
    assert len({row["seasonal_naive"]["mase"] for row in rows.values()}) == 1, "one protocol"
    assert all(row["protocol"]["horizon"] == 6 and row["protocol"]["windows"] == 2 for row in rows.values())
    assert not any(row["protocol"]["seen_in_training"] for row in rows.values())
    text = (tmp_path / "out" / "zero_shot.md").read_text()
    assert "**mean ratio** of 2 sets" in text and "**mean rank** of 1 sets" in text and str(tmp_path) not in text
    run("--rates", "1e-3", "--sets", "toy", "--starts", "fine-tuned")
    tried = kept(tmp_path, "zero_shot_rates")
    assert list(tried) == ["toy, fine-tuned, rate 0.001"]
    assert not any("seasonal_naive" in row for row in tried.values())


def test_summaries_of_sets(script: Script) -> None:
    zero_shot = script("zero_shot")
    sets = [{"seasonal naive": 1.0, "zero-shot": 0.5}, {"seasonal naive": 1.0, "zero-shot": 2.0}]
    found = zero_shot.summary(sets, ("seasonal naive", "zero-shot"))
    assert found["mean"] == {"seasonal naive": 1.0, "zero-shot": 1.25}
    assert found["mean ratio"]["zero-shot"] == pytest.approx(1.0) and found["mean rank"]["zero-shot"] == 1.5


@real_data
def test_m4_is_joined_as_its_makers_cut_it(script: Script, tmp_path: Path) -> None:
    zero_shot = script("zero_shot")
    rows = zero_shot.joined(tmp_path / "m4.csv").read_text().splitlines()
    first = [row.split(",") for row in rows if row.startswith("H1,")]
    assert len({row.partition(",")[0] for row in rows[1:]}) == 414
    assert len(first) == 748 and first[0][1:] == ["2000-01-01T00:00:00", "605"] and first[700][2] == "619"


# --- a chromosome as a stream


@pytest.mark.soak  # four processes
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="memory is read from /proc")
def test_a_killed_chromosome_is_the_same_file(
    script: Script, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chromosome = script("chromosome", "--model", models.language, "--bases", 3000)
    for name, value in (("CHR20", REGION), ("NAME", RECORD), ("ONE_PASS", 1000), ("KILLS", (0.6,))):
        monkeypatch.setattr(chromosome, name, value)
    chromosome.main()
    (row,) = kept(tmp_path, "chromosome").values()
    assert row["resumed_file_is_the_same"] and len(row["killed_after_seconds"]) == 1
    assert row["one_pass"]["bases"] == 1000
    assert row["one_pass"]["largest_difference_nats"] < 1e-4  # float32; 0 was measured
    assert max(size for size in row["peak_MiB_by_tenth"] if size) > 50
