"""Laws of all tasks on labelled sequences, and what each makes of its labels."""

from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.metrics import mean_absolute_error, mean_squared_error

from tests.conftest import thinned
from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.record import Record
from titans_seq.data.windows import LabelledSequences
from titans_seq.embedding import PAD, other_strand
from titans_seq.errors import ConfigError, InputError
from titans_seq.tasks import Task
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.labelled import SequenceTask
from titans_seq.tasks.multilabel import MultiLabel
from titans_seq.tasks.regression import Regression
from titans_seq.tasks.segmentation import Segmentation
from titans_seq.tasks.tracks import Tracks


class Case(NamedTuple):
    """A task and labels of three sequences of 6, 6 and 8 bases, with the columns that they are of."""

    task: Any
    labels: list[str]
    columns: tuple[str, ...] = ()


CASES = {
    "classification": Case(Classification(), ["b", "a", "a"]),
    "weighted classification": Case(Classification(class_weights="balanced"), ["b", "a", "a"]),
    "multilabel": Case(MultiLabel(), ["a;b", ";", "b"]),
    "weighted multilabel": Case(MultiLabel(class_weights={"a": 3.0}), ["a;b", ";", "b"]),
    "flags": Case(MultiLabel(), ["1;1;0", "0;0;0", "0;1;1"], ("a", "b", "c")),
    "regression": Case(Regression(), ["1.5", "-2", "4e1"]),
    "regression of two": Case(Regression(), ["1.5;0", "-2;1", "4e1;5"], ("x", "y")),
    "segmentation": Case(Segmentation(), ["eeiiei", "iiiiii", "eeeeeeii"]),
    "weighted segmentation": Case(Segmentation(class_weights="balanced"), ["eeiiei", "iiiiii", "eeeeeeii"]),
    "tracks": Case(Tracks(), ["1;2;3", "0;nan;1", "4;4;4;-8"]),
    "two tracks": Case(Tracks(), ["1;2;3|3;4;5", "0;nan;1|1;1;1", "4;4;4;8|1;2;3;4"], ("x", "y")),
    "counts": Case(Tracks(objective="poisson"), ["1;2;3", "0;nan;1", "4;4;4;8"]),
}
LENGTHS = (6, 6, 8)
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def records(labels: list[str]) -> list[Record]:
    rng = np.random.default_rng(0)
    lengths = [*LENGTHS, *[6] * len(labels)]
    return [Record(str(i), rng.integers(0, 4, n).astype(np.uint8), t) for i, (t, n) in enumerate(zip(labels, lengths))]  # noqa: B905


def fitted(case: Case) -> tuple[Any, list[Record], list[np.ndarray]]:
    rows = records(case.labels)
    task = case.task.fitted("t.csv", rows, rows, case.columns)
    return task, rows, [task.target(record, f"row {record.id}") for record in rows]


def batch(task: Any, rows: list[Record], targets: list[np.ndarray]) -> dict[str, torch.Tensor]:
    items = LabelledSequences(rows, targets, False, task.along)
    return to_tensors(items.collate([items.item(i, None) for i in range(len(items))]))


def model(task: Any) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(BackboneConfig(width=16, heads=2, depth=1), task).eval()


def test_every_task_on_sequences_is_tried() -> None:
    kinds = get_args(get_args(Task)[0])
    assert {kind for kind in kinds if issubclass(kind, SequenceTask)} == {type(case.task) for case in CASES.values()}


@every_case
def test_what_the_data_decide_is_kept(case: Case) -> None:
    task, rows, targets = fitted(case)
    again = TypeAdapter(Task).validate_json(task.model_dump_json())
    assert again == task
    for record, target in zip(rows, targets, strict=True):
        np.testing.assert_array_equal(again.target(record, ""), target)


@every_case
def test_a_record_is_learned_from_alike_in_any_batch(case: Case) -> None:
    """Padding of shorter sequences, and of their targets, is in no loss and no score; float32 sums in another order."""
    task, rows, targets = fitted(case)
    both = model(task)
    with torch.no_grad():
        together = task.measures(both(whole := batch(task, rows, targets)), whole)
        alone = [task.measures(both(one := batch(task, [r], [t])), one) for r, t in zip(rows, targets, strict=True)]
    for name, values in together.items():
        np.testing.assert_allclose(values, np.concatenate([row[name] for row in alone]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", thinned(((case,) for case in CASES.values()), 3), ids=CASES)
def test_training_lowers_what_chooses_the_weights(case: Case) -> None:
    task, rows, targets = fitted(case)
    trained, data = model(task), batch(task, rows, targets)
    name, sign = task.monitor

    def score() -> float:
        with torch.no_grad():
            return float(task.metrics(task.measures(trained(data), data))[name])

    before = score()
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        loss = task.loss(trained(data), data)
        loss.backward()
        optimizer.step()
    assert sign * (score() - before) > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained.head.parameters())


@every_case
def test_a_weight_is_a_row_that_stands_so_often(case: Case) -> None:
    task, rows, targets = fitted(case)
    data = batch(task, rows, targets)
    with torch.no_grad():
        found = task.measures(model(task)(data), data)
    weight = np.array([2.0, 0.0, 3.0])
    repeated = {name: np.repeat(values, weight.astype(int), 0) for name, values in found.items()}
    with np.errstate(all="ignore"):
        assert task.metrics(found, weight) == pytest.approx(task.metrics(repeated), nan_ok=True, rel=1e-9, abs=1e-9)
        assert task.metrics(task.prepared(found), weight) == pytest.approx(task.metrics(found, weight), nan_ok=True)


@every_case
def test_the_same_answer_for_all_is_the_best_of_its_kind(case: Case) -> None:
    """The loss of the constant baseline is not larger than that of the constants around it."""
    task, _, targets = fitted(case)
    name, sign = task.monitor
    name = name.replace("weighted_", "")  # it does not know weights
    same = task.same(targets)

    def score(said: np.ndarray) -> float:
        parts = []
        for target in targets:
            one = np.broadcast_to(said, (len(target), len(said))) if task.along else said
            parts.append(task.rows(one[None], target[None]))
        return float(sign * task.metrics({n: np.concatenate([p[n] for p in parts]) for n in parts[0]})[name])

    best = score(same)
    for shift in np.eye(len(same)):
        for step in (-0.01, 0.01):
            moved = same + step * shift
            if isinstance(task, Classification | Segmentation):
                moved = moved / moved.sum()
            assert score(moved) <= best + 1e-9


@every_case
def test_the_other_strand_has_its_targets_turned_round(case: Case) -> None:
    task, rows, targets = fitted(case)
    items = LabelledSequences(rows, targets, True, task.along)
    seen = [items.item(2, np.random.default_rng(seed)) for seed in range(20)]
    flipped = [not np.array_equal(item["tokens"], rows[2].codes) for item in seen]
    assert 0 < sum(flipped) < 20
    for item, flip in zip(seen, flipped, strict=True):
        np.testing.assert_array_equal(item["label"], targets[2][::-1] if flip and task.along else targets[2])


@pytest.mark.parametrize("config", [{}, {"direction": "both"}, {"equivariant": True}], ids=str)
@pytest.mark.parametrize("name", ["classification", "segmentation", "tracks"])
def test_both_strands_give_one_answer(config: dict[str, Any], name: str) -> None:
    """f(x) = f(rc x) of the mean of both strands, of any backbone; along a sequence it turns round with it."""
    task, rows, targets = fitted(CASES[name])
    torch.manual_seed(0)
    both = SequenceModel(BackboneConfig(width=16, heads=2, depth=1, **config), task).double().eval()
    data = batch(task, rows, targets)
    other = {**data, "tokens": other_strand(data["tokens"])}
    with torch.no_grad():
        one, again = both.of_both_strands(data), both.of_both_strands(other)
    if task.along:
        again = both.head.turned(again, data["tokens"])
        real = (data["tokens"] != PAD)[:, :: task.bin]
        one, again = one[real], again[real]
    torch.testing.assert_close(one, again, rtol=1e-10, atol=1e-10)


def test_balanced_weights_give_every_class_the_same_sum() -> None:
    task, _, _ = fitted(CASES["weighted classification"])
    assert task.class_weights == {"a": 0.75, "b": 1.5}  # 3 / (2 x 2), 3 / (2 x 1), as scikit-learn's
    task, _, _ = fitted(CASES["weighted segmentation"])
    assert task.class_weights == pytest.approx({"e": 20 / (2 * 9), "i": 20 / (2 * 11)})
    task = MultiLabel(class_weights="balanced").fitted("t", rows := records(["a;b", ";", "b"]), rows, ())
    assert task.class_weights == {"a": 2.0, "b": 0.5}  # rows without over rows with
    task, _, _ = fitted(CASES["weighted multilabel"])
    assert task.class_weights == {"a": 3.0, "b": 1.0}


def test_a_weight_in_the_loss_is_a_row_that_stands_so_often() -> None:
    logits, label = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    task = Classification(classes=("a", "b"), class_weights={"a": 1.0, "b": 2.0})
    twice = torch.tensor([0, 1, 1, 2, 2, 3])
    plain = Classification(classes=("a", "b")).loss(logits[twice], {"label": label[twice]})
    torch.testing.assert_close(task.loss(logits, {"label": label}), plain)


def test_perfect_answers_have_perfect_scores() -> None:
    task, _, targets = fitted(CASES["two tracks"])
    rows = task.rows(np.stack(targets[:2]), np.stack(targets[:2]))
    found = task.metrics(rows)
    assert found["mse"] == pytest.approx(0, abs=1e-12) and found["pearson"] == pytest.approx(1)
    task, _, targets = fitted(CASES["segmentation"])
    found = task.metrics(task.rows(np.eye(2)[np.stack(targets[:2])], np.stack(targets[:2])))
    assert found["mcc"] == found["f1_e"] == 1 and found["log_loss"] == pytest.approx(0, abs=1e-9)


def test_predictions_are_in_the_unit_of_the_data() -> None:
    task, _, targets = fitted(CASES["regression of two"])
    found = task.columns(torch.tensor(np.stack(targets)))
    assert found["predicted_x"] == pytest.approx([1.5, -2, 40], abs=1e-5)  # targets are float32
    assert found["predicted_y"] == pytest.approx([0, 1, 5], abs=1e-5)
    task, _, targets = fitted(CASES["tracks"])
    found = task.tracks(torch.tensor(targets[0])[None])
    assert task.track_names == ["predicted"] and found[0, 0].tolist() == pytest.approx([1, 2, 3])


def test_several_numbers_of_one_column_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """1,234 may have been meant as one."""
    caplog.set_level("INFO")
    rows = records(["1,234", "2,345", "3,111"])
    assert len(Regression().fitted("t.csv", rows, rows, ()).targets) == 2
    assert "t.csv: labels hold 2 numbers each, such as '1,234'; each is a target" in caplog.text
    caplog.clear()
    Regression().fitted("t.csv", records(["1.5;0", "-2;1"]), records(["1.5;0", "-2;1"]), ("x", "y"))
    assert not caplog.text


@pytest.mark.parametrize("task", [Regression(), Tracks(), Tracks(objective="poisson")], ids=["one", "tracks", "counts"])
def test_errors_are_in_the_unit_of_the_data(task: Any) -> None:
    """As scikit-learn has them of labels and predictions; weights are still chosen in training scale."""
    rng = np.random.default_rng(0)
    columns, bins = 2, 4 if task.along else 1
    value, found = (rng.uniform(1, 9, (30, bins, columns)) * [1.0, 1e3] for _ in range(2))
    rows = [
        Record(str(i), np.zeros(4, np.uint8), "|".join(";".join(map(str, track)) for track in value[i].T))
        if task.along
        else Record(str(i), np.zeros(4, np.uint8), ";".join(map(str, value[i, 0])))
        for i in range(len(value))
    ]
    task = task.fitted("t.csv", rows, rows, ("x", "y"))
    said = (found - task.location) / task.scale
    target = np.stack([task.target(record, "") for record in rows])
    scores = task.metrics(task.rows(said if task.along else said[:, 0], target))
    flat, flat_found = value.reshape(-1, columns), found.reshape(-1, columns)
    mse, mae = (f(flat, flat_found, multioutput="raw_values") for f in (mean_squared_error, mean_absolute_error))
    assert [scores["mse_x"], scores["mse_y"]] == pytest.approx(mse, rel=1e-5)  # targets are float32
    assert [scores["mae_x"], scores["mae_y"]] == pytest.approx(mae, rel=1e-5)
    assert (scores["mse"], scores["mae"]) == pytest.approx((mse.mean(), mae.mean()), rel=1e-5)
    assert scores["scaled_mse"] == pytest.approx(np.mean(mse / np.square(task.scale)), rel=1e-5)
    if task.monitor[0] != "poisson_loss":
        lost = task.loss(torch.tensor(said if task.along else said[:, 0]), {"label": torch.tensor(target)})
        assert task.monitor == ("scaled_mse", -1) and scores["scaled_mse"] == pytest.approx(float(lost), rel=1e-5)


def test_rows_without_any_label_can_be_told_and_read_again() -> None:
    task, _, _ = fitted(CASES["multilabel"])
    logits = torch.tensor([[3.0, -3.0], [-3.0, -3.0], [3.0, 3.0]])
    labels = task.columns(logits)["label"]
    assert labels == ["a", ";", "a;b"]
    again = [task.target(r, "").tolist() for r in records(labels)]
    assert again == (logits > 0).float().tolist()


def test_bins_are_the_mean_of_their_rows() -> None:
    task, rows, targets = fitted(CASES["tracks"])
    head, data = model(task).head, batch(task, rows, targets)
    hidden = torch.randn(3, 8, 16)
    means = torch.stack([hidden[2, at : at + 2].mean(0) for at in range(0, 8, 2)])
    found = head.result(head.fold(head.start(data), hidden, data))
    torch.testing.assert_close(found[2], head.logits(means))
    short = batch(task, rows[:2], targets[:2])
    torch.testing.assert_close(found[:2, :3], head.result(head.fold(head.start(short), hidden[:2, :6], short)))


@pytest.mark.parametrize(
    ("task", "labels", "why"),
    [
        (
            Classification(),
            ["0.5", "0.25", "1"],
            "3 different labels in 3 rows are all numbers such as .* give --task regression",
        ),
        (MultiLabel(), ["a;b", "b;a", "a;b"], "all rows have the same labels, a, b"),
        (MultiLabel(), [";", ";", ";"], "all rows have the same labels, none"),
        (Regression(), ["1", "two", "3"], "row '1' has the label 'two', which is no number.*--task classification"),
        (Regression(), ["1;2", "1;", "3;4"], "row '1' lacks a number in one of its columns or lists"),
        (Regression(), ["1", "inf", "3"], "row '1' has an infinite label"),
        (Regression(), ["1", "nan", "3"], "row '1' has no label"),
        (Regression(), ["1", "1;2", "3"], "row '1' has 2 numbers as its label, where 1 should be"),
        (Regression(), ["1", "1", "1"], "all labels are 1. Training needs others"),
        (Segmentation(), ["eeiiei", "eei", "eeeeeeii"], "row '1' has 3 labels for 6 bases"),
        (Segmentation(), ["iiiiii", "iiiiii", "iiiiiiii"], "has only one class, 'i'"),
        (Tracks(), ["1;2;3", "1;2", "1;2;3;4"], "row '1' has 2 values of 1 tracks for 6 bases; bins of 2 bases need 3"),
        (Tracks(), ["1;2;3", "1;2;3|4;5", "1;2;3;4"], "row '1' has tracks of 3 and 2 values"),
        (Tracks(), ["1;2;3", "1;2;3|4;5;6", "1;2;3;4"], "row '1' has 3 values of 2 tracks"),
        (Tracks(), ["2;2;2", "2;2;2", "2;2;2;2"], "has the same value in all bins"),
        (
            Tracks(objective="poisson"),
            ["1;2;3", "1;-2;3", "1;2;3;4"],
            "row '1' has a negative value, which is no count",
        ),
    ],
)
def test_labels_of_another_kind_are_refused(task: Any, labels: list[str], why: str) -> None:
    rows = records(labels)
    with pytest.raises(InputError, match=why):
        task = task.fitted("t.csv", rows, rows, ())
        [task.target(record, f"t.csv: row {record.id!r}") for record in rows]


@pytest.mark.parametrize("task", [Classification, MultiLabel, Segmentation])
def test_weights_of_no_class_are_refused(task: Any) -> None:
    rows = records(["ab" * 3, "ba" * 3, "a" * 8])
    with pytest.raises(ConfigError, match=r"task.class_weights names 'z', which is no class of the data"):
        task(class_weights={"z": 2.0}).fitted("t.csv", rows, rows, ())


def test_numbers_of_another_reader_are_taken_as_they_are() -> None:
    """A bigWig's reader gives (bins, K) in `Record.values`."""
    rng = np.random.default_rng(0)
    rows = [Record(str(i), rng.integers(0, 4, 8).astype(np.uint8), values=rng.normal(size=(4, 2))) for i in range(5)]
    task = Tracks().fitted("t", rows, rows, ())
    assert task.bin == 2 and task.track_names == ["predicted_1", "predicted_2"]
    whole = np.concatenate([task.target(row, "") for row in rows])
    np.testing.assert_allclose(whole.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(whole.std(0), 1, rtol=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.task.along], ids=lambda c: c.task.kind)
def test_tracks_of_a_target_are_what_perfect_answers_give(case: Case) -> None:
    task, _, targets = fitted(case)
    for target in targets:
        known = torch.from_numpy(np.nan_to_num(target))
        if task.kind == "segmentation":
            perfect = 1e3 * torch.nn.functional.one_hot(known, len(task.classes)).float()
        else:
            perfect = known.expm1().log() if task.objective == "poisson" else known
        found = np.where(np.isnan(tracks := task.target_tracks(target)), np.nan, task.tracks(perfect[None])[0])
        np.testing.assert_allclose(found, tracks, rtol=1e-5, atol=1e-6)  # softplus and back, in float32
