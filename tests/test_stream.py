"""The streaming engine: kills lose and repeat nothing, and predictions do not depend on how the input is cut."""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.conftest import thinned
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly
from titans_seq.checkpoint import SequenceModel, load_pretrained, save_pretrained
from titans_seq.data.fasta import Block, read_blocks
from titans_seq.errors import InputError, ModelError, NumericFault
from titans_seq.files import locked
from titans_seq.memory import MemoryConfig
from titans_seq.stream import Point, Steps, prefetch, run_stream
from titans_seq.stream.sequences import sequence_steps
from titans_seq.stream.series import window_steps
from titans_seq.stream.walk import block_size, carried_template
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.language import LanguageModel

SIZE = 64  # bases a block
LENGTHS = [10, 64, 3, 400, 65, 64, 1, 0, 33, 129, 40, 40]  # records within one block, of one, and of several
# float32 sums run in another order when batches and blocks have other sizes; the largest difference that the
# tests below measured is 3e-7 of a probability, and 2e-6 bits
TOLERANCE = 1e-5

BLOCKS = {
    "lmm": LMM(),
    "mag": MAG(window=8),
    "mal": MAL(window=8),
    "mac": MAC(segment=16),
    "mac as printed": MAC(segment=16, mode="paper"),
    "attention": AttentionOnly(window=8),
}
TASKS = {"classification": Classification(classes=("a", "b")), "language": LanguageModel()}


def make(block: Any = BLOCKS["mag"], task: Any = TASKS["classification"], **backbone: Any) -> SequenceModel:
    torch.manual_seed(0)
    given = {"width": 16, "depth": 2, "heads": 2, "memory": MemoryConfig(chunk_size=16), **backbone}
    return SequenceModel(BackboneConfig(block=block, **given), task).eval()


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("fasta") / "x.fa"
    file.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGTN'), n))}\n" for i, n in enumerate(LENGTHS)))
    return file


def rows(model: SequenceModel, blocks: Iterator[Block], batch_size: int = 4) -> list[dict[str, Any]]:
    return [row for ready, _ in sequence_steps(model, blocks, batch_size, Point()) for row in ready]


def assert_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            if isinstance(value, float):
                assert one[name] == pytest.approx(value, abs=TOLERANCE, rel=TOLERANCE, nan_ok=True), (name, other)


# --- predictions do not depend on how the input is cut


KINDS = [*((block, "classification") for block in BLOCKS), ("mag", "language")]


@pytest.mark.parametrize(("kind", "sizes"), thinned(product(KINDS, [(SIZE, 1), (SIZE, 3), (16, 64), (4096, 64)])))
def test_neither_batch_nor_block_size_matters(fasta: Path, kind: tuple[str, str], sizes: tuple[int, int]) -> None:
    (block, task), (size, batch_size) = kind, sizes
    model = make(BLOCKS[block], TASKS[task])
    expected = rows(model, read_blocks(fasta, size=1_000_000), 1)  # each record alone, in one pass
    assert_alike(rows(model, read_blocks(fasta, size=size), batch_size), expected)


def test_neither_do_the_neighbours_of_a_record(fasta: Path, tmp_path: Path) -> None:
    model = make()
    records = [">" + record for record in fasta.read_text().split(">")[1:]]
    expected = {row["id"]: row for row in rows(model, read_blocks(fasta, size=SIZE))}
    for seed in range(3):
        mixed = tmp_path / f"{seed}.fa"
        mixed.write_text("".join(np.random.default_rng(seed).permutation(records)))
        found = rows(model, read_blocks(mixed, size=SIZE))
        assert_alike(found, [expected[row["id"]] for row in found])
        assert len(found) == len(records)


def test_blocks_are_whole_segments(fasta: Path) -> None:
    for block, size in ((MAC(segment=96), 4032), (MAC(segment=16), 4096), (MAC(segment=8000), 8000), (LMM(), 4096)):
        config = BackboneConfig(width=16, heads=2, block=block, memory=MemoryConfig(chunk_size=16))
        assert block_size(config) == size


def test_order_is_that_of_the_input(fasta: Path) -> None:
    assert [row["id"] for row in rows(make(), read_blocks(fasta, size=SIZE))] == [f"r{i}" for i in range(len(LENGTHS))]


def test_the_number_of_threads_does_not_matter() -> None:
    model, threads = make(), torch.get_num_threads()
    codes = np.random.default_rng(0).integers(0, 4, (32, 48), np.uint8)  # wide enough that threads share the work
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(rows(model, (Block(i, str(i), 0, c, True) for i, c in enumerate(codes)), len(codes)))
    finally:
        torch.set_num_threads(threads)
    assert_alike(*found)


def test_a_model_whose_output_is_not_finite_names_the_record(fasta: Path) -> None:
    model = make()
    with torch.no_grad():
        model.backbone.embedding.weight[3] = torch.inf  # T
    with pytest.raises(NumericFault, match="not finite for record 'r0'"):
        rows(model, read_blocks(fasta, size=SIZE))


# --- kills and resumes

IDENTITY = {"model": "m", "input": "i"}


def write(
    model: SequenceModel,
    fasta: Path,
    out: Path,
    *,
    resume: bool = False,
    watch: Callable[[Steps], Steps] = lambda steps: steps,
    identity: dict[str, str] = IDENTITY,
) -> int:
    """Predict into ``out``, at first with a point after every step."""
    return run_stream(
        lambda point: watch(sequence_steps(model, prefetch(read_blocks(fasta, size=SIZE)), 4, point)),
        out,
        identity,
        resume=resume,
        template=lambda _: carried_template(model),
        save_every=None if resume else 0,
    )


@pytest.fixture(scope="module")
def whole(fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "out.csv"
    write(make(), fasta, out)
    return out.read_bytes()


@pytest.mark.parametrize(("block", "task"), thinned(KINDS))
def test_from_every_point_a_resume_gives_the_same_bytes(fasta: Path, tmp_path: Path, block: str, task: str) -> None:
    model, out = make(BLOCKS[block], TASKS[task]), tmp_path / "out.csv"
    kept: list[Path] = []

    def photograph(steps: Steps) -> Steps:
        """Keep what is on the disk between steps: what a kill there would leave."""
        for step in steps:
            yield step
            kept.append(Path(shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{len(kept)}"))))

    write(model, fasta, out, watch=photograph)
    assert len(kept) > 12, "also inside long records"
    for number, folder in enumerate(kept):
        with (folder / "out.csv.part").open("ab") as torn:
            torn.write(b'{"id": "r9", "lab' if number % 2 else b"")  # rows after the point, and a torn one
        (folder / ".draft-1-out.csv.point").write_bytes(b"what a kill leaves")
        assert write(model, fasta, folder / "out.csv", resume=True) == len(LENGTHS)
        assert (folder / "out.csv").read_bytes() == out.read_bytes()
        assert [entry.name for entry in folder.iterdir()] == ["out.csv"]


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import test_stream as t
from titans_seq import stream
from titans_seq.checkpoint import load_pretrained
def slowly(steps):
    for step in steps:
        yield step
        time.sleep(0.05)
stream.SAVE_EVERY = 0
t.write(load_pretrained(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), resume=True, watch=slowly)
"""


def point_of(out: Path) -> tuple[int, int]:
    """Records done and bases read of the open one, as the point beside an output says."""
    file = out.with_name(out.name + ".point")
    if not file.exists():
        return 0, 0
    with safe_open(str(file), "pt") as saved:
        return int(saved.get_tensor("done")), int(saved.get_tensor("inside"))


def test_killed_several_times(fasta: Path, whole: bytes, tmp_path: Path) -> None:
    save_pretrained(make(), tmp_path / "model")
    out = tmp_path / "out.csv"
    command = [sys.executable, "-c", CHILD, str(tmp_path / "model"), str(fasta), str(out), str(Path(__file__).parent)]
    for done, inside in ((2, 0), (3, 2 * SIZE), (3, 5 * SIZE)):
        with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
            while process.poll() is None and point_of(out) < (done, inside):
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL and not out.exists()
    write(load_pretrained(str(tmp_path / "model")), fasta, out, resume=True)
    assert out.read_bytes() == whole


def broken(steps: Steps) -> Steps:
    """A job that stops for a reason of its own after some steps."""
    for number, step in enumerate(steps):
        if number == 5:
            raise InputError("the input ends here")
        yield step


def test_a_resume_with_something_else_is_refused(fasta: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(InputError, match="ends here"):
        write(make(), fasta, out, watch=broken)
    with pytest.raises(InputError, match=r"out\.csv\.point was left by a run with another input\. .*--overwrite"):
        write(make(), fasta, out, resume=True, identity=IDENTITY | {"input": "j"})
    with pytest.raises(InputError, match="another model and input"):
        write(make(), fasta, out, resume=True, identity={"model": "n", "input": "j"})
    wide = SequenceModel(BackboneConfig(width=32, depth=2, heads=2, block=MAG(window=8)), TASKS["classification"])
    with pytest.raises(ModelError, match="this model expects"):
        write(wide.eval(), fasta, out, resume=True)
    assert not out.exists()


def test_a_new_attempt_takes_up_nothing_of_an_older_one(fasta: Path, whole: bytes, tmp_path: Path) -> None:
    def fails(steps: Steps) -> Steps:
        yield from ()
        raise InputError("no step at all")

    out = tmp_path / "out.csv"
    with pytest.raises(InputError, match="ends here"):
        write(make(), fasta, out, watch=broken)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.csv.part", "out.csv.point"]
    with pytest.raises(InputError, match="no step at all"):
        write(make(), fasta, out, watch=fails)
    assert not list(tmp_path.iterdir()), "what cannot be resumed is not left"
    write(make(), fasta, out, resume=True)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("left", [None, b'{"id": "r0"'])
def test_rows_that_were_lost_are_missed(fasta: Path, tmp_path: Path, left: bytes | None) -> None:
    out, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    with pytest.raises(InputError, match="ends here"):
        write(make(), fasta, out, watch=broken)
    part.unlink() if left is None else part.write_bytes(left)
    with pytest.raises(ModelError, match=r"out\.csv\.part has \d+ bytes of \d+: it was cut\. .*--overwrite"):
        write(make(), fasta, out, resume=True)


def test_a_damaged_point_is_told(fasta: Path, tmp_path: Path) -> None:
    out, point = tmp_path / "out.csv", tmp_path / "out.csv.point"
    with pytest.raises(InputError, match="ends here"):
        write(make(), fasta, out, watch=broken)
    point.write_bytes(point.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"out\.csv\.point cannot be read: .*--overwrite"):
        write(make(), fasta, out, resume=True)


# --- the same through the command line


@pytest.fixture
def stopped(titans: Any, models: Any, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A command whose output a signal stopped half-way."""
    source = tmp_path / "x.fa"
    source.write_bytes(fasta.read_bytes())
    given = ["genomics", "predict", models.classifier, source, "--out", tmp_path / "out.csv", "--threads", "1"]
    steps = sequence_steps

    def signalled(*arguments: Any) -> Steps:
        for number, step in enumerate(steps(*arguments)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step

    with monkeypatch.context() as patch:
        patch.setattr("titans_seq.genomics.sequence_steps", signalled)
        told = titans(*given, "--batch-size", 2, code=143).stderr
    assert "Stopped by SIGTERM" in told and "the same command with --resume goes on" in told
    assert not (tmp_path / "out.csv").exists()
    return given


def test_a_signal_stops_and_a_resume_goes_on(titans: Any, stopped: list[Any], tmp_path: Path) -> None:
    assert point_of(tmp_path / "out.csv")[0] == 6
    titans(*stopped, "--batch-size", 2, "--resume")
    found = (tmp_path / "out.csv").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.csv", "x.fa"]
    again = titans(*stopped, "--batch-size", 2, "--resume")
    assert "already finished  yes" in again.stdout and "--overwrite" not in again.stderr
    os.utime(tmp_path / "x.fa", (later := time.time() + 60, later))
    told = titans(*stopped, "--batch-size", 2, "--resume").stderr
    assert f"was finished before {tmp_path / 'x.fa'} was last written" in " ".join(told.split())
    assert f"{tmp_path / 'out.csv'} exists" in titans(*stopped, "--batch-size", 2, code=2).stderr
    titans(*stopped, "--batch-size", 2, "--overwrite")
    assert (tmp_path / "out.csv").read_bytes() == found


def test_a_resume_with_another_input_model_or_option(
    titans: Any, models: Any, stopped: list[Any], tmp_path: Path
) -> None:
    assert "another batch_size" in titans(*stopped, "--batch-size", 3, "--resume", code=3).stderr
    other = [models.language if part == models.classifier else part for part in stopped]
    assert "another model" in titans(*other, "--batch-size", 2, "--resume", code=3).stderr
    with (tmp_path / "x.fa").open("a") as file:
        file.write(">more\nACGT\n")
    assert f"another input {tmp_path / 'x.fa'}" in titans(*stopped, "--batch-size", 2, "--resume", code=3).stderr
    assert not (tmp_path / "out.csv").exists()


def test_stdin_cannot_be_resumed(titans: Any, models: Any, tmp_path: Path) -> None:
    given = ["genomics", "predict", models.classifier, "-", "--out", tmp_path / "out.csv", "--resume"]
    assert "needs the input as a file" in titans(*given, code=2, stdin=">a\nACGT\n").stderr


def test_a_pipe_is_read_once(titans: Any, models: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"printf '>a\\nACGT\\n' > {pipe}"]):
        titans("genomics", "predict", models.classifier, pipe, "--out", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("a,")


def test_an_output_that_another_process_writes(titans: Any, models: Any, fasta: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with locked(tmp_path / ".out.csv.lock", out):
        told = titans("genomics", "predict", models.classifier, fasta, "--out", out, code=6).stderr
    assert f"{out} is in use by process {os.getpid()} on" in told


def test_a_table_is_predicted_row_by_row(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    titans("genomics", "predict", models.classifier, tiny.table, "--out", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [str(i) for i in range(1, 25)]


def test_a_stopped_backtest_goes_on(
    titans: Any, models: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = window_steps

    def signalled(*arguments: Any) -> Steps:
        for number, step in enumerate(steps(*arguments)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    given = ["forecast", "backtest", models.wide, tiny.wide, "--windows", 5, "--batch-size", 1]
    titans(*given, "--out", tmp_path / "whole.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("titans_seq.forecast.window_steps", signalled)
        titans(*given, "--out", tmp_path / "out.jsonl", code=130)
    assert point_of(tmp_path / "out.jsonl") == (4, 0)
    titans(*given, "--out", tmp_path / "out.jsonl", "--resume")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5 * 2 * 4, "windows, columns, steps"


# --- the reader's thread


def test_an_error_of_the_reader_comes_out_where_its_item_would_have() -> None:
    def read() -> Iterator[int]:
        yield 1
        yield 2
        raise InputError("record 3 is bad")

    found = []
    with pytest.raises(InputError, match="record 3 is bad"):
        for item in prefetch(read()):
            found.append(item)
    assert found == [1, 2]


def test_a_reader_that_nobody_reads_from_ends() -> None:
    closed = []

    def read() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.append(True)

    items = prefetch(read())
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 5
    while not closed and time.monotonic() < until:
        time.sleep(0.01)
    assert closed


# --- memory


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_does_not_grow_with_the_length_of_a_record(tmp_path: Path) -> None:
    model = make(LMM(), depth=1, memory=MemoryConfig(chunk_size=128))

    def read(bases: int) -> None:
        file = tmp_path / "x.fa"
        file.write_text(">long\n" + "ACGTTGCA" * (bases // 8) + "\n")
        run_stream(
            lambda point: sequence_steps(model, prefetch(read_blocks(file, size=2048)), 4, point),
            tmp_path / f"{bases}.csv",
            IDENTITY,
            resume=False,
            template=lambda _: carried_template(model),
        )

    read(8 * 2048)
    before = peak()
    read(72 * 2048)
    # one hidden row a base, kept, would be 8 MB more; text and codes of the record are 0.3 MB
    assert peak() - before < 5_000_000


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_a_record_of_2_200_000_bases(titans: Any, models: Any, tmp_path: Path) -> None:
    def run(bases: int) -> int:
        """Peak memory of predicting one record in a process of its own, in bytes."""
        file = tmp_path / f"{bases}.fa"
        file.write_text(">long\n" + "".join(np.random.default_rng(0).choice(list("ACGT"), bases)) + "\n")
        peak = "open('/proc/self/status').read().split('VmHWM:')[1].split()[0]"  # maxrss is that of pytest at least
        program = f"from titans_seq.cli import main; import atexit; atexit.register(lambda: print({peak})); main()"
        command = [sys.executable, "-c", program, "genomics", "predict", str(models.language), str(file)]
        command += ["--out", str(tmp_path / f"{bases}.csv"), "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return 1024 * int(done.stdout.split()[-1])

    short, long = run(50_000), run(2_200_000)
    assert long - short < 30_000_000
    found = (tmp_path / "2200000.csv").read_text().splitlines()[1].split(",")
    assert found[0] == "long" and found[-1] == "2200000"
