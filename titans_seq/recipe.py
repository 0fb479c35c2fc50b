"""Recipe: the schema of ``pipelines/*.yaml`` and of every run folder's ``recipe.yaml``."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import MAC
from titans_seq.data.sources import Source
from titans_seq.embedding import Kmers, Nucleotides, Patches
from titans_seq.errors import ConfigError
from titans_seq.miras.choice import Choice
from titans_seq.miras.presets import PRESETS, Preset
from titans_seq.resources import Kind, data_file, find, located, whole_paths
from titans_seq.tasks import Task
from titans_seq.training.config import Training

SCHEMA = 1
LARGEST = 1_000_000  # bytes of a config; a recipe of a few kilobytes is a long one


class Recipe(Choice):
    """One job: data, backbone, task and training, from files to a trained model."""

    schema_version: Literal[1] = 1
    data: Source
    task: Task
    backbone: BackboneConfig = BackboneConfig()
    start_from: str | None = Field(
        default=None, description="Run, checkpoint or shipped name whose backbone to start from."
    )
    training: Training = Training()
    seed: int = Field(default=0, ge=0, lt=2**32)
    threads: int | None = Field(default=None, ge=1, le=4096, description="CPU threads; bitwise repeats need the same.")

    @model_validator(mode="after")
    def _data_suit_the_task(self) -> "Recipe":
        if self.data.kind != self.task.data:
            raise ValueError(f"task {self.task.kind} needs data of kind {self.task.data}, not {self.data.kind}")
        if self.training.first_length and not hasattr(self.task, "cut"):
            raise ValueError(f"training.first_length cuts windows of a language model; the task is {self.task.kind}")
        if self.task.causal and not self.backbone.causal:
            raise ValueError(
                f"task {self.task.kind} needs a causal backbone, whose rows have seen nothing that they predict: "
                "direction must be forward, equivariant false (the other strand is read from the end) and "
                "block.mode causal"
            )
        block, truncate = self.backbone.block, self.training.truncate
        if truncate and isinstance(block, MAC) and block.mode == "paper" and truncate % block.segment:
            raise ValueError(
                f"training.truncate: {truncate} ends inside a segment, and MAC as printed reads whole ones: "
                f"take a multiple of block.segment, {block.segment}, or block.mode causal"
            )
        if getattr(self.task, "two_sided", False) and self.backbone.causal:
            raise ValueError(
                f"task {self.task.kind} needs a backbone that sees what stands behind a mask: set backbone.direction "
                "to both"
            )
        if self.backbone.equivariant and self.task.field != "genomics":
            raise ValueError(f"equivariant: true is of DNA's two strands, and task {self.task.kind} reads series")
        return self

    @model_validator(mode="after")
    def _tokens_suit_the_task(self) -> "Recipe":
        tokens = self.backbone.embedding
        if isinstance(tokens, Patches):
            raise ValueError("backbone.embedding: the patches of a series follow from the task: leave it out")
        if isinstance(tokens, Kmers) and self.task.field != "genomics":
            raise ValueError(f"backbone.embedding: k-mers are words of nucleotides; task {self.task.kind} reads series")
        if tokens.stride > 1 and getattr(self.task, "bin", None) == 1:
            raise ValueError(
                f"task {self.task.kind} has an answer for every base, and words of {tokens.stride} bases side by side "
                "have one row a word: set backbone.embedding.overlapping to true"
            )
        if getattr(self.task, "word", 1) not in (1, tokens.stride):
            raise ValueError(f"task.word follows from backbone.embedding, here {tokens.stride}: leave it out")
        return self

    def text(self) -> str:
        """The recipe as YAML; the embedding stands there where it is not the usual one of the task."""
        usual = {"backbone": {"embedding"}} if isinstance(self.backbone.embedding, Nucleotides) else None
        return yaml.dump(self.model_dump(mode="json", exclude=usual), Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses duplicate keys and aliases, and reads 1e-3 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key should be a word")
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value!r} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$|^[-+]?\d*\.\d+([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """YAML in which text that `_Loader` would take for a number stands in quotes."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def read_yaml(text: str, name: str) -> dict[str, Any]:
    """Parse a mapping, without tags, aliases or duplicate keys.

    Raises:
        ConfigError: with the line and what is wrong.
    """
    if len(text) > LARGEST:
        raise ConfigError(f"{name} has {len(text):,} characters; a config has at most {LARGEST:,}.")
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        found = "empty" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{name} should be a mapping of keys to values; it is {found}.")
    return content


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a config: {error}.") from None


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    """Keys that the schema knows at a place; of a choice the place names the kind, as pydantic does."""
    whole = Recipe.model_json_schema()
    part = whole
    for key in place:
        kinds = part.get("discriminator", {}).get("mapping", {})
        part = {"$ref": kinds[key]} if key in kinds else part["properties"][key]
        while "$ref" in part:
            part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    return list(part["properties"])


def explain(error: ValidationError, at: tuple[str, ...] = ()) -> str:
    """One line a reader can act on: key, what is wrong, and the nearest known key for an unknown one.

    ``at`` is the place in a recipe of what was validated.
    """
    told = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"]) or "recipe"
        if fault["type"] == "extra_forbidden":
            near = get_close_matches(str(fault["loc"][-1]), _keys_at((*at, *fault["loc"][:-1])), n=1)
            told.append(f"{place}: unknown key" + (f", did you mean {near[0]}?" if near else ""))
        elif fault["type"] == "union_tag_not_found":
            told.append(f"{place}: say its kind too, as {fault['loc'][-1]}: {{kind: ...}}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            given = fault.get("input")
            shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
            told.append(f"{place}: {message[:1].lower()}{message[1:]}{shown}")
    return "; ".join(told)


def _file(kind: Kind, name: str) -> Path:
    """The file that is given by its path, or by the name of one that travels with the package."""
    path = Path(name)
    return data_file(path) if path.is_file() or path.suffix in (".yaml", ".yml") else find(kind, name)


def load_backbone_config(name: str) -> dict[str, Any]:
    """Content of a named config, or of a YAML file that describes a backbone."""
    file = _file("configs", name)
    content = _read_file(file)
    try:
        BackboneConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{file} is not a valid backbone: {explain(error, ('backbone',))}.") from None
    return content


def _set(content: dict[str, Any], setting: str) -> None:
    """Apply one ``a.b=value``; the value is read as YAML."""
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write it as key=value, for instance training.steps=100.")
    at, *rest = key.split(".")
    place = content
    for part in rest:
        place = place.setdefault(at, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {setting}: {at} holds a value, not a mapping.")
        at = part
    found = read_yaml(f"value: {value}", f"--set {setting}")["value"]
    if at == "preset" and found in tuple(PRESETS):
        _make_room(place, key, PRESETS[found])
    place[at] = found


def _make_room(place: dict[str, Any], key: str, preset: Preset) -> None:
    """Take out what a preset decides, since a field beside it comes over it, and of two settings the later holds."""
    memory = place
    if key.endswith("backbone.preset"):
        place.pop("block", None)
        memory = place.get("memory", {})
    for field in ("preset", *preset.memory) if isinstance(memory, dict) else ():
        memory.pop(field, None)


def _named(content: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The same with the backbone that it names."""
    name = content.get("backbone")
    try:
        return content | {"backbone": load_backbone_config(name)} if isinstance(name, str) else content
    except ConfigError as error:
        raise ConfigError(f"{recipe}: backbone: {error}") from None


def build(content: dict[str, Any], settings: tuple[str, ...] | list[str] = (), name: str = "the recipe") -> Recipe:
    """Make a recipe of a mapping and the ``--set`` of the command line.

    Raises:
        ConfigError: with every key that is wrong, and what would be right.
    """
    content = _named(dict(content), name)
    for setting in settings:
        _set(content, setting)
        content = _named(content, name)  # so that a later one may change what it names
    version = content.get("schema_version", SCHEMA)
    if isinstance(version, int) and version > SCHEMA:
        raise ConfigError(
            f"{name} has schema_version {version}; this release reads {SCHEMA}. Update titans-seq to use it."
        )
    try:
        recipe = TypeAdapter(Recipe).validate_python(content, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{name} is not a valid recipe: {explain(error)}.") from None
    begin = recipe.start_from
    if begin is not None and Path(begin).is_dir():
        begin = located(begin)
    return recipe.model_copy(update={"data": whole_paths(recipe.data), "start_from": begin})


def load_recipe(path: Path, settings: tuple[str, ...] | list[str] = ()) -> Recipe:
    """Read a recipe file, or one of the shipped recipes by name."""
    file = _file("pipelines", str(path))
    return build(_read_file(file), settings, str(file))


def differences(a: dict[str, Any], b: dict[str, Any], at: str = "") -> list[str]:
    """Keys in which two dumped recipes differ, with both values."""
    found = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{at}{key}.")
        elif left != right:
            found.append(f"{at}{key}: {left!r} there, {right!r} now")
    return found
