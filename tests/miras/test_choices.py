"""Learning and retention are settings alone: what they do is tested where they act, in tests/ops."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from titans_seq.miras.choice import Choice
from titans_seq.miras.learning import LEARNING, GradientDescent, MemoryLearning, Momentum
from titans_seq.miras.retention import RETENTIONS, Forgetting, RetentionGate

EVERY_CHOICE: list[tuple[Any, Choice]] = [
    *((MemoryLearning, learning(step=0.5, normalised=False)) for learning in LEARNING),
    *((RetentionGate, retention()) for retention in RETENTIONS),
    (RetentionGate, Forgetting(towards="zero")),
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


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("learning", LEARNING)
def test_a_step_that_is_no_step_is_refused(learning: type[GradientDescent], step: float) -> None:
    with pytest.raises(ValidationError, match="step"):
        learning(step=step)


def test_only_momentum_has_momentum() -> None:
    assert not GradientDescent.momentum and Momentum.momentum
