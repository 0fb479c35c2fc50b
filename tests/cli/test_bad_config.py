"""Bad configs and options through the command line: each row of the contract's table, by `run RECIPE --dry-run`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

Check = Callable[..., Result]


@pytest.fixture
def recipe(tiny: Any) -> dict[str, Any]:
    return {
        "data": {"kind": "sequences", "train": str(tiny.table)},
        "task": {"kind": "classification"},
        "backbone": {"width": 16, "depth": 1, "heads": 2},
        "training": {"steps": 1},
        "threads": 1,
    }


@pytest.fixture
def check(titans: Any, tmp_path: Path) -> Check:
    """What `run` says of a recipe before it starts."""

    def run(content: Any, *options: Any, code: int = 4) -> Result:
        file = tmp_path / "r.yaml"
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else yaml.safe_dump(content)).encode()
        file.write_bytes(content)
        result: Result = titans("run", file, "--out", tmp_path / "run", "--dry-run", *options, code=code)
        assert [entry.name for entry in tmp_path.iterdir()] == ["r.yaml"]
        return result

    return run


def test_the_recipe_of_these_tests_is_good(check: Check, recipe: dict[str, Any]) -> None:
    assert "dry run" in check(recipe, code=0).stdout


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("wdith", 1, "wdith: unknown key"),
        ("backbone.wdith", 8, "backbone.wdith: unknown key, did you mean width?"),
        ("training.learning_rat", 1, "training.learning_rat: unknown key, did you mean learning_rate?"),
        ("backbone.width", "wide", "backbone.width: input should be a valid integer"),
        ("training.steps", [1], "training.steps: input should be a valid integer"),
        ("training", 5, "training: "),
        ("training.learning_rate", float("nan"), "training.learning_rate: input should be a finite number"),
        ("training.learning_rate", float("inf"), "training.learning_rate: input should be a finite number"),
        ("training.learning_rate", -1e-3, "training.learning_rate: input should be greater than 0 (got -0.001)"),
        ("backbone.depth", -2, "backbone.depth: input should be greater than or equal to 1 (got -2)"),
        ("backbone.width", 18, "width 18 must be a multiple of 2 x heads = 4"),
        ("backbone.block", {"kind": "mac", "segment": 40}, "block.segment 40 must be a multiple of memory.chunk_size"),
        ("backbone.block", {"kind": "mab"}, "'mac'"),
        ("task.kind", "forecasting", "task"),
        ("training", {"steps": 1, "epochs": 1}, "give steps or epochs, not both"),
        ("seed", -1, "seed: input should be greater than or equal to 0"),
        ("schema_version", 2, "schema_version 2; this release reads 1. Update titans-seq"),
        ("data.kind", "fastq", "data: "),
    ],
)
def test_a_bad_value_is_told_with_its_key(
    check: Check, recipe: dict[str, Any], tmp_path: Path, key: str, value: Any, says: str
) -> None:
    place = recipe
    *path, last = key.split(".")
    for part in path:
        place = place[part]
    place[last] = value
    told = check(recipe).stderr
    assert says in told and str(tmp_path / "r.yaml") in told


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("", "it is empty", id="empty"),
        pytest.param("# nothing\n", "it is empty", id="comments alone"),
        pytest.param("- a\n- b\n", "it is a list", id="list"),
        pytest.param("just words\n", "it is a str", id="text"),
        pytest.param("seed: 1\nseed: 2\n", "line 2: the key 'seed' is there twice", id="duplicate key"),
        pytest.param("a:\n  b: 1\n  b: 2\n", "line 3: the key 'b' is there twice", id="deep duplicate"),
        pytest.param("seed: !!python/object/apply:os.system ['touch hacked']\n", "could not determine a constructor",
                     id="tag"),
        pytest.param("a: &a [x, x]\nb: [*a, *a]\n", "line 2: aliases (*name) are not read here", id="alias bomb"),
        pytest.param("a: [1\n", "is not valid YAML", id="not closed"),
        pytest.param("{[1, 2]: 3}\n", "is not valid YAML", id="list as a key"),
        pytest.param("{{a: 1}: 3}\n", "is not valid YAML", id="mapping as a key"),
        pytest.param("1: 2\n", "keys should be strings", id="number as a key"),
        pytest.param("[" * 5000 + "]" * 5000, "is not valid YAML", id="depth"),
        pytest.param("a: " + "9" * 5000, "is not valid YAML", id="digits"),
        pytest.param("a: 2020-99-99\n", "is not valid YAML", id="no date"),
        pytest.param("a: 1\n---\nb: 2\n", "is not valid YAML", id="two documents"),
        pytest.param("#" * 1_000_001, "a config has at most", id="size"),
        pytest.param(b"\xff\xfea\0:\0", "cannot be read as a config", id="UTF-16"),
        pytest.param(b"\x00\x01\x02", "is not valid YAML", id="binary"),
    ],
)  # fmt: skip
def test_what_is_no_recipe(check: Check, tmp_path: Path, content: str | bytes, says: str) -> None:
    told = check(content).stderr
    assert says in told and str(tmp_path / "r.yaml") in told
    assert len(told) < 2000
    assert not Path("hacked").exists()


def test_a_recipe_that_is_not_there(titans: Any, tmp_path: Path) -> None:
    assert "no.yaml does not exist" in titans("run", tmp_path / "no.yaml", code=2).stderr
    told = titans("run", "promoterz", code=4).stderr
    assert "'promoterz' is not one of pipelines" in told and "There are: " in told


def test_numbers_are_read_as_people_write_them(check: Check, recipe: dict[str, Any]) -> None:
    text = yaml.safe_dump(recipe).replace("steps: 1", "steps: 1\n  learning_rate: 1e-3\n  weight_decay: .5")
    check(text, code=0)


def test_every_fault_is_told_at_once(check: Check, recipe: dict[str, Any]) -> None:
    recipe["training"] = {"steps": 0, "clip": -1}
    told = check(recipe).stderr
    assert "training.steps: input should be" in told and "training.clip: input should be" in told


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.steps", "write it as key=value"),
        ("training.stepz=3", "training.stepz: unknown key, did you mean steps?"),
        ("training.steps.more=3", "holds a value, not a mapping"),
        ("training.steps=[", "is not valid YAML"),
        ("training.learning_rate=.nan", "finite number"),
    ],
)
def test_a_bad_setting(check: Check, recipe: dict[str, Any], setting: str, says: str) -> None:
    assert says in check(recipe, "--set", setting).stderr


@pytest.mark.parametrize(("config", "code"), [("no_such", 4), ("missing.yaml", 2), ("dna_tiny", 0)])
def test_a_backbone_config_by_name(titans: Any, tiny: Any, tmp_path: Path, config: str, code: int) -> None:
    given = ["genomics", "finetune", tiny.table, "--out", tmp_path / "run", "--dry-run", "--config", config]
    assert config in titans(*given, code=code).stderr or not code


def test_a_backbone_that_does_not_fit_the_machine(check: Check, recipe: dict[str, Any]) -> None:
    recipe["backbone"] |= {"width": 65536, "depth": 64, "block": {"kind": "attention"}}
    told = check(recipe).stderr
    assert "parameters and needs" in told and "bytes; this machine has" in told
