"""A model as a folder that needs nothing of titans-seq: weights, its description, and the code that reads them.

The code is that of this release, the modules that a forward pass needs and no others, with a stand-in for pydantic. So
an exported model is the same model in every bit; it is no second implementation.
"""

import ast
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from titans_seq import __version__
from titans_seq.checkpoint import SequenceModel, find, load_pretrained, save_pretrained
from titans_seq.errors import ModelError, UsageError
from titans_seq.files import must_be_new, sha256, whole_folder
from titans_seq.resources import PACKAGE

ROOTS = ("titans_seq.checkpoint", "titans_seq.ops.arithmetic")
CODE = f"titans_seq_{__version__.replace('.', '_')}"  # two releases may be loaded side by side
WINDOW = "window.pt2"


def export(source: str, out: Path, *, window: int | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Write a model as a folder that loads with torch, safetensors and numpy alone.

    Args:
        source: the model.
        out: the folder.
        window: also write the forward pass of windows of so many tokens, or rows of a series, by `torch.export`.
        overwrite: replace what is there.

    Raises:
        ModelError: if the forward pass of a window cannot be written exactly; says why.
    """
    must_be_new(out, overwrite=overwrite, folder=True)
    if overwrite and out.is_dir() and any(out.iterdir()):
        _must_be_export(out)
    model = load_pretrained(source)
    if window is not None and model.task.field == "forecast" and window != model.task.window:
        raise UsageError(f"--window {window}: {source} reads windows of {model.task.window} rows. Give so many.")
    with whole_folder(out) as draft:
        save_pretrained(model, draft / "model", _readme(model, source, window))
        for file in (draft / "model").iterdir():
            file.rename(draft / file.name)
        (draft / "model").rmdir()
        (draft / "load.py").write_text(_renamed((PACKAGE / "export" / "load.py").read_text("utf-8")), "utf-8")
        for name, path in _modules(ROOTS).items():
            file = draft.joinpath(CODE, *name.split(".")[1:], *(["__init__"] if path.name == "__init__.py" else []))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".py").write_text(_renamed(path.read_text("utf-8")), "utf-8")
        (draft / CODE / "__init__.py").write_text(f'"""What a model of titans-seq {__version__} is made of."""\n')
        (draft / CODE / "fields.py").write_text((PACKAGE / "export" / "fields.py").read_text("utf-8"), "utf-8")
        if window is not None:
            _write_window(model, source, window, draft / WINDOW)
    return {"out": str(out), "parameters": sum(p.numel() for p in model.parameters()), "code": CODE}


def _must_be_export(out: Path) -> None:
    """Refuse to replace a folder that holds anything but an export.

    Raises:
        UsageError: with what it holds.
    """
    own = re.compile(
        r"load\.py|__pycache__|(config|task)\.json|model\.safetensors|README\.md|SHA256SUMS|window\.pt2|titans_seq_\w+"
    )
    strange = sorted(entry.name for entry in out.iterdir() if not own.fullmatch(entry.name))
    if strange or out.is_symlink() or not (out / "load.py").is_file():
        raise UsageError(
            f"{out} is not a folder that `models export` wrote{f', it holds {strange[0]}' if strange else ''}, so that "
            "--overwrite does not replace it. Choose another --out."
        )


def _renamed(text: str) -> str:
    return text.replace("titans_seq", CODE).replace("from pydantic import", f"from {CODE}.fields import")


def _modules(roots: Iterable[str]) -> dict[str, Path]:
    """Modules of the package that these need, themselves among them, each with its file."""
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        path = PACKAGE.joinpath(*name.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in found or name == "titans_seq" or not file.is_file():
            continue  # what is no file is a name within a module
        found[name] = file
        waiting.append(name.rpartition(".")[0])
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("titans_seq."):
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


# --- windows of one size


class _Keys(dict[str, Tensor]):
    """A batch that notes which of its parts are read."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.read: dict[str, None] = {}

    def __getitem__(self, name: str) -> Tensor:
        self.read[name] = None
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 (that would be this)


def example(model: SequenceModel, length: int, batch: int = 2) -> dict[str, Tensor]:
    """A batch of random windows with the parts that the forward pass reads.

    Args:
        model: what reads.
        length: tokens, or rows of a series.
        batch: windows.
    """
    task, g = model.task, torch.Generator().manual_seed(0)
    if task.field == "genomics":
        tokens = torch.randint(0, 4, (batch, length), generator=g)
        given = {"tokens": tokens, "previous": torch.full((batch,), 5), "masked": tokens}
    else:
        C, known, beside = len(task.channels), task.known, task.beside
        static = len(task.covariates.location) - beside
        sizes = {"past": (length, C), "known": (length + task.horizon, known), "past_only": (length, beside - known)}
        given = {name: torch.randn(batch, *size, generator=g) for name, size in sizes.items() if size[-1]}
        given["observed"] = torch.ones(batch, length, C, dtype=torch.bool)
        given |= {"static": torch.randn(batch, static, generator=g)} if static else {}
    keys = _Keys(given)
    with torch.no_grad():
        model(keys)
    return {name: given[name] for name in keys.read}


class _Window(nn.Module):
    """The forward pass as a function of tensors."""

    def __init__(self, model: SequenceModel, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *parts: Tensor) -> Any:
        """The output, its tensors as a tuple where there are several."""
        output = self.model(dict(zip(self.names, parts, strict=True)))
        return output if isinstance(output, Tensor) else tuple(output)


def _write_window(model: SequenceModel, source: str, window: int, file: Path) -> None:
    """Write the forward pass of one window, if the program that torch makes of it gives the same bits."""
    given = example(model, window, 1)
    module, parts = _Window(model, list(given)).eval(), tuple(given.values())
    why = ""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, parts)
            program.graph_module.graph.eliminate_dead_code()  # what gives no tensor at all is not read again
            torch.export.save(program, file)
            again = torch.export.load(file).module()
            other = tuple(part.flip(1) if part.ndim > 1 else part for part in parts)
            for batch in (parts, other):
                ours, theirs = module(*batch), again(*batch)
                pairs = [(ours, theirs)] if isinstance(ours, Tensor) else zip(ours, theirs, strict=True)
                if not all(torch.equal(a, b) for a, b in pairs):
                    why = "the program that torch makes of it rounds otherwise"
    except Exception as error:  # torch's compiler raises many kinds
        why = str(error).strip().partition("\n")[0] or type(error).__name__
    if why:
        raise ModelError(
            f"{source}: the forward pass of {window} tokens cannot be written by torch.export: {why}. Leave out "
            "--window; load() reads windows of every size."
        )


def _readme(model: SequenceModel, source: str, window: int | None) -> str:
    length = window or (model.task.window if model.task.field == "forecast" else 64)
    shapes = "\n".join(
        f"- `{name}`: {tuple(part.shape)}, {str(part.dtype).removeprefix('torch.')}"
        for name, part in example(model, length, 1).items()
    )
    meaning = (
        "`tokens`: A C G T N are 0 1 2 3 4; 6 pads on the right. `previous`: the base before the window, 5 for none."
        if model.task.field == "genomics"
        else "`past`: rows in the data's units, 0 where `observed` is false. The forecast is in training standard "
        "deviations: times `model.task.scale`, plus `model.task.location`."
    )
    program = (
        f"\n`load_window()` gives the forward pass of exactly these shapes as a module that takes its parts in this "
        f"order, from `{WINDOW}`; it needs torch alone.\n"
        if window
        else ""
    )
    return (
        f"# {model.task.kind}, exported by titans-seq {__version__}\n\n"
        "Loads with torch, safetensors and numpy:\n\n"
        "```python\nfrom load import load  # this folder is on the path\n\nmodel = load()\noutput = model(batch)\n"
        "```\n\n"
        f"A batch holds, here for one window of {length}:\n\n{shapes}\n\n{meaning}\n{program}\n"
        f"`{CODE}/` is code of titans-seq (Apache-2.0). The weights are those of SHA-256 "
        f"{sha256(find(source) / 'model.safetensors')}.\n"
    )
