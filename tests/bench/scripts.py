"""What tests of the scripts in ``benchmarks/`` share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from titans_seq.resources import DATA

FOLDER = Path(__file__).parents[2] / "benchmarks"

Script = Callable[..., ModuleType]  # imports a script by name, as if it were started with options
real_data = pytest.mark.skipif(not os.environ.get(DATA), reason="TITANS_SEQ_DATA names no folder of real data")


def kept(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "out" / f"{name}.json").read_text())["rows"]
