"""A checkpoint is a folder that gives back the model that was saved, and starts another one's backbone."""

import json
import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly
from titans_seq.checkpoint import (
    REQUIRED,
    SequenceModel,
    check_backbone,
    find,
    load_backbone,
    load_config,
    load_pretrained,
    save_pretrained,
    shipped,
)
from titans_seq.errors import ModelError
from titans_seq.files import sha256
from titans_seq.memory import MemoryConfig
from titans_seq.stream.tracks import token_loglik
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.language import LanguageModel

SERIES = Forecasting(
    horizon=2, lookback=8, patch=4, stride=4, channels=("a", "b"), location=(1.0, 2.0), scale=(0.1, 3.0), frequency="1h"
)
TASKS: dict[str, Any] = {
    "language": LanguageModel(),
    "classification": Classification(classes=("=1", "ü")),
    "forecasting": SERIES,
}
BLOCKS = [LMM(), MAG(), MAL(persistent=0), MAC(), AttentionOnly()]


def make(task: Any = TASKS["language"], seed: int = 0, **config: Any) -> SequenceModel:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "embedding": task.embedding(), **config}
    return SequenceModel(BackboneConfig(**options), task).eval()


def batch(task: Any) -> dict[str, Tensor]:
    if task.kind == "forecasting":
        return {"past": torch.randn(3, 8, 2), "observed": torch.ones(3, 8, 2, dtype=torch.bool)}
    return {"tokens": torch.randint(0, 5, (3, 40)), "previous": torch.full((3,), 5)}


def flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, task: str, block: Any) -> None:
    model = make(TASKS[task], block=block, memory=MemoryConfig(chunk_size=8))
    save_pretrained(model, tmp_path / "model")
    back = load_pretrained(str(tmp_path / "model"))
    assert back.backbone.config == model.backbone.config and back.task == model.task
    assert not back.training
    given = batch(TASKS[task])
    with torch.no_grad():
        for one, other in zip(flat(model(given)), flat(back(given)), strict=True):
            assert torch.equal(one, other)


def test_a_folder_that_can_be_handed_on(tmp_path: Path) -> None:
    save_pretrained(make(), tmp_path / "model")
    files = {file.name: file for file in (tmp_path / "model").iterdir()}
    assert set(files) == {*REQUIRED, "README.md"}
    sums = dict(reversed(line.split("  ")) for line in files["SHA256SUMS"].read_text().splitlines())
    assert sums == {name: sha256(file) for name, file in files.items() if name != "SHA256SUMS"}
    modes = {stat.S_IMODE(file.stat().st_mode) for file in files.values()}
    assert len(modes) == 1, "whoever may read one of them may read all"
    assert json.loads(files["config.json"].read_text())["schema_version"] == 1
    assert "load_pretrained" in files["README.md"].read_text()


def test_saving_again_replaces_the_whole(tmp_path: Path) -> None:
    save_pretrained(make(seed=0), tmp_path / "model")
    (tmp_path / "model" / "stray.txt").touch()
    save_pretrained(make(seed=1), tmp_path / "model", card="# mine\n")
    assert torch.equal(load_pretrained(str(tmp_path / "model")).head.logits.weight, make(seed=1).head.logits.weight)
    assert not (tmp_path / "model" / "stray.txt").exists()
    assert (tmp_path / "model" / "README.md").read_text() == "# mine\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_run_folder_is_its_model(tmp_path: Path) -> None:
    save_pretrained(make(), tmp_path / "run" / "model")
    assert find(str(tmp_path / "run")) == find(str(tmp_path / "run" / "model")) == tmp_path / "run" / "model"
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").touch()
    with pytest.raises(ModelError, match="begun is a run without a finished model"):
        find(str(tmp_path / "begun"))


def test_a_backbone_starts_another_task(tmp_path: Path) -> None:
    save_pretrained(make(seed=0), tmp_path / "language")
    model = make(TASKS["classification"], seed=1, dropout=0.5)
    head = model.head.logits.weight.clone()
    load_backbone(model, str(tmp_path / "language"))
    for name, tensor in make(seed=0).backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor)
    assert torch.equal(model.head.logits.weight, head)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"width": 32}, "width 16 there, 32 here"),
        ({"depth": 2}, "depth 1 there, 2 here"),
        ({"memory": MemoryConfig(chunk_size=8)}, r"memory \{.*'chunk_size': 32.* there, .*'chunk_size': 8"),
        ({"embedding": SERIES.embedding()}, "embedding {'kind': 'nucleotides'} there, {'kind': 'patches'"),
    ],
)
def test_another_build_is_explained(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    save_pretrained(make(), tmp_path / "model")
    with pytest.raises(ModelError, match=f"model cannot be used here: {says}"):
        check_backbone(BackboneConfig(**{"width": 16, "depth": 1, "heads": 2, **config}), str(tmp_path / "model"))


def test_weights_of_another_precision_are_read(tmp_path: Path) -> None:
    save_pretrained(make().to(torch.bfloat16), tmp_path / "model")
    back = load_pretrained(str(tmp_path / "model"))
    assert {p.dtype for p in back.parameters()} == {torch.float32}
    torch.testing.assert_close(back.head.logits.weight, make().head.logits.weight, rtol=1e-2, atol=1e-2)


def test_older_descriptions_are_read_and_newer_ones_refused(tmp_path: Path) -> None:
    save_pretrained(make(), tmp_path / "model")
    file = tmp_path / "model" / "config.json"

    def rewrite(**changes: Any) -> None:
        before = sha256(file)
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        sums = tmp_path / "model" / "SHA256SUMS"
        sums.write_text(sums.read_text().replace(before, sha256(file)))

    rewrite(schema_version=0)
    load_config(str(tmp_path / "model"))
    rewrite(schema_version=2)
    with pytest.raises(ModelError, match=r"config\.json has schema 2, this release reads up to 1\. Update titans-seq"):
        load_config(str(tmp_path / "model"))


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_backbone_is_small_whole_and_has_its_card(name: str) -> None:
    folder = shipped()[name]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        value, _, file = line.partition("  ")
        assert sha256(folder / file) == value
    card = (folder / "README.md").read_text()
    assert all(part in card for part in ("## Data", "## Figures", "what it is not for"))


def test_dna_small_is_taken_by_its_name_and_knows_human_dna() -> None:
    model = load_pretrained("dna_small").eval()
    repeat = "GGCCGGGCGCGGTGGCTCACGCCTGTAATCCCAGCACTTTGGGAGGCCGAGGCGGGCGGATCACGAGGTC"  # how an Alu begins
    codes = np.array(["ACGT".index(base) for base in repeat], np.uint8)

    def bits(codes: np.ndarray) -> float:
        return -float(token_loglik(model, codes).mean()) / math.log(2)

    assert bits(codes) < 1 < 1.9 < bits(np.random.default_rng(0).permutation(codes)), "0.43 and 2.11; 2 is no knowledge"
