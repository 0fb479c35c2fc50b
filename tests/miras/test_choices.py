"""Learning and retention as settings; what they do is tested in test_retention.py, and where they act, in tests/ops."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from titans_seq.miras.choice import Choice
from titans_seq.miras.learning import LEARNING, GradientDescent, Learning, MemoryLearning, Momentum, Orthogonalised
from titans_seq.miras.retention import KL, RETENTIONS, ElasticNet, Forgetting, Lq, RetentionGate

EVERY_CHOICE: list[tuple[Any, Choice]] = [
    *((MemoryLearning, learning(step=0.5, normalised=False)) for learning in LEARNING),
    *((RetentionGate, retention()) for retention in RETENTIONS),
    (RetentionGate, Forgetting(towards="zero")),
    (RetentionGate, Lq(q=3.0, form="printed")),
    (RetentionGate, KL(scale=1.0, signed=True)),
    (RetentionGate, ElasticNet(threshold=0.1)),
    (MemoryLearning, Orthogonalised(momentum=False)),
]
every_choice = pytest.mark.parametrize(("union", "choice"), EVERY_CHOICE, ids=str)


@every_choice
def test_config_round_trip(union: Any, choice: Choice) -> None:
    again = TypeAdapter(union).validate_json(choice.model_dump_json())
    assert again == choice and type(again) is type(choice)


@every_choice
def test_an_unknown_key_is_refused(union: Any, choice: Choice) -> None:
    with pytest.raises(ValidationError, match="tolerance"):
        TypeAdapter(union).validate_python({**choice.model_dump(), "tolerance": 1})


@every_choice
def test_a_choice_cannot_be_changed(union: Any, choice: Choice) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        choice.kind = "other"  # type: ignore[attr-defined]


@every_choice
def test_a_choice_says_where_it_acts(union: Any, choice: Any) -> None:
    assert choice.acts.strip() and "\n" not in choice.acts


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("learning", LEARNING)
def test_a_step_that_is_no_step_is_refused(learning: type[Learning], step: float) -> None:
    with pytest.raises(ValidationError, match="step"):
        learning(step=step)


@pytest.mark.parametrize("learning", LEARNING)
def test_a_step_is_inside_its_bound(learning: type[Learning]) -> None:
    """θ ≤ κ(1-η)/C; where the sum of a chunk is normalised, θ only says how much a token counts."""
    gate = torch.rand(50)
    eta = torch.rand(50) if learning().momentum else None
    theta = learning(step=0.5).theta(gate, eta, 16)
    bound = 1 if learning.at_chunk_end else 0.5 / 16 * (1 if eta is None else 1 - eta)
    assert ((theta > 0) & (theta <= bound)).all()


def test_momentum_is_of_those_that_say_so() -> None:
    assert not GradientDescent.momentum and Momentum.momentum
    assert Orthogonalised().momentum and not Orthogonalised(momentum=False).momentum


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3), (5, 1)])
def test_an_orthogonalised_update_has_singular_values_near_its_step(shape: tuple[int, int]) -> None:
    """Its singular vectors stay, as the polynomial is odd; Muon's coefficients bring all to 0.68 to 1.13 of κ."""
    torch.manual_seed(0)
    for _ in range(20):
        update = 1e3 * torch.randn(*shape, dtype=torch.float64)
        U, before, V = torch.linalg.svd(update, full_matrices=False)
        moved = Orthogonalised(step=0.25).move(update)
        inside = U.mT @ moved @ V.mT
        near = before / before.norm() > 0.01  # of smaller ones 5 steps are not enough
        values = inside.diagonal()[near]
        assert values.min() > 0.25 * 0.6 and values.max() < 0.25 * 1.2
        torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=1e-9, atol=1e-9)
    assert torch.equal(Orthogonalised().move(torch.zeros(2, 2)), torch.zeros(2, 2))
