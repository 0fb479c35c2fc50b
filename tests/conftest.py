"""What tests through the command line share: a caller, tiny data and tiny models, each made once."""

import functools
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer.testing
from click.testing import Result
from hypothesis import settings
from typer.testing import CliRunner

from titans_seq.cli import app

Call = Callable[..., Result]

settings.register_profile("any machine", deadline=None)  # what a test takes depends on what else runs
settings.load_profile("any machine")
# typer builds the tree of all commands for every call of one, which takes longer than a small command
typer.testing._get_command = functools.cache(typer.testing._get_command)


def pytest_configure(config: pytest.Config) -> None:
    """Let kernels run on tensors of the CPU, before a test imports one; ``-m gpu`` wants them on a GPU."""
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True, scope="module")
def as_in_a_new_process() -> Iterator[None]:
    """What commands set for their process, here and in another test: the library of products, and denormals.

    One thread: matrices this small are several times slower on two threads that wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def in_the_foreground() -> None:
    """A shell's background jobs ignore Ctrl-C, and what nohup starts a closed terminal; commands take that over."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def no_power_cut() -> Iterator[None]:
    """What is flushed outlives the machine, and tests do not: they kill processes at most. That it is, tests count."""
    fsync, os.fsync = os.fsync, lambda handle: None
    yield
    os.fsync = fsync


def call(*arguments: Any, code: int = 0, stdin: str | bytes | None = None) -> Result:
    """Run a command in this process; it ends with ``code`` and never shows a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, f"exit code {result.exit_code}, not {code}:\n{result.output}"
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="session")
def titans() -> Call:
    return call


def thinned(cases: Iterable[Any], every: int = 16) -> list[Any]:
    """Cases of a slow law: one of so many is tested always, the others in ``make soak``."""
    parts = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*part, marks=[pytest.mark.soak] if i % every else []) for i, part in enumerate(parts)]


def bases(count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=count))


def hours(count: int) -> list[str]:
    start = datetime(2024, 1, 1)
    return [f"{start + timedelta(hours=i):%Y-%m-%d %H:%M:%S}" for i in range(count)]


class Tiny(NamedTuple):
    """Small data, and the options that make a model of some thousand parameters."""

    fasta: Path
    vcf: Path
    table: Path
    wide: Path
    long: Path
    size: tuple[str, ...]
    forecast: tuple[str, ...]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    names = ("genome.fa", "variants.vcf", "table.csv", "wide.csv", "long.csv")
    fasta, vcf, table, wide, long = (folder / name for name in names)
    fasta.write_text("".join(f">r{i}\n{bases(200 + i, i)}\n" for i in range(4)))
    head = "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    vcf.write_text(f"{head}r0\t100\tone\t{bases(200, 0)[99]}\tN,AC\t.\t.\t.\n")
    rows = [f"{bases(30, i)},{'ab'[i % 2]}" for i in range(24)]
    table.write_text("\n".join(["sequence,label", *rows, ""]))
    wide.write_text("\n".join(["date,a,b", *(f"{t},{i % 7}.5,{i % 5}" for i, t in enumerate(hours(80))), ""]))
    series = [f"{name},{t},{i % 7}.5" for name in ("x", "y") for i, t in enumerate(hours(60))]
    long.write_text("\n".join(["unique_id,ds,y", *series, ""]))
    size = [f"backbone.{key}" for key in ("width=16", "depth=1", "heads=2")]
    options = ["--threads", "1", *(part for setting in size for part in ("--set", setting))]
    windows = ["--horizon", "4", "--lookback", "12", "--set", "task.patch=4", "--set", "task.stride=4"]
    return Tiny(fasta, vcf, table, wide, long, tuple(options), tuple([*windows, *options]))


class Models(NamedTuple):
    """Run folders of one step of training each."""

    language: Path
    classifier: Path
    wide: Path
    long: Path


@pytest.fixture(scope="session")
def models(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Models:
    runs = Models(*(tmp_path_factory.mktemp("runs") / name for name in Models._fields))
    once = ("--set", "training.steps=1", "--quiet")
    call("genomics", "pretrain", tiny.fasta, "--out", runs.language, *tiny.size, *once, "--set", "data.length=64")
    call("genomics", "finetune", tiny.table, "--out", runs.classifier, *tiny.size, *once)
    call("forecast", "train", tiny.wide, "--out", runs.wide, *tiny.forecast, *once)
    call("forecast", "train", tiny.long, "--out", runs.long, *tiny.forecast, *once)
    return runs
