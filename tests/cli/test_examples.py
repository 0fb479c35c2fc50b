"""The examples of the help: each is run as it is printed, on small files of the names it has."""

import gzip
import shlex
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from commands import COMMANDS, LONG, examples

from titans_seq import recipe

EXAMPLES = [(name, text) for name in COMMANDS if name not in LONG for text in examples(name)]


def bases(count: int, seed: int) -> str:
    return "".join(Random(seed).choices("ACGT", k=count))


@pytest.fixture(scope="module")
def files(titans: Any, tiny: Any, models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the examples name."""
    folder = tmp_path_factory.mktemp("files")
    chromosome = bases(6000, 0)
    (folder / "genome.fa.gz").write_bytes(gzip.compress(f">chr20\n{chromosome}\n".encode()))
    (folder / "genes.fa").write_text(f">g1\n{bases(90, 1)}\n>g2\n{bases(60, 2)}\n")
    lines = tiny.table.read_text().splitlines()
    for name, rows in (("train.csv", lines[1:]), ("test.csv", lines[9:])):
        (folder / name).write_text("\n".join([lines[0], *rows, ""]))
    (folder / "clean.csv").write_text("id\n1\n2\n5\n6\n")
    places = [("chr20", i * 600, i * 600 + 60, "ab"[i % 2]) for i in range(10)]
    (folder / "peaks.bed").write_text("".join(f"{c}\t{s}\t{e}\t{n}\n" for c, s, e, n in places))
    table = ["chrom,start,end,label", *(f"{c},{s},{e},{n}" for c, s, e, n in places)]
    (folder / "peaks.csv").write_text("\n".join([*table, ""]))
    other = "A" if chromosome[499] != "A" else "C"
    head = "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    vcf = f"{head}20\t500\t.\t{chromosome[499]}\t{other}\t.\t.\t.\n"
    (folder / "patients.vcf.gz").write_bytes(gzip.compress(vcf.encode()))
    times = [datetime(2024, 1, 1) + timedelta(hours=i) for i in range(800)]
    (folder / "sensors.csv").write_text(
        "\n".join(["date,a,b", *(f"{t},{i % 7}.5,{i % 5}" for i, t in enumerate(times)), ""])
    )
    titans("genomics", "audit", folder / "train.csv", "--out", folder / "audit.json")
    for name, run in (("genome", models.language), ("promoters", models.classifier), ("sensors", models.wide)):
        shutil.copytree(run, folder / "runs" / name)
    for part in ("1/2", "2/2"):
        whole = [folder / "runs" / "promoters", folder / "genes.fa", "--out", folder / "predictions.tsv"]
        titans("genomics", "predict", *whole, "--shard", part)
    return folder


@pytest.fixture
def place(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a copy of these files; what examples train is tiny, and trained for one step."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    build = recipe.build

    def small(content: dict[str, Any], settings: Any = (), *name: str) -> Any:
        """The recipe that is asked for, cut short."""
        training = {key: value for key, value in content["training"].items() if key not in ("epochs", "patience")}
        size = [f"backbone.{key}" for key in ("width=16", "depth=1", "heads=2")]
        return build({**content, "training": training}, [*settings, *size, "training.steps=1"], *name)

    monkeypatch.setattr(recipe, "build", small)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[text for _, text in EXAMPLES])
def test_an_example_runs_as_it_is_printed(titans: Any, place: Path, name: str, text: str) -> None:
    if ".bw" in text:
        pytest.importorskip("pybigtools")
    arguments = shlex.split(text)
    assert " ".join(arguments[: len(name.split())]) == name, "an example is of its own command"
    out = place / arguments[arguments.index("--out") + 1] if "--out" in arguments else None
    if out is not None and out.exists():  # the example makes what another one starts from
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    titans(*arguments)
    assert out is None or out.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_is_understood(name: str) -> None:
    found = examples(name)
    assert found, "say in the docstring how it is called: Example: titans-seq ..."
    for text in found:  # raises on what it does not know
        COMMANDS[name].make_context(name, shlex.split(text)[len(name.split()) :], resilient_parsing=False)
