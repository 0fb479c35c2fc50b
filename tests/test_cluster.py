"""The workflow of pipelines/cluster: its commands by hand, and as Snakemake runs them, give the file of one job."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import titans_seq

ROOT = Path(titans_seq.__file__).parent.parent
CLUSTER = ROOT / "pipelines" / "cluster"


@pytest.fixture
def config(models: Any, tiny: Any, tmp_path: Path) -> dict[str, Any]:
    """The shipped config, of something small."""
    shipped: dict[str, Any] = yaml.safe_load((CLUSTER / "config.yaml").read_text())
    mine = {"model": str(models.classifier), "input": str(tiny.fasta), "out": str(tmp_path / "out.tsv"), "shards": 2}
    command = shlex.join([sys.executable, str(ROOT / "cli.py")])
    return shipped | mine | {"command": command, "options": "--batch-size 1"}


@pytest.fixture
def one(titans: Any, config: dict[str, Any], tmp_path: Path) -> bytes:
    """What one job writes."""
    given = [config["model"], config["input"], "--out", tmp_path / "one.tsv", *config["options"].split()]
    titans(*config["verb"].split(), *given, "--threads", config["threads"])
    return (tmp_path / "one.tsv").read_bytes()


def test_the_commands_of_the_workflow_by_hand(titans: Any, config: dict[str, Any], one: bytes) -> None:
    text = (CLUSTER / "Snakefile").read_text()
    predict, gather = ("".join(re.findall(r'"([^"]*)"', part)) for part in re.findall(r"shell:((?:\s*\".*\")+)", text))
    out, shards = config["out"], config["shards"]
    parts = [f"{out}.{number}-of-{shards}" for number in range(1, shards + 1)]
    known = {"config": config | {"command": ""}, "OUT": out, "SHARDS": shards, "threads": config["threads"]}
    for number, part in enumerate(parts, 1):
        line = predict.format(input=config["input"], wildcards=SimpleNamespace(number=number), **known)
        titans(*shlex.split(line))
        assert Path(part).is_file()
    titans(*shlex.split(gather.format(output=out, input=" ".join(parts), **known)))
    assert Path(out).read_bytes() == one


@pytest.mark.soak
def test_the_workflow_with_two_workers(config: dict[str, Any], one: bytes, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "snakemake"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"Snakemake cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    snakemake = [python.with_name("snakemake"), "--snakefile", CLUSTER / "Snakefile", "--cores", "2"]
    done = subprocess.run(
        [*snakemake, "--configfile", tmp_path / "config.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(config["out"]).read_bytes() == one
