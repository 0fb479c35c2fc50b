"""``titans-seq models``: backbones, configs and checkpoints."""

from typing import Annotated, Any

import typer

from titans_seq.cli.command import command

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@command(app, "list")
def list_models() -> Any:
    """List the backbones that travel with the package, the configs to build new ones from, and the recipes.

    Example: titans-seq models list
    """
    from titans_seq.checkpoint import shipped
    from titans_seq.resources import names

    return {
        "trained backbones (--backbone)": list(shipped()) or ["none in this release"],
        "configs (--config)": names("configs"),
        "recipes (titans-seq run)": names("pipelines"),
        "samples (sample:NAME/FILE)": names("datasets"),
    }


@command(app)
def show(
    name: Annotated[str, typer.Argument(help="Run or checkpoint folder, shipped name, or name of a config.")],
) -> Any:
    """Say what a model is: its choices, its size, its task.

    Example: titans-seq models show runs/genome
    """
    from titans_seq.backbone import BackboneConfig
    from titans_seq.checkpoint import load_config, shipped
    from titans_seq.recipe import load_backbone_config
    from titans_seq.resources import names
    from titans_seq.run import load, parameters
    from titans_seq.tasks.language import LanguageModel

    if name in names("configs") and name not in shipped():
        backbone = BackboneConfig.model_validate(load_backbone_config(name))
        count = parameters(backbone, LanguageModel())
        return {"config": name, "parameters_as_language_model": count, "backbone": backbone.model_dump(mode="json")}
    folder, backbone, task = load_config(name)
    model = load(name, "cpu")
    return {
        "folder": str(folder),
        "parameters": sum(p.numel() for p in model.parameters()),
        "task": task.model_dump(mode="json"),
        "backbone": backbone.model_dump(mode="json"),
    }
