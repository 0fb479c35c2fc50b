"""Whatever a file holds, it is read or refused by name: the targets of ``benchmarks/fuzz.py`` for a moment."""

import base64
import importlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = (
    *("fasta", "fasta, gzip", "index", "table", "parquet", "labelled sequences", "series", "tsf", "bed", "gff", "vcf"),
    *("recipe", "backbone", "description", "weights", "state", "checkpoint"),
)
PANIC = base64.b64decode(
    "UEFSMRUEFSAVMkwVBBUAAAAotS/9IBCBAAAEAAAAQUNHVAQAAABUVEdBFQAVEhUkLBUEFRAVBhUGHDYAKARUVEdBAAAAKLUv/SAJSQAAAAAA"
    "AAAVAhk8SARyb290FQQAFQwlAhgIc2VxdWVuY2UlAEwcAAAAFQwlAhgFbGFiZWwlAEwcAAAAFgQZHBksJoYCHBUMGTUABhAZGAhzZXF1ZW5j"
    "ZRUMFgQWjgEWsgEmVCYIHDYAKARUVEdBGARBQ0dUAAAW2AQVFBaIBBUuACb2AxwVDBk1AAYQGRgFbGFiZWwVDBYEFnYWmgEm3AImnAIcNgAo"
    "AXkYAXgAABbsBBUWFrYEFSIAFoQCFgQmCBbMAhQAABkcGAxBUlJPVzpzY2hlbWEY3AEvLy8vLzUwQUFBQUVBQUFBOHYvLy94UUFBQUFFQUFF"
    "QUFBQUtBQXNBQ0FBS0FBUUErUC8vL3d3QUFBQUlBQWdBQUFBRUFBSUFBQUF3QUFBQUJBQUFBTVQvLy84WUFBQUFFQUFBQUFnQUFBQUJGQUFB"
    "QUFBQUFNVC8vLzhGQUFBQWJHRmlaV3dBQUFEcy8vLy9MQUFBQUNBQUFBQVlBQUFBQVJRQUFCQUFFZ0FFQUJBQUVRQUlBQUFBREFBQUFBQUEv"
    "UC8vL3dRQUJBQUlBQUFBYzJWeGRXVnVZMlVBABhOUG9sYXJzIChweXRob24pIHZlcnNpb24gMi4xLjAgKGJ1aWxkIDdmOTAyYmQzZmZkMjdm"
    "ZjgyZDE0Mjc4YTA5YTI5NWZmMmY3YWVkOTIpGSwcAAAcAAAACAIAAFBBUjE="
)
ABORT = base64.b64decode(
    "UEFSMRUEFSAVMkwVBBUAAAAotS/9IBCBAAAEAAAAQUNHVAQAAABUVEdBFQAVEhUkLBUEFRAVBhUGHDYAKARUVEdBGARBQ0dUAAAAKLUv/SAJSQAA"
    "AgAAAAQBAQMCFQwZNQAGEBkYCHNlcXVlbmNlFQwWBBaOARayASZUJggcNgAoBFRUR0EYBEFDR1QAABUEFRQVJkwVBBUAAAAotS/9IApRAAABAAAA"
    "eAEAAAB5FQAVEhUkLBUFFRAVBhUGHDYAKAF5GAF4AAAAKLUv/SAJSQAAAgAAAAQBAQMCFQwZNQAGEBkYBWxhYmVsFQwWBBZ2FpoBJtwCJpwCHDYA"
    "KAF5GAF4AAAZEQIZGARBQ0dUGRgEVFRHQRUAGRYAABkRAhkYAXgZGAF5FQAZFgAAGRwWVBVmFgAAABkcFtwCFVoWAAAAFQIZPEgEcm9vdBUEABUM"
    "JQIYCHNlcXVlbmNlJQBMHAAAABUMJQIYBWxhYmVsJQBMHAAAABYEGRwZLCaGAhwVDBk1AAYQGRgIc2VxdWVuY2UVDBYEFo4BFrIBJlQmCBw2ACgE"
    "VFRHQRgEQUNHVAAAFtgEFRQWiAQVLgAm9gMcFQwZNQAGEBkYBWxhYmVsFQwWBBZ2FpoBJtwCJpwCHDYAKAF5GAF4AAAW7AQVFha2BBUiABaEAhYE"
    "JggWzAIUAAAZHBgMQVJST1c6c2NoZW1hGNwBLy8vLy81MEFBQUFFQUFBQTh2Ly8veFFBQUFBRUFBRUFBQUFLQUFzQUNBQUtBQVFBK1AvLy93d0FB"
    "QUFJQUFnQUFBQUVBQUlBQUFBd0FBQUFCQUFBQU1ULy8vOFlBQUFBRUFBQUFBZ0FBQUFCRkFBQUFBQUFBTVQvLy84RkFBQUFiR0ZpWld3QUFBRHMv"
    "Ly8vTEFBQUFDQUFBQUFZQUFBQUFSUUFBQkFBRWdBRUFCQUFFUUFJQUFBQURBQUFBQUFBL1AvLy93UUFCQUFJQUFBQWMyVnhkV1Z1WTJVQQAYTlBv"
    "bGFycyAocHl0aG9uKSB2ZXJzaW9uIDIuMS4wIChidWlsZCA3ZjkwMmJkM2ZmZDI3ZmY4MmQxNDI3OGEwOWEyOTVmZjJmN2FlZDkyKRksHAAAHAAA"
    "AAgCAABQQVIx"
)
FOUND = [  # by `python benchmarks/fuzz.py`, as short as it could be made, and mended since
    ("table", b","),  # two columns without a name
    ("recipe", b"backbone: dna"),  # a recipe that names a backbone there is not
    ("parquet", PANIC),  # at which polars gives up
    ("parquet", ABORT),  # at which polars ends the process, for want of 2^61 bytes
    ("tsf", b"#" + b"\n" * 60 + b"@r"),  # took for ever
    ("tsf", b"@attribute a string\n@attribute a string\n@frequency hourly\n@data\nx:x:1"),  # one name twice
    ("tsf", b"@attribute a string\n@attribute y string\n@frequency hourly\n@data\nx:x:1"),  # the name of the values
]


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("fuzz")
        for name in ("fuzz", "common"):
            sys.modules.pop(name, None)


def test_every_target_is_tried_here(fuzz: ModuleType) -> None:
    assert tuple(fuzz.targets()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_file_holds_is_read_or_refused(fuzz: ModuleType, tmp_path: Path, name: str) -> None:
    target = fuzz.targets()[name]
    changed = st.integers(0, 2**32).map(lambda seed: fuzz.changed(random.Random(seed), target.seeds, target.words))
    lines = st.lists(st.sampled_from((*target.words, *target.seeds[0].split(b"\n"), b"")), max_size=8).map(b"\n".join)

    # Parquet is read by a process each time
    @settings(max_examples=8 if name == "parquet" else 40, suppress_health_check=list(HealthCheck))
    @given(data=changed | lines | st.binary(max_size=60))
    def read_or_refused(data: bytes) -> None:
        assert fuzz.verdict(target, tmp_path, data) is None, base64.b64encode(data)

    for seed in target.seeds:
        read_or_refused.hypothesis.inner_test(seed)  # type: ignore[attr-defined]
    read_or_refused()


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_stays_mended(fuzz: ModuleType, tmp_path: Path, name: str, data: bytes) -> None:
    assert fuzz.verdict(fuzz.targets()[name], tmp_path, data) is None


@pytest.mark.parametrize("seed", range(12))
def test_an_output_stands_there_only_for_what_could_be_read(
    fuzz: ModuleType, titans: Any, models: Any, tmp_path: Path, seed: int
) -> None:
    from typer.testing import CliRunner

    from titans_seq.cli import app

    name, verb, model = [
        ("fasta", "genomics predict", models.classifier),
        ("labelled sequences", "genomics predict", models.classifier),
        ("series", "forecast predict", models.wide),
    ][seed % 3]
    target = fuzz.targets()[name]
    source, out = tmp_path / target.name, tmp_path / "out" / "o.csv"
    source.write_bytes(fuzz.changed(random.Random(seed), target.seeds, target.words))
    result = CliRunner().invoke(app, [*verb.split(), str(model), str(source), "--out", str(out), "--threads", "1"])
    assert result.exit_code in (0, 3), result.output
    assert out.exists() is (result.exit_code == 0)
    assert not out.exists() or out.read_text().count("\n") > 1
    assert not out.parent.exists() or [file.name for file in out.parent.iterdir()] == ["o.csv"]


@pytest.mark.parametrize("told", ["\x1b[31m", "\x9b0m", "a\u202eb", "\x07"], ids=ascii)
def test_what_a_file_holds_does_not_command_a_terminal(titans: Any, tmp_path: Path, told: str) -> None:
    (tmp_path / "x.csv").write_text(f"date,{told},{told}\n2024-01-01,1,2\n")
    result = titans("forecast", "audit", tmp_path / "x.csv", code=3)
    assert told not in result.output and "duplicate column name" in result.output
