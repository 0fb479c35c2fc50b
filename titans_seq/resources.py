"""The configs, samples and recipes that travel with the package, by name."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from titans_seq.errors import ConfigError, UsageError

Kind = Literal["configs", "datasets", "pipelines"]
PACKAGE = Path(__file__).parent


def _known(kind: Kind) -> dict[str, Path]:
    """Return each name with its file, or its folder for a sample."""
    # In a wheel the folders lie in the package. In a checkout they lie beside it; there and only there, for beside
    # an installed package a folder `datasets` belongs to somebody else.
    inside = PACKAGE / kind
    folder = inside if inside.is_dir() else PACKAGE.parent / kind
    if kind == "datasets":
        return {card.parent.name: card.parent for card in sorted(folder.glob("*/card.yaml"))}
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def names(kind: Kind) -> list[str]:
    """Return the names that `find` knows, in alphabetical order."""
    return list(_known(kind))


def find(kind: Kind, name: str) -> Path:
    """Return the YAML file of a config or recipe, or the folder of a sample.

    Raises:
        ConfigError: if there is none of that name; the message lists those there are.
    """
    known = _known(kind)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is not one of {kind}.{hint} There are: {', '.join(known)}.")
    return known[name]


def is_there(path: str) -> bool:
    """Whether `data_file` finds a file."""
    try:
        data_file(path)
    except (ConfigError, UsageError):
        return False
    return True


def data_file(path: str | Path) -> Path:
    """Return the file that a recipe or command names; ``sample:NAME/FILE`` is one of a shipped sample.

    Raises:
        UsageError: if it is not there.
    """
    text = str(path)
    if text.startswith("sample:"):
        name, _, file = text.removeprefix("sample:").partition("/")
        path = find("datasets", name) / file
    if text != "-" and not Path(path).exists():
        raise UsageError(f"{path} does not exist.")
    return Path(path)
