"""What every command promises: help with an example, one JSON document, silence when asked, a dry run that is dry."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import COMMANDS, LONG, options

import titans_seq
from titans_seq.cli import app

PROGRAM = [sys.executable, "-c", "from titans_seq.cli import main; main()"]
COMMON = {"--json", "--quiet", "--debug"}


@pytest.fixture(scope="module")
def shard(titans: Any, tiny: Any, models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shard") / "out.csv"
    titans("genomics", "predict", models.classifier, tiny.fasta, "--out", out, "--shard", "1/1")
    return out.with_name("out.csv.1-of-1")


@pytest.fixture
def given(tiny: Any, models: Any, shard: Path, tmp_path: Path) -> dict[str, list[Any]]:
    """Arguments with which each command does something small."""
    out = tmp_path / "out.csv"
    run = ["--out", tmp_path / "run", "--set", "training.steps=1"]
    recipe = models.classifier / "recipe.yaml"
    return {
        "run": [recipe, "--out", tmp_path / "run"],
        "doctor": [],
        "genomics audit": [tiny.fasta],
        "genomics pretrain": [tiny.fasta, *tiny.size, *run, "--set", "data.length=64"],
        "genomics finetune": [tiny.table, *tiny.size, *run],
        "genomics evaluate": [models.classifier, tiny.table],
        "genomics predict": [models.classifier, tiny.fasta, "--out", out],
        "genomics score": [models.language, tiny.fasta, "--out", tmp_path / "out.parquet"],
        "genomics embed": [models.language, tiny.fasta, "--out", tmp_path / "out.npz"],
        "genomics generate": [models.language, "--length", 9, "--prompt", "ACG", "--out", tmp_path / "out.fa"],
        "genomics variants": [models.language, tiny.vcf, "--reference", tiny.fasta, "--out", tmp_path / "out.vcf"],
        "genomics mutate": [models.language, tiny.fasta, "--region", "r0:9-11", "--out", out],
        "forecast audit": [tiny.wide],
        "forecast train": [tiny.wide, *tiny.forecast, *run],
        "forecast predict": [models.wide, tiny.wide, "--out", out],
        "forecast backtest": [models.wide, tiny.wide, "--out", out, "--windows", 2],
        "forecast anomalies": [models.wide, tiny.wide, "--out", out, "--calibration", 80],
        "gather": [out, shard],
        "models list": [],
        "models export": [models.classifier, "--out", tmp_path / "exported"],
        "models show": [models.classifier],
        "report": [models.classifier, "--out", tmp_path / "report.html"],
    }


def test_every_command_is_tried_here(given: dict[str, list[Any]]) -> None:
    assert set(COMMANDS) - LONG <= set(given), "add the new command above"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_what_all_take(name: str) -> None:
    assert options(COMMANDS[name]) >= COMMON


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in LONG])
def test_json_is_one_document_on_stdout(titans: Any, given: dict[str, list[Any]], name: str) -> None:
    result = titans(*name.split(), *given[name], "--json")
    assert isinstance(json.loads(result.stdout, parse_constant=pytest.fail), dict)


@pytest.mark.parametrize("name", [n for n, command in COMMANDS.items() if "--dry-run" in options(command)])
def test_a_dry_run_starts_nothing(titans: Any, given: dict[str, list[Any]], tmp_path: Path, name: str) -> None:
    found = json.loads(titans(*name.split(), *given[name], "--dry-run", "--json").stdout)
    assert found["dry_run"] is True and found["parameters"] > 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [n for n, command in COMMANDS.items() if "--device" in options(command)])
def test_what_computes_takes_the_same_options(name: str) -> None:
    wanted = {"--device", "--threads", "--overwrite"}
    wanted |= {"--dry-run", "--seed"} if name != "demo" else set()  # the demo's recipes are shipped with their seeds
    assert options(COMMANDS[name]) >= wanted


@pytest.mark.parametrize("name", ["genomics audit", "genomics evaluate", "forecast audit"])
def test_a_result_is_written_as_json_too(titans: Any, given: dict[str, list[Any]], tmp_path: Path, name: str) -> None:
    out = tmp_path / "found.json"
    told = titans(*name.split(), *given[name], "--out", out, "--json").stdout
    assert json.loads(out.read_text()) == json.loads(told)
    out.write_text("mine")
    assert f"{out} exists" in titans(*name.split(), *given[name], "--out", out, code=2).stderr
    assert out.read_text() == "mine"
    titans(*name.split(), *given[name], "--out", out, "--overwrite")
    assert json.loads(out.read_text()) == json.loads(told)


def test_quiet_says_results_and_errors_alone(titans: Any, models: Any, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nACGR\n")
    given = ["genomics", "predict", models.classifier, tmp_path / "x.fa", "--out", tmp_path / "out.csv", "--overwrite"]
    assert titans(*given).stderr.startswith("warning: ")
    result = titans(*given, "--quiet")
    assert result.stderr == "" and "records  1" in result.stdout
    assert titans("genomics", "audit", tmp_path / "no.fa", "--quiet", code=2).stderr.startswith("error: ")


def test_strict_tells_what_it_found_and_ends_with_code_3(titans: Any, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nACG\n>a\nT\n")
    result = titans("genomics", "audit", tmp_path / "x.fa", "--strict", "--json", code=3)
    assert "duplicate id 'a'" in json.loads(result.stdout)["problems"][0]


def test_debug_shows_where(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["genomics", "audit", str(tmp_path / "no.fa"), "--debug"])
    assert type(result.exception).__name__ == "UsageError"


def test_a_bug_is_called_one_and_shows_no_traceback(titans: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("titans_seq.data.audit.audit_sequences", fails)
    told = titans("genomics", "audit", tiny.fasta, code=1).stderr
    assert "A bug of titans-seq: KeyError: 'lost'. --debug shows where" in told


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_what_the_machine_does_is_no_bug(
    titans: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("titans_seq.data.audit.audit_sequences", fails)
    code = 130 if isinstance(error, KeyboardInterrupt) else 6
    assert "bug" not in titans("genomics", "audit", tiny.fasta, code=code).stderr


def test_the_file_in_a_checkout_is_the_same_command() -> None:
    script = Path(titans_seq.__file__).parent.parent / "cli.py"
    one, other = (
        subprocess.run([*program, "genomics", "--help"], capture_output=True, text=True, check=True).stdout
        for program in (PROGRAM, [sys.executable, str(script)])
    )
    assert one.splitlines()[1:] == other.splitlines()[1:]  # the first line has the name it was called by


# --- what stdout, the terminal and the environment may be


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text("".join(f">r{i}\nACGT\n" for i in range(10)))
    command = [*PROGRAM, "genomics", "audit", str(tmp_path / "x.fa"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # before a word is written, as `| head -0` does
        told = process.stderr.read()
    assert process.returncode in (0, 141) and told == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_stdout(tiny: Any) -> None:
    command = [*PROGRAM, "genomics", "audit", str(tiny.fasta)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 6
    assert done.stderr == "error: No space left on device.\n"


def test_a_poor_environment(models: Any, tmp_path: Path) -> None:
    """No home, no UTF-8, no terminal, twenty columns, and a folder for temporary files that is not there."""
    fasta = tmp_path / "gén.fa"
    fasta.write_text(">染色体\nACGTR\n")
    poor = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TERM": "dumb", "COLUMNS": "20"}
    poor |= {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "no"), "OMP_NUM_THREADS": "1"}
    command = [*PROGRAM, "genomics", "predict", str(models.classifier), str(fasta), "--out", str(tmp_path / "o.csv")]
    done = subprocess.run(command, env=poor, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "染色体," in (tmp_path / "o.csv").read_text(encoding="utf-8")
    assert b"warning: " in done.stderr and b"\x1b" not in done.stderr + done.stdout


def test_usage_errors_are_of_code_2(titans: Any) -> None:
    for arguments in (["genomics", "predict"], ["no-such"], ["forecast", "train", "x.csv"], ["--no-such"]):
        titans(*arguments, code=2)
