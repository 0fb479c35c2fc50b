"""Fine-tuning of every task and what is said of its labels; several seeds; evaluation beside baselines, by parts."""

import json
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from titans_seq.files import sha256

ONCE = ("--set", "training.steps=1", "--quiet")
FEW = ("--resamples", 20)


def sequences(count: int = 40, length: int = 24, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("ACGT", k=length)) for _ in range(count)]


def gc(text: str) -> float:
    return (text.count("G") + text.count("C")) / len(text)


class Job(NamedTuple):
    """A table, how it is trained on, and the columns of its predictions."""

    rows: dict[str, list[Any]]
    options: tuple[str, ...]
    columns: set[str]


S = sequences()
JOBS = {
    "multilabel": Job(
        {"label": [";".join(w for w in ("AA", "CG") if w in s) or ";" for s in S]},
        ("--class-weights", "balanced"),
        {"id", "label", "p_AA", "p_CG"},
    ),
    "regression of two": Job(
        {"gc": [gc(s) for s in S], "a": [s.count("A") for s in S]},
        ("--label-column", "gc", "--label-column", "a"),
        {"id", "predicted_gc", "predicted_a"},
    ),
    "segmentation": Job(
        {"label": ["".join("sw"[c in "AT"] for c in s) for s in S]}, (), {"chrom", "start", "p_s", "p_w"}
    ),
    "tracks": Job(
        {"label": [[gc(s[i : i + 8]) for i in range(0, 24, 8)] for s in S]}, (), {"chrom", "start", "predicted"}
    ),
}
KINDS = {"regression of two": "regression"}
every_job = pytest.mark.parametrize("name", JOBS)


@pytest.fixture(scope="module")
def runs(titans: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For every job its table, and a run of one step."""
    folder = tmp_path_factory.mktemp("jobs")
    for name, job in JOBS.items():
        table = folder / f"{name}.parquet"
        pl.DataFrame({"sequence": S, **job.rows}).write_parquet(table)
        task = ("--task", KINDS.get(name, name), *job.options)
        titans("genomics", "finetune", table, "--out", folder / name, *task, *tiny.size, *ONCE)
    return folder


@every_job
def test_every_task_predicts_and_is_measured(titans: Any, runs: Path, tmp_path: Path, name: str) -> None:
    table = runs / f"{name}.parquet"
    titans("genomics", "predict", runs / name, table, "--out", tmp_path / "p.parquet", "--quiet")
    assert set(pl.read_parquet(tmp_path / "p.parquet").columns) == JOBS[name].columns
    found = json.loads(titans("genomics", "evaluate", runs / name, table, "--json", *FEW).stdout)
    assert found["items"] == 40 and len(found) >= 5
    for model in found["intervals"]:
        for score, (low, high) in found["intervals"][model].items():
            assert low <= high and (found[model][score] is None or low - 1 < found[model][score] < high + 1)


def test_predicted_tracks_are_written_for_a_browser(titans: Any, runs: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "p.bedgraph", runs / "segmentation.parquet"
    given = ["genomics", "predict", runs / "segmentation", table, "--out", out, "--quiet"]
    assert "holds one track and the model has p_s, p_w. Give --track" in titans(*given, code=2).stderr
    assert "--track z is none of this model's" in titans(*given, "--track", "z", code=2).stderr
    titans(*given, "--track", "p_w")
    lines = [line.split("\t") for line in out.read_text().splitlines()]
    assert {line[0] for line in lines} == {str(i) for i in range(1, 41)}
    table = runs / "tracks.parquet"
    titans("genomics", "predict", runs / "tracks", table, "--out", tmp_path / "t.bedgraph", "--quiet")
    spans = [line.split("\t")[1:3] for line in (tmp_path / "t.bedgraph").read_text().splitlines()]
    assert spans[:3] == [["0", "8"], ["8", "16"], ["16", "24"]]  # a line a bin
    given = ["genomics", "predict", runs / "multilabel", runs / "multilabel.parquet", "--out", tmp_path / "r.csv"]
    assert "task multilabel has no tracks" in titans(*given, "--track", "p", code=2).stderr


def test_tracks_do_not_depend_on_how_a_record_is_read(titans: Any, runs: Path, tmp_path: Path) -> None:
    """A record of many blocks, alone and beside others: blocks hold whole bins."""
    draw = random.Random(0)
    long = "".join(draw.choices("ACGTN", k=10_003))
    (tmp_path / "alone.fa").write_text(f">r\n{long}\n")
    (tmp_path / "more.fa").write_text(f">a\nACGTACGT\n>r\n{long}\n>empty\n>b\nACG\n")
    for name in ("tracks", "segmentation"):
        found = []
        for fasta in ("alone", "more"):
            out = tmp_path / f"{fasta}-{name}.parquet"
            titans("genomics", "predict", runs / name, tmp_path / f"{fasta}.fa", "--out", out, "--quiet")
            found.append(pl.read_parquet(out).filter(pl.col("chrom") == "r"))
        assert len(found[0]) == 10_003 and found[0].equals(found[1])
        assert found[0]["start"].to_list() == list(range(10_003))


def test_tracks_of_both_strands_turn_round(titans: Any, runs: Path, tmp_path: Path) -> None:
    text = "".join(random.Random(1).choices("ACGT", k=9_008))  # whole bins, several blocks
    other = text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    for name, column in (("tracks", "predicted"), ("segmentation", "p_s")):
        found = []
        for strand in (text, other):
            (tmp_path / "x.fa").write_text(f">a\n{strand}\n>b\n{strand[:96]}\n")
            given = [runs / name, tmp_path / "x.fa", "--out", tmp_path / "p.parquet", "--both-strands", "--quiet"]
            titans("genomics", "predict", *given, "--overwrite")
            found.append(pl.read_parquet(tmp_path / "p.parquet").filter(pl.col("chrom") == "a")[column].to_list())
        assert found[0] == pytest.approx(found[1][::-1], abs=1e-5)  # float32 sums in another order
        given = [runs / name, runs / f"{name}.parquet", "--both-strands", "--json", *FEW]
        assert json.loads(titans("genomics", "evaluate", *given).stdout)["items"] == 40


# --- values of a bigWig


def test_tracks_of_a_bigwig(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """Whose chromosome is called otherwise; scores by chromosome, a value a bin, intervals of the other strand."""
    tools = pytest.importorskip("pybigtools")
    genome = {name: "".join(random.Random(name).choices("ACGT", k=400)) for name in ("1", "2")}
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{text}\n" for name, text in genome.items()))
    spans = [(f"chr{n}", i, i + 1, float(text[i] in "GC")) for n, text in genome.items() for i in range(400)]
    tools.open(str(tmp_path / "gc.bw"), "w").write({"chr1": 400, "chr2": 400}, iter(spans))
    lines = [f"{n}\t{i}\t{i + 40}\t.\t0\t{'+-'[i // 40 % 2]}" for n in genome for i in range(0, 400, 40)]
    (tmp_path / "t.bed").write_text("\n".join([*lines, ""]))
    given = ["genomics", "finetune", tmp_path / "t.bed", "--out", tmp_path / "run", "--task", "tracks", *tiny.size]
    given += ["--reference", tmp_path / "g.fa", "--bigwig", tmp_path / "gc.bw", "--quiet"]
    assert "--set task.bin=BASES" in titans(*given, code=4).stderr
    assert "no interval of whole bins of 7 bases" in titans(*given, "--set", "task.bin=7", code=3).stderr
    few = [f"training.{key}" for key in ("steps=30", "learning_rate=0.03", "validate_every=30")]
    titans(*given, "--set", "task.bin=4", *(part for setting in few for part in ("--set", setting)))
    found = json.loads(titans("genomics", "evaluate", tmp_path / "run", tmp_path / "t.bed", "--json", *FEW).stdout)
    assert found["items"] == 20 and {name: part["items"] for name, part in found["chromosomes"].items()} == {
        "1": 10,
        "2": 10,
    }
    assert found["model"]["pearson"] > 0.5  # GC of the bin itself, on either strand
    (tmp_path / "minus.bed").write_text("1\t40\t80\t.\t0\t-\n")
    titans("genomics", "evaluate", tmp_path / "run", tmp_path / "minus.bed", "--quiet", *FEW)
    kept = [json.loads(file.read_text()) for file in (tmp_path / "run").glob("evaluations/*.json")]
    (region,) = [one["drawn"]["region"] for one in kept if "minus.bed" in one["path"]]
    assert region["bases"] == genome["1"][40:80] and region["start"] == 40, "positions go up, so the strand is turned"
    bins = [genome["1"][i : i + 4] for i in range(40, 80, 4)]
    assert region["observed"]["predicted"] == [sum(base in "GC" for base in four) / 4 for four in bins]
    told = titans(
        *("genomics", "predict", tmp_path / "run", tmp_path / "t.bed", "--reference", tmp_path / "g.fa"),
        *("--out", tmp_path / "p.bedgraph"),
        code=2,
    ).stderr
    assert "an interval is read as a record of its own" in told and not (tmp_path / "p.bedgraph").exists()
    told = titans(*given, "--set", "task.bin=4", "--jitter", 5, "--overwrite", code=4).stderr
    assert "labels along the window, which cannot be moved" in told


def test_bases_without_a_value_are_zeros_or_ignored_and_told_once(titans: Any, tiny: Any, tmp_path: Path) -> None:
    tools = pytest.importorskip("pybigtools")
    (tmp_path / "g.fa").write_text(f">chr1\n{''.join(random.Random(1).choices('ACGT', k=400))}\n")
    spans = [("chr1", i, i + 30, 1.0 + i % 7) for i in range(0, 400, 40)]  # three quarters of each interval
    tools.open(str(tmp_path / "x.bw"), "w").write({"chr1": 400}, iter(spans))
    (tmp_path / "t.bed").write_text("".join(f"chr1\t{i}\t{i + 40}\n" for i in range(0, 400, 40)))
    given = ["genomics", "finetune", tmp_path / "t.bed", "--task", "tracks", *tiny.size, *ONCE[:2]]
    given += ["--reference", tmp_path / "g.fa", "--bigwig", tmp_path / "x.bw", "--set", "task.bin=20"]
    told = titans(*given, "--out", tmp_path / "zero").stderr
    assert told.count("have no value, 25 % in x.bw. They count as 0 (data.missing=zero)") == 1
    told = titans(*given, "--out", tmp_path / "none", "--set", "data.missing=ignore").stderr
    assert told.count("are left out of bins and loss (data.missing=ignore)") == 1
    means = [
        json.loads((tmp_path / run / "model" / "task.json").read_text())["location"][0] for run in ("zero", "none")
    ]
    assert 0.7 < means[0] / means[1] < 0.8  # of the training part: bins of all 20 bases, and of 10 of them
    assert "are left out" in titans("genomics", "evaluate", tmp_path / "none", tmp_path / "t.bed", *FEW).stderr
    told = titans(*given, "--out", tmp_path / "x", "--set", "data.missing=nan", code=4).stderr
    assert "should be 'zero' or 'ignore' (got 'nan')" in told


def test_windows_of_one_interval_are_on_one_side(titans: Any, tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "g.fa").write_text(f">chr1\n{''.join(random.Random(1).choices('ACGT', k=900))}\n")
    given = ["genomics", "finetune", tmp_path / "t.bed", "--out", tmp_path / "run", *tiny.size, "--dry-run", "--json"]
    given += ["--reference", tmp_path / "g.fa", "--label-column", "name", "--window", 30, "--stride", 10]
    (tmp_path / "t.bed").write_text("".join(f"chr1\t{i}\t{i + 90}\t{'ab'[i // 100 % 2]}\n" for i in range(0, 900, 100)))
    found = json.loads(titans(*given, "--set", "data.share=0.3").stdout)
    assert (found["training_items"], found["validation_items"]) == (49, 14)  # 7 windows an interval
    (tmp_path / "t.bed").write_text("chr1\t0\t400\ta\nchr1\t390\t800\tb\n")
    assert "since they are of one stretch of the genome" in titans(*given, code=3).stderr


# --- what a label may be


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("multilabel", {w: [int(w in s) for s in S] for w in ("AA", "CG")}),
        ("regression", {"label": [gc(s) for s in S]}),
        ("tracks", {"x": [[1.0, 2.0, s.count("G")] for s in S], "y": [[2.0, None, s.count("T")] for s in S]}),
    ],
)
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_labels_in_several_columns_and_lists(
    titans: Any, tiny: Any, tmp_path: Path, task: str, columns: dict[str, list[Any]], form: str
) -> None:
    path = tmp_path / f"t.{form}"
    table = pl.DataFrame({"sequence": S, **columns}, strict=False)
    if form == "parquet":
        table.write_parquet(path)
    else:
        lists = [name for name, kind in table.schema.items() if kind == pl.List]
        text = pl.col(lists).list.eval(pl.element().cast(pl.String).fill_null("nan")).list.join(" ")
        table.with_columns(text).write_csv(path)
    names = [part for name in columns for part in ("--label-column", name)]
    given = ["genomics", "finetune", path, "--out", tmp_path / "run", "--task", task, *names, *tiny.size]
    assert json.loads(titans(*given, "--dry-run", "--json").stdout)["training_items"] == 36


def table_of(tmp_path: Path, labels: list[str], name: str = "t.csv", header: str = "sequence,label") -> Path:
    path = tmp_path / name
    path.write_text("\n".join([header, *(f"{s},{label}" for s, label in zip(S, labels, strict=False)), ""]))
    return path


@pytest.mark.parametrize(
    ("task", "labels", "says"),
    [
        ("regression", ["1.5", "high", "2"], "row '2' has the label 'high', which is no number"),
        ("regression", ["1.5", "", "2"], "row 2 has no label in column 'label'"),
        ("regression", ["2", "2", "2"], "all labels are 2. Training needs others"),
        ("classification", ["0.1", "0.2", "0.3"], "To learn numbers give --task regression"),
        ("classification", ["a", "a", "a"], "has only one class, 'a'. Training needs at least two"),
        ("classification", ["a", "", "b"], "row 2 has no label in column 'label'"),
        ("multilabel", ["a;b", "a;b", "b;a"], "all rows have the same labels, a, b"),
        (
            "multilabel",
            ["a", "", "b"],
            "row 2 has no label in column 'label'. Fill in or remove the row. If it has none of",
        ),
        ("segmentation", ["sw", "sw", "sw"], "has 2 labels for 24 bases"),
        ("segmentation", ["s" * 24] * 3, "has only one class, 's'"),
        ("tracks", ["1;2;3", "1;2", "1;2;4"], "2 values of 1 tracks for 24 bases; bins of 8 bases need 3"),
    ],
)
def test_labels_that_are_not_of_the_task(
    titans: Any, tiny: Any, tmp_path: Path, task: str, labels: list[str], says: str
) -> None:
    path, out = table_of(tmp_path, labels), tmp_path / "run"
    given = ["genomics", "finetune", path, "--out", out, "--task", task, *tiny.size, "--dry-run"]
    told = titans(*given, "--validation", path, code=3).stderr
    assert says in told and str(path) in told and not out.exists()


def test_a_decimal_comma_is_one_target(titans: Any, tiny: Any, tmp_path: Path) -> None:
    """Trained on a table between semicolons, measured on one between commas: both in the labels' own unit."""
    german, plain = tmp_path / "german.csv", tmp_path / "plain.csv"
    labels = [f"{100 * gc(s):.3f}" for s in S]
    rows = [f"{s};{label.replace('.', ',')}" for s, label in zip(S, labels, strict=True)]
    german.write_text("\n".join(["sequence;label", *rows, ""]))
    plain.write_text("\n".join(["sequence,label", *map(",".join, zip(S, labels, strict=True)), ""]))
    given = ["genomics", "finetune", german, "--task", "regression", "--out", tmp_path / "run", *tiny.size]
    assert "a comma in labels is read as a decimal one" in titans(*given, *ONCE[:2]).stderr
    titans("genomics", "predict", tmp_path / "run", plain, "--out", tmp_path / "p.csv", "--quiet")
    found = pl.read_csv(tmp_path / "p.csv")
    assert found.columns == ["id", "predicted"]
    scores = json.loads(titans("genomics", "evaluate", tmp_path / "run", plain, "--json", *FEW).stdout)
    error = found["predicted"].to_numpy() - [float(label) for label in labels]
    for name in ("model", "training_mean"):
        assert {"mse", "mae", "scaled_mse"} <= scores[name].keys()
    assert (scores["model"]["mse"], scores["model"]["mae"]) == pytest.approx(
        ((error**2).mean(), abs(error).mean()), rel=1e-4
    )


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--class-weights", "a=2,z=3"), 4, "names 'z', which is no class of the data. Classes: a, b"),
        (("--class-weights", "heavy"), 2, "give balanced, or NAME=WEIGHT between commas"),
        (("--class-weights", "a=0"), 4, "greater than 0"),
        (("--task", "regression", "--class-weights", "balanced"), 4, "class_weights"),
        (("--task", "segment"), 4, "'segmentation'"),
        (("--label-column", "kind"), 3, "has no column 'kind'"),
    ],
)
def test_options_that_do_not_fit(
    titans: Any, tiny: Any, tmp_path: Path, options: tuple[str, ...], code: int, says: str
) -> None:
    given = ["genomics", "finetune", tiny.table, "--out", tmp_path / "run", *tiny.size, "--dry-run", *options]
    assert says in titans(*given, code=code).stderr


@pytest.mark.parametrize(
    ("name", "labels", "says"),
    [
        ("multilabel", ["AA", "GG"], "row '2' has label 'GG', which is not among the classes AA, CG"),
        ("segmentation", ["s" * 24, "x" * 24], "row '2' has label 'x', which is not among the classes s, w"),
        ("tracks", ["1;2;3", "1;2;3;4"], "row '2' has 4 values of 1 tracks for 24 bases"),
    ],
)
def test_test_rows_that_the_model_does_not_know(
    titans: Any, runs: Path, tmp_path: Path, name: str, labels: list[str], says: str
) -> None:
    assert says in titans("genomics", "evaluate", runs / name, table_of(tmp_path, labels), code=3).stderr


def test_columns_that_the_test_table_lacks(titans: Any, runs: Path, tmp_path: Path) -> None:
    path = table_of(tmp_path, ["1", "2"])
    assert "has no column 'gc'" in titans("genomics", "evaluate", runs / "regression of two", path, code=3).stderr


def test_a_backbone_that_does_not_fit_is_explained(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    given = ["genomics", "finetune", tiny.table, "--out", tmp_path / "run", "--dry-run", "--threads", 1]
    told = titans(*given, "--backbone", models.language, "--set", "backbone.width=32", code=5).stderr
    assert "width 16 there, 32 here" in told and str(models.language) in told
    assert "embedding" in titans(*given, "--backbone", models.wide, code=5).stderr
    # the number of classes and the task of the source do not matter: the head is new
    titans(*given, "--backbone", models.classifier, "--task", "classification")


def test_the_head_alone_is_trained(titans: Any, tiny: Any, models: Any, tmp_path: Path) -> None:
    from titans_seq import load_pretrained

    given = [
        "genomics",
        "finetune",
        tiny.table,
        "--out",
        tmp_path / "run",
        "--backbone",
        models.language,
        "--threads",
        1,
    ]
    titans(*given, "--head-only", *ONCE)
    before, after = (
        load_pretrained(str(source)).backbone.state_dict() for source in (models.language, tmp_path / "run")
    )
    assert all(before[name].equal(after[name]) for name in before)


# --- several seeds


def test_several_seeds_are_trained_compared_and_handed_on(titans: Any, tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "many"
    given = ["genomics", "finetune", tiny.table, "--out", out, *tiny.size, "--set", "training.steps=2", "--quiet"]
    text = titans(*given, "--seeds", 2, "--seed", 5).stdout
    assert "seed-5" in text and "seed-6" in text and "is best by log loss and handed on as" in text
    found = json.loads((out / "seeds.json").read_text())
    losses = {name: run["log_loss"] for name, run in found["seeds"].items()}
    assert found["best"] == min(losses, key=losses.__getitem__)
    spread = found["validation"]["log_loss"]
    assert (spread["min"], spread["max"]) == (min(losses.values()), max(losses.values()))
    assert spread["mean"] == pytest.approx(sum(losses.values()) / 2)
    assert sha256(out / "model") == sha256(out / found["best"] / "model")
    assert json.loads(titans("genomics", "evaluate", out, tiny.table, "--json", *FEW).stdout)["items"] == 24

    assert "exists" in titans(*given, "--seeds", 2, "--seed", 5, code=2).stderr
    for option in ("--resume", "--dry-run"):  # one run does not take the place of several
        code = 0 if option == "--dry-run" else 2
        assert code == 0 or "holds runs of several seeds" in titans(*given, option, code=code).stderr
    kept = sha256(out / "seed-5" / "model" / "model.safetensors")
    shutil.rmtree(out / "seed-6")
    shutil.rmtree(out / "model")  # as after a kill
    titans(*given, "--seeds", 3, "--seed", 5, "--resume")
    again = json.loads((out / "seeds.json").read_text())
    assert list(again["seeds"]) == ["seed-5", "seed-6", "seed-7"]
    assert {name: again["seeds"][name] for name in found["seeds"]} == found["seeds"]
    assert sha256(out / "seed-5" / "model" / "model.safetensors") == kept and (out / "model").is_dir()


def test_one_run_is_not_several(titans: Any, tiny: Any, models: Any) -> None:
    given = ["genomics", "finetune", tiny.table, "--out", models.classifier, *tiny.size, *ONCE, "--seeds", 2]
    assert "is one run and not several" in titans(*given, "--resume", code=2).stderr


# --- evaluation


@pytest.fixture
def tested(tmp_path: Path) -> Path:
    path = tmp_path / "test.csv"
    rows = [f"{'pq'[i % 2]}{i},chr{i % 3},{s},{'ab'[i % 2]}" for i, s in enumerate(S[:30])]
    path.write_text("\n".join(["id,chrom,sequence,label", *rows, ""]))
    return path


def test_intervals_are_measured_by_their_chromosome(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    bed = tmp_path / "places.bed"
    bed.write_text("r0\t0\t80\tone\nr1\t5\t90\ttwo\nr0\t100\t180\tthree\n")
    given = ["genomics", "evaluate", models.language, bed, "--reference", tiny.fasta, "--json", *FEW]
    found = json.loads(titans(*given).stdout)
    assert found["items"] == 3
    assert {name: part["model"]["scored_bases"] for name, part in found["chromosomes"].items()} == {"r0": 160, "r1": 85}
    assert {name: part["items"] for name, part in found["chromosomes"].items()} == {"r0": 2, "r1": 1}


def test_a_record_without_a_base_says_nothing_of_a_language_model(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">gap\nNNNNNNNN\n>a\n" + 30 * "acgtta" + "\n")
    given = ["genomics", "evaluate", models.language, tmp_path / "x.fa", "--no-baseline", *FEW]
    found = json.loads(titans(*given, "--json").stdout)
    scores = found["chromosomes"]["gap"]["model"]
    assert (scores["bits_per_nt"], scores["perplexity"], scores["scored_bases"]) == (None, None, 0)
    assert found["model"]["bits_per_nt_other"] is None  # all bases are in lower case
    (row,) = (line.split() for line in titans(*given).stdout.splitlines() if line.startswith("gap"))
    assert row[:4] == ["gap", "1", "-", "-"]


def test_rows_that_a_run_was_trained_on_are_told(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "copy.csv").write_bytes(tiny.table.read_bytes())  # of another name
    others = tmp_path / "others.csv"
    others.write_text("".join(tiny.table.read_text().splitlines(keepends=True)[:-1]))
    for table, says in ((tiny.table, True), (tmp_path / "copy.csv", True), (others, False)):
        told = titans("genomics", "evaluate", models.classifier, table, "--no-baseline", *FEW).stderr
        assert (f"was trained on {table}, or on a part of it" in told) is says


def test_leak_free_rows_and_chromosomes_are_measured_alone(
    titans: Any, models: Any, tested: Path, tmp_path: Path
) -> None:
    clean, out = tmp_path / "clean.csv", tmp_path / "scores.json"
    lines = tested.read_text().splitlines()
    clean.write_text("\n".join([lines[0], *lines[11:], ""]))  # all columns, of the rows from the eleventh on
    given = ["genomics", "evaluate", models.classifier, tested, *FEW]
    text = titans(*given, "--leak-free", clean, "--out", out).stdout
    assert "without leaks: 20 of 30 items" in text and "majority class" in text and "chr2" in text
    found = json.loads(out.read_text())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert found["leak_free"]["items"] == 20 and found["leak_free"]["intervals"]["kmer_logistic_regression"]["mcc"]
    assert {name: part["items"] for name, part in found["chromosomes"].items()} == {"chr0": 10, "chr1": 10, "chr2": 10}
    (tmp_path / "alone.csv").write_text("\n".join([lines[0], *lines[11:], ""]))
    alone = json.loads(titans("genomics", "evaluate", models.classifier, tmp_path / "alone.csv", "--json", *FEW).stdout)
    part = found["leak_free"]
    assert part["model"] == pytest.approx(alone["model"])  # sums in another order
    for score, bounds in part["intervals"]["model"].items():
        assert bounds == pytest.approx(alone["intervals"]["model"][score])

    numbers = tmp_path / "numbers.csv"
    numbers.write_text("row\n" + "\n".join(line.split(",")[0] for line in lines[11:]) + "\n")
    again = json.loads(titans(*given, "--leak-free", numbers, "--json").stdout)
    assert again["leak_free"] == found["leak_free"]


def test_the_list_that_the_audit_writes_is_read(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    """Two of four test rows are copies of training rows."""
    seen = [line.split(",") for line in tiny.table.read_text().splitlines()[1:3]]
    rows = [*seen, *([s, "ab"[i % 2]] for i, s in enumerate(sequences(2, 30, seed=99)))]
    (tmp_path / "test.csv").write_text("\n".join(["sequence,label", *(",".join(row) for row in rows), ""]))
    clean = tmp_path / "clean.csv"
    titans("genomics", "audit", tiny.table, "--test", tmp_path / "test.csv", "--leak-free", clean, "--quiet")
    given = ["genomics", "evaluate", models.classifier, tmp_path / "test.csv", "--leak-free", clean, "--json", *FEW]
    found = json.loads(titans(*given).stdout)
    assert (found["items"], found["leak_free"]["items"]) == (4, 2)


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        ("id\np0\nz\n", 3, "row 2 (id 'z') is none of the rows that are evaluated (1 of 2)"),
        ("id,label\np0,b\n", 3, "row 1 (id 'p0') is none of the rows"),
        ("name_of_row\np0\n", 3, "has no column of ids"),
        ("", 3, "is empty"),
    ],
)
def test_a_leak_free_list_of_another_table(
    titans: Any, models: Any, tested: Path, tmp_path: Path, content: str, code: int, says: str
) -> None:
    (tmp_path / "clean.csv").write_text(content)
    given = ["genomics", "evaluate", models.classifier, tested, "--leak-free", tmp_path / "clean.csv"]
    told = titans(*given, code=code).stderr
    assert says in told and "clean.csv" in told


def test_a_part_of_one_class_has_no_area(titans: Any, models: Any, tested: Path, tmp_path: Path) -> None:
    (tmp_path / "clean.csv").write_text("id\np0\np2\np4\n")
    given = ["genomics", "evaluate", models.classifier, tested, *FEW, "--leak-free", tmp_path / "clean.csv", "--json"]
    found = json.loads(titans(*given).stdout)["leak_free"]
    assert "auroc" not in found["model"] and "accuracy" in found["model"]


def test_intervals_may_be_left_out(titans: Any, models: Any, tested: Path) -> None:
    given = ["genomics", "evaluate", models.classifier, tested, "--resamples", 0, "--no-baseline", "--json"]
    assert set(json.loads(titans(*given).stdout)) == {"items", "model", "details", "chromosomes"}


def test_a_language_model_stands_beside_a_markov_model(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    found = json.loads(titans("genomics", "evaluate", models.language, tiny.fasta, "--json", *FEW).stdout)
    assert found["items"] == 4 and set(found["chromosomes"]) == {"r0", "r1", "r2", "r3"}
    for name in ("model", "interpolated_markov"):
        assert found[name]["scored_bases"] == 806 and 1.5 < found[name]["bits_per_nt"] < 3
        low, high = found["intervals"][name]["bits_per_nt"]
        assert low <= found[name]["bits_per_nt"] <= high
    (tmp_path / "ids.csv").write_text("id\nr0\n")
    given = ["genomics", "evaluate", models.language, tiny.fasta, "--leak-free", tmp_path / "ids.csv"]
    assert "--leak-free is for labelled rows" in titans(*given, code=2).stderr
