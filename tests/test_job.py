"""What every verb shares: the parameters of a model that is not built."""

import subprocess
import sys
from typing import Any

import pytest

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel
from titans_seq.job import parameters
from titans_seq.miras.presets import PRESETS
from titans_seq.recipe import load_backbone_config
from titans_seq.resources import names
from titans_seq.tasks.language import LanguageModel

SIZE = {"width": 16, "heads": 2, "depth": 2}
BACKBONES: dict[str, dict[str, Any]] = {
    **{name: load_backbone_config(name) for name in names("configs")},
    **{name: {"preset": name, **SIZE} for name in PRESETS},
    "both ends": {"direction": "both", **SIZE},
    "equivariant": {"equivariant": True, **SIZE},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_parameters_are_counted_as_they_are_built(name: str) -> None:
    config, task = BackboneConfig.model_validate(BACKBONES[name]), LanguageModel()
    built = SequenceModel(config, task)
    assert parameters(config, task) == sum(weight.numel() for weight in built.parameters())


def test_to_load_a_shipped_model_does_not_import_the_compiler() -> None:
    code = "import sys; from titans_seq.job import load; load('dna_small', 'genomics'); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in said and "torch._dynamo" not in said
