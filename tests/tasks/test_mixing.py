"""What channels tell each other: nothing, all in one token, or by attention over variates, whatever their order."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.conftest import thinned
from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, load_pretrained, save_pretrained
from titans_seq.forecast import Forecaster
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.outputs import Point

H, L, P = 4, 16, 4
MIXINGS = ("independent", "token", "attention")
WAYS = {
    "last": {"pool": "last"},
    "flatten": {"pool": "flatten", "shortcut": True},
    "history": {"memory_lookback": 8},
    "stream": {"reads": "stream"},
}
every_way = pytest.mark.parametrize("way", WAYS)


def make(C: int, way: str = "last", mixing: str = "attention", **more: Any) -> SequenceModel:
    torch.manual_seed(0)
    given = {"horizon": H, "lookback": L, "patch": P, "stride": P, "mixing": mixing, **WAYS[way], **more}
    data = {"channels": tuple("abcdefg"[:C]), "location": (0.0,) * C, "scale": (1.0,) * C, "frequency": "1h"}
    task = Forecasting(**given, **data)
    memory = {"chunk_size": 2, "structure": {"kind": "matrix"}}
    config = BackboneConfig(width=16, heads=2, depth=1, memory=memory, embedding=task.embedding())
    return SequenceModel(config, task).double().eval()


def windows(C: int, way: str = "last", B: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    rows = L + WAYS[way].get("memory_lookback", 0)
    past, seen = torch.randn(B, rows, C, generator=g).double(), torch.rand(B, rows, C, generator=g) > 0.2
    return {"past": past, "observed": seen, "future": past[:, :H], "future_observed": seen[:, :H]}


# --- laws of attention over variates


@every_way
def test_the_order_of_channels_does_not_matter(way: str) -> None:
    model, batch, order = make(5, way), windows(5, way), [3, 0, 4, 1, 2]
    turned = {**batch, "past": batch["past"][..., order], "observed": batch["observed"][..., order]}
    torch.testing.assert_close(model(turned), model(batch)[:, :, order])


@every_way
def test_every_channel_hears_every_other_and_apart_none(way: str) -> None:
    for mixing in ("independent", "attention"):
        model, batch = make(3, way, mixing), windows(3, way)
        batch["past"].requires_grad_()
        for c in range(3):
            (slope,) = torch.autograd.grad(model(batch)[:, :, c].sum(), batch["past"])
            assert [bool(slope[..., other].any()) for other in range(3)] == [
                other == c or mixing == "attention" for other in range(3)
            ]


@every_way
def test_the_number_of_channels_shapes_no_weight_and_one_is_enough(way: str) -> None:
    shapes = [{name: t.shape for name, t in make(C, way).state_dict().items()} for C in (1, 2, 5)]
    assert shapes[0] == shapes[1] == shapes[2] and any("variates" in name for name in shapes[0])
    assert make(1, way)(windows(1, way)).isfinite().all()


@every_way
def test_a_channel_that_is_silent_now_tells_what_was_read_of_it_before(way: str) -> None:
    """Of all values behind its marks nothing reaches any channel."""
    model, batch = make(2, way), windows(2, way)
    batch["observed"][:, -P:, 1] = False  # the whole last patch
    found = model(batch)
    hidden, before = batch["past"].clone(), batch["past"].clone()
    hidden[:, -P:, 1] = 1e3
    before[:, :-P, 1] *= -1
    assert torch.equal(model({**batch, "past": hidden}), found)
    assert not torch.allclose(model({**batch, "past": before})[:, :, 0], found[:, :, 0])
    batch["observed"][..., 1] = False  # never seen at all
    assert model(batch).isfinite().all()


def test_any_cut_of_a_stream_equals_one_pass() -> None:
    model, values = make(3, "stream"), np.random.default_rng(0).normal(size=(23, 3))
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan

    def forecast(*parts: np.ndarray) -> np.ndarray:
        reader = Forecaster(model)
        for part in parts:
            reader.update(part)
        return reader.forecast(horizon=2 * H)["mean"]  # rolled beyond the horizon

    for cut in range(1, 23):
        np.testing.assert_allclose(forecast(values[:cut], values[cut:]), forecast(values), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", thinned(["last", "stream"]))
def test_a_channel_that_follows_another_is_forecast_by_attention_alone(way: str) -> None:
    """Noise a, and b that is a of H rows before, at a level that tells which it is: b's future is what a just was."""

    def drawn(count: int, seed: int) -> dict[str, Tensor]:
        noise = torch.randn(count, L + 2 * H, generator=torch.Generator().manual_seed(seed))
        rows = torch.stack([noise[:, H:], 2 + noise[:, :-H]], -1)
        seen = torch.ones_like(rows, dtype=torch.bool)
        return {"past": rows[:, :L], "observed": seen[:, :L], "future": rows[:, L:], "future_observed": seen[:, L:]}

    errors = {}
    for mixing in ("independent", "attention"):
        model = make(2, way, mixing, normalisation="training", output=Point()).float().train()
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(50):
            batch = drawn(64, step)
            adam.zero_grad()
            model.task.loss(model(batch), batch).backward()
            adam.step()
        batch = drawn(512, 10_000)
        with torch.no_grad():
            error = (model.eval()(batch)[..., 0] - batch["future"]).square().mean((0, 1))
        errors[mixing] = error[1].item()
    assert errors["independent"] > 0.9  # the variance of what it cannot know is 1
    assert errors["attention"] < 0.2  # measured: 0.08 and 0.07


# --- the choice


def test_flags_of_older_recipes_and_models_mean_the_same(tmp_path: Path) -> None:
    for flag, mixing in ((False, "independent"), (True, "token")):
        assert Forecasting(horizon=1, mixing=flag) == Forecasting(horizon=1, mixing=mixing)
        model, folder = make(2, mixing=mixing), tmp_path / mixing
        save_pretrained(model, folder)
        file, sums = folder / "task.json", folder / "SHA256SUMS"
        before = hashlib.sha256(file.read_bytes()).hexdigest()
        file.write_text(json.dumps({**json.loads(file.read_text()), "mixing": flag}))
        sums.write_text(sums.read_text().replace(before, hashlib.sha256(file.read_bytes()).hexdigest()))
        torch.testing.assert_close(
            load_pretrained(str(folder)).double()(windows(2)), model(windows(2)), rtol=1e-5, atol=1e-5
        )
    assert Forecasting(horizon=1).mixing == "independent"


@every_way
def test_what_is_saved_is_loaded(way: str, tmp_path: Path) -> None:
    model, batch = (
        make(3, way).float(),
        {n: t.float() if t.is_floating_point() else t for n, t in windows(3, way).items()},
    )
    save_pretrained(model, tmp_path / "model")
    again = load_pretrained(str(tmp_path / "model"))
    assert again.task == model.task and again.task.mixing == "attention"
    assert torch.equal(again(batch), model(batch))


def test_another_word_is_refused_with_the_list() -> None:
    with pytest.raises(ValidationError, match="'independent', 'token' or 'attention'"):
        Forecasting(horizon=1, mixing="all")


def test_the_forecast_layer_fits_other_channels_unless_they_share_a_token() -> None:
    tasks = {(mixing, C): make(C, mixing=mixing).task for mixing in MIXINGS for C in (2, 3)}
    for mixing in MIXINGS:
        assert tasks[mixing, 2].takes_head(tasks[mixing, 2])
        assert tasks[mixing, 2].takes_head(tasks[mixing, 3]) == (mixing != "token")
        assert not any(tasks[mixing, 2].takes_head(tasks[other, 2]) for other in MIXINGS if other != mixing)


@pytest.mark.parametrize("mixing", ["token", "attention", True])
def test_no_model_for_any_table_depends_on_what_stands_beside_a_channel(mixing: Any) -> None:
    with pytest.raises(ValidationError, match="zero_shot needs channels that are read apart, whatever another table"):
        Forecasting(horizon=1, zero_shot=True, mixing=mixing)
    with pytest.raises(ValidationError, match="conformal intervals are of the table they are calibrated on"):
        Forecasting(horizon=1, zero_shot=True, conformal=(80,))
