"""The configs, samples, data cards and recipes that travel with the package, by name."""

import gzip
import hashlib
import os
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from titans_seq.errors import ConfigError, InputError, UsageError
from titans_seq.files import sha256

Kind = Literal["configs", "datasets", "pipelines"]
PACKAGE = Path(__file__).parent
DATA = "TITANS_SEQ_DATA"  # names the folder in which the files of data cards lie
DRAWN = "synthetic:"  # begins the name of a panel of series drawn by chance, in the place of a file to train on
PREFIXES = ("sample:", "card:", DRAWN)  # of paths that mean the same everywhere


def _known(kind: Kind) -> dict[str, Path]:
    """Return each name with its file, or its folder for a sample or card."""
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
    """Return the YAML file of a config or recipe, or the folder of a sample or data card.

    Raises:
        ConfigError: if there is none of that name; the message lists those there are.
    """
    known = _known(kind)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is not one of {kind}.{hint} There are: {', '.join(known)}.")
    return known[name]


def card(name: str) -> dict[str, Any]:
    """Return what the card of a sample or of data elsewhere says; of the latter ``folder`` is where its files lie."""
    import yaml  # on use: the command line needs none to start

    facts: dict[str, Any] = yaml.safe_load((find("datasets", name) / "card.yaml").read_text(encoding="utf-8"))
    return facts


def is_drawn(path: str) -> bool:
    """Whether a path is that of no file, but names a panel drawn by chance."""
    return path.startswith(DRAWN)


def located(path: str) -> str:
    """A path from the root on, so that it means the same from anywhere; stdin and what is no file stay as they are."""
    return path if path == "-" or path.startswith(PREFIXES) else str(Path(path).resolve())


def whole_paths(part: Any) -> Any:
    """The same with paths from the root on, so that a recipe can be repeated from anywhere."""

    def whole(path: Any) -> Any:
        if isinstance(path, tuple):
            return tuple(map(whole, path))
        return None if path is None else located(path)

    found = {name: whole(getattr(part, name)) for name in part.places}
    return part.model_copy(update=found | ({"regions": whole_paths(part.regions)} if hasattr(part, "regions") else {}))


def is_there(path: str) -> bool:
    """Whether `data_file` finds a file."""
    try:
        data_file(path)
    except (ConfigError, UsageError):
        return False
    return True


def _of_card(name: str, file: str) -> Path:
    """A local copy of one of a card's files, plain or packed, checked against its sums."""
    facts = card(name)
    files = facts["files"]
    if "folder" not in facts:
        raise UsageError(f"{name} is a sample that travels with the package. Write sample:{name}/{file}.")
    if file not in files:
        near = get_close_matches(file, files, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"{file!r} is none of the {len(files)} files of the data card {name}.{hint}")
    root = os.environ.get(DATA)
    wanted = Path(root or f"${DATA}") / facts["folder"] / file
    there = next((path for path in (wanted, wanted.with_suffix("")) if root and path.is_file()), None)
    if there is None:
        why = "is not there" if root else f"is looked for in the folder that {DATA} names, which is not set"
        raise UsageError(
            f"card:{name}/{file} {why}. It does not travel with the package; its source: {facts['source']['origin']} "
            f"Put it at {wanted}, packed or not."
        )
    stat = there.stat()
    if not _is_what(there, stat.st_size, stat.st_mtime_ns, files[file]["sha256"], files[file]["unpacked"]):
        raise InputError(
            f"{there} is not the file of the data card {name}: its SHA-256, also unpacked, is another. Get the file "
            "again, or name yours by its path, to use it as it is."
        )
    return there


@lru_cache
def _is_what(path: Path, size: int, changed: int, packed: str, plain: str) -> bool:
    """Whether a file has one of two sums, of itself or of what it holds unpacked; read again only if it changed."""
    if sha256(path) in (packed, plain):
        return True
    try:
        with gzip.open(path) as content:  # packed by another program it has other bytes
            return hashlib.file_digest(content, "sha256").hexdigest() == plain
    except (OSError, EOFError):
        return False


def data_file(path: str | Path) -> Path:
    """Return the file that a recipe or command names.

    ``sample:NAME/FILE`` is one of a shipped sample, ``card:NAME/FILE`` the user's copy of one of a data card, in the
    folder that the environment's TITANS_SEQ_DATA names.

    Raises:
        UsageError: if it is not there; of a card's file the message says what to get and where to put it.
        InputError: if a card's file has another sum.
    """
    text = str(path)
    name, _, file = text.partition(":")[2].partition("/")
    if is_drawn(text):
        raise UsageError(f"{text} is drawn by chance, to train on, and is no file. Give a table.")
    if text.startswith("card:"):
        return _of_card(name, file)
    if text.startswith("sample:"):
        path = find("datasets", name) / file
    if text != "-" and not Path(path).exists():
        raise UsageError(f"{path} does not exist.")
    return Path(path)
