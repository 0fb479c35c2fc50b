"""What every command shares: ``--json --quiet --debug``, the report, and how errors become exit codes."""

import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from titans_seq.errors import EnvironmentFault, TitansError, log
from titans_seq.files import to_json

Model = Annotated[str, typer.Argument(help="Run or checkpoint folder, shipped name, or hf://owner/name.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; if not given one up to width 256, else all cores.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a stopped run of the same command left off.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check inputs and options, print sizes, start nothing.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the recipe, as key=value; may be repeated.", metavar="KEY=VALUE"),
]
Run = Annotated[Path, typer.Option("--out", help="Run folder to make.")]
Config = Annotated[str | None, typer.Option(help="Backbone to build: a name of `models list`, or a YAML file.")]
Start = Annotated[
    str | None,
    typer.Option("--backbone", help="Trained backbone to start from: a run, checkpoint or name; none for a new one."),
]
StateIn = Annotated[Path | None, typer.Option(help="Memory to go on from: a file that --state-out wrote.")]
StateOut = Annotated[Path | None, typer.Option(help="File to write the memory to, as it is after the last row.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Records or windows read side by side.")]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # and what turns text around
NO_MEMORY = "can't allocate memory"  # what torch says, as a RuntimeError, where the machine has no more

_COMMON = {
    "json_": Annotated[bool, typer.Option("--json", help="Print one machine-readable result on stdout.")],
    "quiet": Annotated[bool, typer.Option("--quiet", help="Print results and errors alone.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}


def _shown_to_people(text: str) -> str:
    """Text in which what a terminal would obey, such as a column's name may hold it, is written out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class _Told(logging.Handler):
    """Warnings, and what was decided, on stderr as it is now, not as it was at import."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        print(_shown_to_people(f"{warning}{record.getMessage()}"), file=sys.stderr)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Register a function as a command: what it returns is reported, what it raises becomes message and exit code.

    A command returns the mapping to report, or nothing; or text, the mapping behind it, and the exit code. A parameter
    that is a dataclass stands for its fields, each an option.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters.values()
        groups: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}

        @functools.wraps(function)
        def run(json_: bool, quiet: bool, debug: bool, **options: Any) -> None:
            _set_up(quiet)
            try:
                for group, kind in groups.items():
                    options[group] = kind(**{field.name: options.pop(field.name) for field in fields(kind)})
                code = _report(function(**options), as_json=json_)
            except BaseException as error:
                if debug and not isinstance(error, BrokenPipeError):
                    raise
                code = _tell(error)
            raise typer.Exit(code)

        common = [_option(n, kind, False) for n, kind in _COMMON.items()]
        run.__signature__ = inspect.Signature([*(option for p in own for option in _options(p)), *common])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
        return app.command(name)(run)

    return decorate


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """What stands for a parameter on the command line: itself, or the fields of its dataclass."""
    kind = parameter.annotation
    if not is_dataclass(kind):
        return [_option(parameter.name, kind, parameter.default)]
    types = get_type_hints(kind, include_extras=True)
    return [_option(field.name, types[field.name], field.default) for field in fields(kind)]


def _set_up(quiet: bool) -> None:
    from titans_seq.progress import Progress

    if "OMP_WAIT_POLICY" not in os.environ:
        # Before torch is loaded: how long a thread of GNU's OpenMP spins for its next small product before it sleeps.
        # Without any, two threads are slower by a quarter and more; with its default a busy machine is so tenfold.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings are of matters that we have settled
    log.handlers[:] = [logging.NullHandler() if quiet else _Told()]
    log.setLevel(logging.INFO)
    Progress.quiet = quiet
    if hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII alone still gets the message
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _tell(error: BaseException) -> int:
    """Print what went wrong, once, and return the exit code of the contract."""
    if isinstance(error, BrokenPipeError):
        return 141
    if KeyboardInterrupt in (type(error), type(error.__context__)):  # Lightning makes a SystemExit of a second Ctrl-C
        message, code = "Stopped by SIGINT.", 130
    elif isinstance(error, TitansError):
        message, code = str(error), getattr(error, "exit_code", error.code)
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or NO_MEMORY in str(error):
        what = str(error).rpartition("DefaultCPUAllocator: ")[2]
        message = f"Out of memory ({what}). Lower training.batch_size, --batch-size or the length of a window."
        code = EnvironmentFault.code
    elif isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        message, code = f"{where}{error.strerror or error}.", EnvironmentFault.code
    else:
        message = f"A bug of titans-seq: {type(error).__name__}: {error}. --debug shows where; please report it."
        code = 1
    print(_shown_to_people(f"error: {message}"), file=sys.stderr)
    return code


def _report(found: Any, *, as_json: bool) -> int:
    if found is None:  # another process of the same training reports
        return 0
    text, facts, code = found if isinstance(found, tuple) else (_lines(found), found, 0)
    try:
        print(to_json(facts).rstrip() if as_json else _shown_to_people(text), flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit says nothing
        raise
    return code


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _lines(facts: dict[str, Any], indent: str = "") -> str:
    """Facts as aligned lines; a mapping inside becomes a paragraph of its own."""
    width = max((len(str(key)) for key in facts), default=0)
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{str(key).replace('_', ' ')}")
            lines.append(_lines(value, indent + "    "))
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{str(key).replace('_', ' '):<{width}}  {', '.join(map(_shown, value))}")
        else:
            lines.append(f"{indent}{str(key).replace('_', ' '):<{width}}  {_shown(value)}")
    return "\n".join(lines)


def absolute(path: str) -> str:
    """A path as a recipe keeps it, so that it can be repeated from anywhere; a file must be there."""
    from titans_seq.resources import data_file, located

    found = located(path)
    if Path(found).is_absolute():
        data_file(path)
    return found


def backbone_of(start: str | None, config: str | None, default: str) -> dict[str, Any]:
    """The recipe's ``backbone`` and ``start_from`` for ``--backbone`` and ``--config``."""
    from titans_seq.errors import UsageError

    if start and start != "none":
        if config:
            raise UsageError("--config builds a new backbone, --backbone starts from a trained one: give one of them.")
        from titans_seq.checkpoint import load_config
        from titans_seq.embedding import Patches

        _, backbone, _ = load_config(start)
        kept = start if start.startswith("hf://") or not Path(start).exists() else str(Path(start).resolve())
        of_task = {"embedding"} if isinstance(backbone.embedding, Patches) else None
        return {"backbone": backbone.model_dump(mode="json", exclude=of_task), "start_from": kept}
    return {"backbone": config or default}


def sets_length(settings: list[str] | None) -> bool:
    """Whether ``--set`` says how long to train, so that a default must not."""
    return any(s.startswith(("training.steps=", "training.epochs=")) for s in settings or [])


def weights_of(text: str) -> Any:
    """``balanced``, or NAME=WEIGHT between commas as a mapping."""
    from titans_seq.errors import UsageError

    if text == "balanced":
        return text
    try:
        pairs = [part.rpartition("=")[::2] for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise UsageError(f"--class-weights {text}: give balanced, or NAME=WEIGHT between commas.") from None
