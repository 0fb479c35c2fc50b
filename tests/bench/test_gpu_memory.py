"""``benchmarks/gpu_memory.py``: every path of it, tiny and on the CPU, beside a peer that does nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_memory.py"
PEER = """
def chunk_ttt_linear(q, k, v, w, b, eta, chunk_size): return (q * w.T[None, None, 0, 0] + k * eta + v + b[0, 0], None)
fused_chunk_ttt_linear = chunk_ttt_linear
def chunk_gated_delta_rule(q, k, v, g, beta): return (q * g[..., None].exp() + k * beta[..., None] + v, None)
"""


@pytest.mark.soak
@pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks are in a checkout")
def test_all_of_it_runs_tiny(tmp_path: Path) -> None:
    ops = tmp_path / "peer" / "fla" / "ops"
    ops.mkdir(parents=True)
    (ops.parent / "__init__.py").write_text("__version__ = '0'")
    for name in ("ttt", "gated_delta_rule"):
        (ops / f"{name}.py").write_text(PEER)
    path = os.pathsep.join([str(ROOT), str(tmp_path / "peer")])
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "gpu_memory.json").read_text())
    cells = {name: cell["rows"] for name, cell in facts["cells"].items() if name != "ceilings"}
    assert len(cells) == 2
    for rows in cells.values():
        assert len(rows) == 12 and not [facts for facts in rows.values() if "failed" in facts]
    assert (tmp_path / "gpu_memory.md").read_text() in done.stdout
