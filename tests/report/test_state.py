"""What is told of a state file, against numpy."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import MAC, MAG, AttentionOnly
from titans_seq.checkpoint import SequenceModel, save_pretrained
from titans_seq.errors import ModelError
from titans_seq.files import sha256
from titans_seq.memory import MemoryConfig
from titans_seq.memory_state import save_state
from titans_seq.report.state import SHOWN, describe_state
from titans_seq.stream.walk import Stream, advance, learned_start
from titans_seq.tasks.language import LanguageModel

BLOCKS = {"mag": (MAG(window=8), 7), "mac": (MAC(segment=16), 3), "attention": (AttentionOnly(window=8), 7)}


@pytest.fixture(params=BLOCKS)
def saved(request: Any, tmp_path: Path) -> tuple[Path, SequenceModel, Stream, int]:
    """A state file, its model, the state in it, and the rows that its attention sees."""
    block, window = BLOCKS[request.param]
    torch.manual_seed(0)
    config = BackboneConfig(width=16, depth=2, heads=2, block=block, memory=MemoryConfig(chunk_size=16))
    model = SequenceModel(config, LanguageModel()).eval()
    save_pretrained(model, tmp_path / "model")
    codes = np.random.default_rng(0).integers(0, 4, 67, np.uint8)
    with torch.inference_mode():
        _, _, stream = advance(model, model.head, codes, learned_start(model))
    about = {"model": sha256(tmp_path / "model" / "model.safetensors"), "name": str(tmp_path / "model")}
    save_state(stream, tmp_path / "state", about)
    return tmp_path / "state", model, stream, window


def test_norms_ranks_and_surprise(saved: tuple[Path, SequenceModel, Stream, int]) -> None:
    path, model, stream, window = saved
    text, facts = describe_state(path)
    assert facts["tokens"] == 67 and facts["model_found"] and "67 tokens read by" in text
    for row in facts["heads"]:
        assert row["window"] == window
        state = stream.memory.layers[row["block"]]
        if state.scan is None:
            assert row["norm"] is row["distance"] is row["surprise"] is None and row["rank"] == []
            continue
        h = row["head"]
        begin = model.backbone.blocks[row["block"]].mixer.initial_state(1).scan
        now, was, past = ([w[0, h].detach().double().numpy() for w in part] for part in (
            state.scan.weights, begin.weights, state.scan.momentum))  # fmt: skip
        assert row["norm"] == pytest.approx(np.sqrt(sum((w**2).sum() for w in now)))
        assert row["distance"] == pytest.approx(
            np.sqrt(sum(((w - x) ** 2).sum() for w, x in zip(now, was, strict=True)))
        )
        assert row["surprise"] == pytest.approx(np.sqrt(sum((w**2).sum() for w in past)))
        assert row["distance"] > 0 and row["surprise"] > 0
        for matrix, rank in zip(now, row["rank"], strict=True):
            p = np.linalg.svd(matrix, compute_uv=False)
            p /= p.sum()
            assert rank == pytest.approx(np.exp(-(p * np.log(p)).sum())) and 1 <= rank <= min(matrix.shape)
    assert len(facts["heads"]) == (2 if facts["heads"][0]["head"] is None else 4)


def test_a_model_that_moved_is_given_or_not_known(saved: tuple[Path, SequenceModel, Stream, int]) -> None:
    path, *_ = saved
    there, before = path.parent / "model", describe_state(path)[1]["heads"]
    there.rename(path.parent / "moved")
    text, facts = describe_state(path)
    assert not facts["model_found"] and "nothing is known of where it started" in text
    assert all(row["distance"] is None for row in facts["heads"])
    assert describe_state(path, str(path.parent / "moved"))[1]["heads"] == before
    with pytest.raises(ModelError, match="is no folder and no shipped backbone"):
        describe_state(path, str(there))


def test_another_model_is_refused(saved: tuple[Path, SequenceModel, Stream, int]) -> None:
    path, model, *_ = saved
    with torch.no_grad():
        model.head.logits.bias += 1
    save_pretrained(model, path.parent / "other")
    with pytest.raises(ModelError, match=rf"{path} is not of the model .*other, but of .*model"):
        describe_state(path, str(path.parent / "other"))
    shutil.rmtree(path.parent / "model")
    (path.parent / "other").rename(path.parent / "model")  # the name alone does not make it the same
    assert not describe_state(path)[1]["model_found"]


def test_many_streams_are_cut_short_in_text_alone(tmp_path: Path) -> None:
    config = BackboneConfig(width=16, depth=1, heads=2, memory=MemoryConfig(chunk_size=16))
    model = SequenceModel(config, LanguageModel())
    save_state(tuple(Stream(model.backbone.initial_state(3)) for _ in range(20)), tmp_path / "state")
    text, facts = describe_state(tmp_path / "state")
    assert len(facts["heads"]) == 20 * 3 * 2 and f"and {120 - SHOWN} rows more; --json has them all" in text
    assert [row["stream"] for row in facts["heads"][:7]] == ["0:0", "0:0", "0:1", "0:1", "0:2", "0:2", "1:0"]
    assert len(text.splitlines()) == SHOWN + 3


def test_through_the_command_line(titans: Any, models: Any, tiny: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    titans("genomics", "predict", models.language, tiny.fasta, "--out", tmp_path / "out.csv", "--state-out", state)
    found = json.loads(titans("models", "show", state, "--json").stdout)
    assert found["model"] == str(models.language) and found["tokens"] == 203
    assert "effective rank" in titans("models", "show", state).stdout
    file = models.language / "model" / "model.safetensors"
    assert "its format is 'pt'" in titans("models", "show", file, code=5).stderr
    assert "is of a state file" in titans("models", "show", "dna_tiny", "--model", "x", code=2).stderr
