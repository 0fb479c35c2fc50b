"""``titans-seq models``: backbones, configs and checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titans_seq.cli.command import Model, Overwrite, command

if TYPE_CHECKING:
    from titans_seq.backbone import BackboneConfig

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@command(app, "list")
def list_models(
    presets: Annotated[
        bool, typer.Option("--presets", help="The map of MIRAS: models that a config may name.")
    ] = False,
) -> Any:
    """List the backbones that travel with the package, the configs to build new ones from, the recipes and the data.

    Example: titans-seq models list --presets
    """
    if presets:
        from titans_seq.report.presets import describe_presets

        return (*describe_presets(), 0)
    from titans_seq.checkpoint import shipped
    from titans_seq.resources import card, names

    cards = [name for name in names("datasets") if "folder" in card(name)]
    return {
        "trained backbones (--backbone)": list(shipped()) or ["none in this release"],
        "configs (--config)": names("configs"),
        "recipes (titans-seq run)": names("pipelines"),
        "samples (sample:NAME/FILE)": [name for name in names("datasets") if name not in cards],
        "data cards (card:NAME/FILE)": cards,
    }


@command(app)
def show(
    name: Annotated[
        str, typer.Argument(help="Run or checkpoint folder, shipped name, name of a config, or a file of --state-out.")
    ],
    model: Annotated[
        str | None, typer.Option(help="The model of a state file, when it is not where the file says.")
    ] = None,
) -> Any:
    """Say what a model is: its choices, its size, its task. Of a state file: what its memory holds, head by head.

    Example: titans-seq models show runs/genome
    """
    from titans_seq.errors import UsageError

    if Path(name).is_file():
        from titans_seq.report.state import describe_state

        return (*describe_state(Path(name), model), 0)
    if model is not None:
        raise UsageError(f"--model is of a state file, and {name} is none. Leave it out.")
    from titans_seq.backbone import BackboneConfig
    from titans_seq.checkpoint import load_config, shipped
    from titans_seq.job import load, parameters
    from titans_seq.recipe import load_backbone_config
    from titans_seq.resources import names
    from titans_seq.tasks.language import LanguageModel

    if name in names("configs") and name not in shipped():
        backbone = BackboneConfig.model_validate(load_backbone_config(name))
        count = parameters(backbone, LanguageModel())
        return {
            "config": name,
            "parameters_as_language_model": count,
            "backbone": backbone.model_dump(mode="json"),
            "memory_acts": _acts(backbone),
        }
    folder, backbone, task = load_config(name)
    built = load(name, task.field, "cpu")
    return {
        "folder": str(folder),
        "parameters": sum(p.numel() for p in built.parameters()),
        "task": task.model_dump(mode="json"),
        "backbone": backbone.model_dump(mode="json"),
        "memory_acts": _acts(backbone),
    }


@command(app)
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    window: Annotated[
        int | None,
        typer.Option(min=2, help="Also write the forward pass of windows of so many tokens or rows, by torch.export."),
    ] = None,
    overwrite: Overwrite = False,
) -> Any:
    """Write a model as a folder that loads with torch, safetensors and numpy alone, without titans-seq.

    Example: titans-seq models export runs/promoters --out exported
    """
    from titans_seq.export import export as run_export

    return run_export(model, out, window=window, overwrite=overwrite)


def _acts(backbone: "BackboneConfig") -> dict[str, str]:
    """Where learning and the non-linear part of retention act."""
    return {"learning": backbone.memory.learning.acts, "retention": backbone.memory.retention.acts}
