"""Recipes: what is written is what is read, every key is known, and faults are told with the nearest right key."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import thinned
from titans_seq import resources
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import MAC
from titans_seq.errors import ConfigError
from titans_seq.memory import MemoryConfig
from titans_seq.recipe import Recipe, build, differences, load_backbone_config, load_recipe, read_yaml

DATA: dict[str, dict[str, Any]] = {
    "language_model": {"kind": "fasta", "paths": ["x.fa"]},
    "classification": {"kind": "sequences", "train": "x.csv"},
    "forecasting": {"kind": "series", "path": "x.csv"},
}
BLOCKS = ["lmm", "mac", "mag", "mal", "attention"]
PAIRS = [*((task, BLOCKS[0]) for task in DATA), *(("classification", block) for block in BLOCKS[1:])]


def recipe(task: str = "classification", **backbone: Any) -> dict[str, Any]:
    asked = {"kind": task} | ({"horizon": 3} if task == "forecasting" else {})
    return {"data": DATA[task], "task": asked, "backbone": backbone}


def whole(task: str, block: str) -> dict[str, Any]:
    """A recipe with every key, as a run folder keeps it."""
    content: dict[str, Any] = yaml.safe_load(build(recipe(task, block={"kind": block})).text())
    return content


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(content, dict):
        yield at
        for key, value in content.items():
            yield from places(value, (*at, key))


@pytest.mark.parametrize(("task", "block"), PAIRS)
def test_a_run_keeps_what_it_was_given(tmp_path: Path, task: str, block: str) -> None:
    first = build(recipe(task, block={"kind": block}), ["training.learning_rate=1e-4", "seed=7"])
    (tmp_path / "recipe.yaml").write_text(first.text())
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == first and again.text() == first.text()
    assert again.training.learning_rate == 1e-4 and again.seed == 7


@pytest.mark.parametrize(("task", "block"), thinned(PAIRS, 3))
def test_an_unknown_key_is_told_wherever_it_stands(task: str, block: str) -> None:
    given = whole(task, block)
    for place in places(given):
        at = content = deepcopy(given)
        for part in place:
            at = at[part]
        if not at:
            continue  # a mapping whose keys the data give
        known = max(at, key=len)
        at[known + "x"] = 1
        with pytest.raises(ConfigError, match=rf"{known}x: unknown key, did you mean {known}\?"):
            build(content)


@pytest.mark.parametrize("name", resources.names("configs"))
def test_each_shipped_config_builds(name: str) -> None:
    task = "forecasting" if name.startswith("series") else "language_model"
    build(recipe(task) | {"backbone": name})


@pytest.mark.parametrize("name", resources.names("pipelines"))
def test_each_shipped_recipe_is_valid(name: str) -> None:
    load_recipe(Path(name))


def test_a_config_file_is_told_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("width: 16\nblock: {kind: mag, windw: 3}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml is not a valid backbone: block\.mag\.windw: unknown key, did"):
        load_backbone_config(str(file))
    file.write_text("width: 16\nheads: 2\n")
    assert build(recipe() | {"backbone": str(file)}).backbone.width == 16


def test_settings_reach_any_key() -> None:
    sets = ["backbone.block={kind: lmm, persistent: 0}", "training.steps=5", "task.classes=[a, b]", "data.label=y"]
    made = build(recipe() | {"backbone": "dna_tiny"}, sets)
    assert made.backbone.block.kind == "lmm" and made.backbone.width == 96, "a named config is only changed"
    assert made.training.steps == 5 and made.task.classes == ("a", "b") and made.data.label == "y"
    assert build(recipe(), ["backbone=dna_tiny", "backbone.depth=1"]).backbone.width == 96, "nor is one that is set"


def test_a_preset_that_is_set_comes_over_what_the_config_has() -> None:
    def made(*sets: str) -> BackboneConfig:
        return build(recipe() | {"backbone": "dna_tiny"}, sets).backbone

    for name in ("lmm", "mac", "yaad", "gla"):
        ours, plain = made(f"backbone.preset={name}"), BackboneConfig.model_validate({"preset": name})
        assert ours.block == plain.block and ours.width == made().width, name
        assert (ours.memory.structure, ours.memory.bias) == (plain.memory.structure, plain.memory.bias), name
        assert ours.memory.learning == plain.memory.learning and ours.memory.chunk_size == made().memory.chunk_size
    memory = made("backbone.memory.preset=ttt_mlp").memory
    assert memory == MemoryConfig.model_validate({"preset": "ttt_mlp"})
    whole = made("backbone.memory.preset=yaad", "backbone.preset=mac").memory  # nor does an earlier one hold
    assert whole.structure == BackboneConfig.model_validate({"preset": "mac"}).memory.structure and not whole.rope
    later = made("backbone.preset=mac", "backbone.memory.structure={kind: matrix}", "backbone.block.segment=32")
    assert later.memory.structure.kind == "matrix" and later.block == MAC(segment=32)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+2", 100.0),
        ("-2.5e3", -2500.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("7", 7),
        ("1e", "1e"),
        ("'1e-3'", "1e-3"),
        ("e3", "e3"),
        ("null", None),
        ("true", True),
    ],
)
def test_numbers_are_read_as_they_look(text: str, value: Any) -> None:
    assert read_yaml(f"a: {text}", "test") == {"a": value}


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_a_mapping_or_is_explained(text: str) -> None:
    try:
        assert isinstance(read_yaml(text, "test.yaml"), dict)
    except ConfigError as error:
        assert "test.yaml" in str(error)


def test_data_must_suit_the_task_and_the_backbone_too() -> None:
    with pytest.raises(ConfigError, match="task classification needs data of kind sequences, not series"):
        build(recipe() | {"data": DATA["forecasting"]})
    printed = {"block": {"kind": "mac", "mode": "paper"}}
    build(recipe("classification", **printed))
    with pytest.raises(ConfigError, match=r"task language_model needs a causal backbone, .* block\.mode causal"):
        build(recipe("language_model", **printed))
    with pytest.raises(ConfigError, match=r"training\.truncate: 40 ends inside a segment, .* block\.segment, 64, or"):
        build(recipe("classification", **printed) | {"training": {"truncate": 40}})
    build(recipe("classification", **printed) | {"training": {"truncate": 128}})


@pytest.mark.parametrize("text", ["1e20", "1E3", "-.5e3", ".inf", "001", "no", "~", "a: b"])
def test_text_stays_text(text: str, tmp_path: Path) -> None:
    first = build(recipe("forecasting"), [])
    data = first.data.model_copy(update={"target": (text,)})
    (tmp_path / "recipe.yaml").write_text(first.model_copy(update={"data": data}).text())
    assert load_recipe(tmp_path / "recipe.yaml").data.target == (text,)


def test_a_choice_without_its_kind_is_told() -> None:
    with pytest.raises(ConfigError, match=r"task\.forecasting\.output: say its kind too, as output: \{kind: \.\.\.\}"):
        build(recipe("forecasting"), ["task.output.levels=[0.5]"])
    assert build(recipe("forecasting"), ["training.precision=32"]).training.precision == "32"


def test_a_recipe_can_be_repeated_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    regions = {"reference": "g.fa", "blacklist": "sample:ecoli_region/x.bed"}
    content = recipe("classification") | {"start_from": "model"}
    content["data"] = {"kind": "sequences", "train": "a.bed", "bigwig": ["x.bw"], "regions": regions}
    found = build(content, ["data.validation=b.bed"])
    assert (found.data.train, found.data.validation) == (str(tmp_path / "a.bed"), str(tmp_path / "b.bed"))
    assert found.data.bigwig == (str(tmp_path / "x.bw"),) and found.data.labels is None
    assert found.data.regions.reference == str(tmp_path / "g.fa")
    assert found.data.regions.blacklist == "sample:ecoli_region/x.bed" and found.start_from == str(tmp_path / "model")
    assert build(recipe("forecasting"), ["data.path=synthetic:1/2/300"]).data.path == "synthetic:1/2/300"


def test_differences_name_key_and_both_values() -> None:
    one, other = (build(recipe(), [f"backbone.width={width}"]).model_dump(mode="json") for width in (16, 32))
    assert differences(one, other) == ["backbone.width: 16 there, 32 now"]
    assert differences(one, one) == []
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a: 1 there, None now", "b: None there, {'c': 2} now"]


def test_a_recipe_is_all_that_decides_a_run() -> None:
    assert set(Recipe.model_fields) == {
        "schema_version",
        "data",
        "task",
        "backbone",
        "start_from",
        "training",
        "seed",
        "threads",
    }
