"""What travels with the package works: every config builds, every recipe trains, the cards' commands are right."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.conftest import thinned
from titans_seq.backbone import BackboneConfig
from titans_seq.data.sources import SeriesSource
from titans_seq.embedding import Patches
from titans_seq.job import parameters
from titans_seq.recipe import load_backbone_config, load_recipe
from titans_seq.resources import PREFIXES, card, find, is_drawn, is_there, names
from titans_seq.run import train
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.language import LanguageModel

CONTRACT = ("recipe.yaml", "checkpoints", "model", "metrics.csv", "events", "manifest.json", "report.html")
ONE_STEP = ["training.steps=1", "training.epochs=null", "training.batch_size=2", "threads=1"]
ROWS = 1000  # of series to validate with, at most
# for validation parts of half a million bases
SMALL = ["backbone.width=16", "backbone.depth=1", "backbone.heads=2", "start_from=null"]


def data_of(name: str) -> list[str]:
    """The files that a recipe names."""
    data: dict[str, Any] = yaml.safe_load(find("pipelines", name).read_text(encoding="utf-8"))["data"]
    return [
        file
        for file in (data.get("path"), data.get("train"), data.get("validation"), *data.get("paths", ()))
        if isinstance(file, str) and not is_drawn(file)
    ]


@pytest.mark.parametrize("name", names("configs"))
def test_config_describes_a_backbone_that_builds(name: str) -> None:
    config = BackboneConfig.model_validate(load_backbone_config(name))
    series = name.startswith("series")
    task = Forecasting(horizon=4, channels=("a",), location=(0.0,), scale=(1.0,)) if series else LanguageModel()
    config = config.model_copy(update={"embedding": Patches(features=32)}) if series else config
    assert parameters(config, task) > 1000


@pytest.mark.parametrize("name", names("pipelines"))
def test_recipe_reads_what_everybody_calls_alike(name: str) -> None:
    for file in data_of(name):
        assert file.startswith(PREFIXES)
        sample, _, inside = file.partition(":")[2].partition("/")
        assert inside in card(sample)["files"]


@pytest.mark.parametrize("name", thinned([*names("pipelines")[1:], names("pipelines")[0]], 4))  # the smaller ones
def test_recipe_trains_a_step_and_leaves_what_the_contract_says(name: str, tmp_path: Path) -> None:
    files = data_of(name)
    if not all(map(is_there, files)):
        pytest.skip("TITANS_SEQ_DATA does not name a folder with the files of its data card")
    own = all(file.startswith("sample:") for file in files)
    sets = ONE_STEP if own else ONE_STEP + SMALL
    recipe = load_recipe(Path(name), sets)
    if is_drawn(getattr(recipe.data, "path", "")):
        recipe = load_recipe(Path(name), [*ONE_STEP, "data.path=synthetic:0/4/1024", "data.validation=2"])
    elif isinstance(recipe.data, SeriesSource) and not 1 <= recipe.data.validation <= ROWS:
        recipe = load_recipe(Path(name), [*sets, f"data.validation={ROWS}"])
    run = tmp_path / "run"
    found = train(recipe, run, device="cpu")
    assert found["steps"] == 1 and found["validation"]["step"] == 1
    assert all((run / part).exists() for part in CONTRACT)
    assert load_recipe(run / "recipe.yaml") == recipe


@pytest.mark.parametrize("name", names("datasets"))
def test_recipes_that_a_card_names_are_there(name: str) -> None:
    text = (find("datasets", name) / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"titans-seq run (\w+)", text)) <= set(names("pipelines"))


@pytest.mark.parametrize("name", ["clinvar_chr20", "human_b37"])
def test_variants_are_scored_by_the_second_of_two_commands(
    name: str, titans: Callable[..., Any], models: Any, tmp_path: Path
) -> None:
    """The command as the card has it; for the run of its first command stands a small one."""
    text = (find("datasets", name) / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"titans-seq (genomics variants .*)", text)
    command = [str(models.language) if word == "runs/human" else word for word in shlex.split(line)]
    if not all(is_there(word) for word in command if word.startswith("card:")):
        pytest.skip("TITANS_SEQ_DATA does not name a folder with the files of its data card")
    assert command[-2:] == ["--out", "scored.vcf.gz"]
    titans(*command[:-1], out := tmp_path / "scored.parquet", "--quiet")
    scored = pl.read_parquet(out)
    assert len(scored) == 612 and scored["llr"].is_finite().sum() == 611  # one has no ALT
