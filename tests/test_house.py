"""The house rules: floors, names, what travels in the wheel, what the samples are."""

import ast
import csv
import gzip
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import titans_seq
from titans_seq import resources
from titans_seq.errors import ConfigError
from titans_seq.files import sha256

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "titans_seq"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# A room is a module or folder of the package. It imports rooms below it, and the named ones beside it.
FLOORS = [
    {"errors", "files", "resources", "progress", "signals"},
    {"miras", "ops", "rotary"},
    {"memory", "delta_memory", "memory_state", "pieces", "attention", "embedding"},
    {"backbone", "blocks", "tasks"},
    {"training", "stream", "checkpoint", "data", "baselines", "bootstrap", "accuracy", "measured"},
    {
        "run",
        "job",
        "forecast",
        "backtest",
        "anomalies",
        "genomics",
        "evaluation",
        "variants",
        "demo",
        "doctor",
        "bench",
        "recipe",
        "rank",
        "gather",
        "export",
        "gluonts",
        "report",
    },
    {"cli"},
]
BESIDE = {
    "files": {"errors"},
    "signals": {"errors"},
    "resources": {"errors", "files"},
    "ops": {"miras"},
    "memory": {"memory_state", "pieces"},
    "delta_memory": {"memory"},
    "pieces": {"memory_state"},
    "backbone": {"blocks"},
    "training": {"stream", "checkpoint", "data"},
    "stream": {"checkpoint", "data"},
    "baselines": {"data"},
    "accuracy": {"data"},
    "run": {"job", "recipe", "report"},
    "job": {"recipe"},
    "rank": {"job", "recipe", "run"},
    "gather": {"variants"},
    "forecast": {"job", "recipe"},
    "backtest": {"forecast", "job", "recipe", "report", "run"},
    "anomalies": {"forecast", "job", "report"},
    "genomics": {"job"},
    "evaluation": {"genomics", "job"},
    "variants": {"job", "report"},
    "bench": {"report"},
    "gluonts": {"forecast", "recipe"},
    "demo": {"backtest", "evaluation", "forecast", "genomics", "job", "recipe", "report", "run"},
}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS, start=-1) for room in rooms}
# What a room may import from outside; the others may import any dependency, and data all but torch.
OUTSIDE: dict[str, set[str]] = {room: set() for room in FLOORS[0]} | {"progress": {"tqdm"}, "resources": {"yaml"}}
OUTSIDE |= {room: {"torch", "pydantic"} for room in FLOORS[1]} | {"ops": {"torch", "pydantic", "triton"}}
HEAVY = {"torch", "numpy", "polars", "lightning", "gluonts", "sklearn", "matplotlib", "scipy", "pandas"}


def imports(file: Path) -> list[tuple[int, str]]:
    """Return each imported name with its line, those inside functions too: a lazy import is an import."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append((node.lineno, "." * node.level))
        elif isinstance(node, ast.ImportFrom) and node.module == "titans_seq":
            found += [(node.lineno, f"titans_seq.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.module or ""))
    return found


def breach(room: str, name: str) -> str | None:
    """Return what is wrong with a module of this room importing ``name``."""
    top, _, rest = name.partition(".")
    if not top:
        return "is relative; write the whole name"
    if top == "titans_seq":
        target = rest.partition(".")[0]
        if target in {room, "__version__"}:
            return None
        if target not in FLOOR:
            return f"names {target!r}, which has no floor; import a name from the module that defines it"
        allowed = FLOOR[target] < FLOOR[room] or target in BESIDE.get(room, ())
        return None if allowed else f"goes from floor {FLOOR[room]} to floor {FLOOR[target]}"
    if top in sys.stdlib_module_names:
        return None
    if room == "data" and top in {"torch", "lightning"}:
        return "brings a model's library into data"
    return None if top in OUTSIDE.get(room, {top}) else "is no library for this room"


def test_imports_go_down_only() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in FLOOR, f"{room} has no floor: add it to FLOORS here and in CONTRIBUTING.md"
        found = [(line, name, breach(room, name)) for line, name in imports(file)]
        wrong += [f"{file.relative_to(ROOT)}:{line}: import of {name} {why}" for line, name, why in found if why]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("room", "name", "why"),
    [
        ("memory", "titans_seq.backbone", "goes from floor 1 to floor 2"),
        ("memory", "titans_seq.attention", "goes from floor 1 to floor 1"),
        ("data", "titans_seq.training.order", "goes from floor 3 to floor 3"),
        ("data", "torch.nn", "brings a model"),
        ("miras", "numpy", "is no library"),
        ("files", "pydantic", "is no library"),
        ("blocks", ".", "is relative"),
        ("run", "titans_seq.Backbone", "has no floor"),
        ("training", "titans_seq.data.fasta", None),
        ("ops", "titans_seq.miras.bias", None),
        ("cli", "titans_seq.run", None),
        ("run", "titans_seq.__version__", None),
    ],
)
def test_the_floor_test_notices(room: str, name: str, why: str | None) -> None:
    found = breach(room, name)
    assert found is None if why is None else found is not None and why in found


@pytest.mark.parametrize("kind", ["configs", "datasets", "pipelines"])
def test_folders_that_people_edit_are_no_packages(kind: str) -> None:
    assert (ROOT / kind).is_dir()
    assert not list((ROOT / kind).rglob("__init__.py"))


TRAINING = {"lightning", "torch._dynamo"}  # seconds to import, each time


@pytest.mark.parametrize(
    ("heavy", "commands"),
    [
        (
            HEAVY,
            [
                "--version",
                "--help",
                "genomics --help",
                "genomics predict --help",
                "forecast train --help",
                "doctor --help",
            ],
        ),
        (TRAINING, ["models list"]),
    ],
    ids=["help", "what trains nothing"],
)
def test_commands_import_nothing_heavy_that_they_do_not_need(heavy: set[str], commands: list[str]) -> None:
    program = """
import sys
from titans_seq.cli import main
heavy = set(sys.argv[1].split(","))
for words in sys.argv[2:]:
    sys.argv = ["titans-seq", *words.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))
"""
    command = [sys.executable, "-c", program, ",".join(heavy), *commands]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    assert set(titans_seq.__all__) == {
        "Backbone",
        "BackboneConfig",
        "MemoryConfig",
        "MemoryState",
        "NeuralMemory",
        "SequenceModel",
        "__version__",
        "load_pretrained",
        "memory_scan",
        "save_pretrained",
    }
    for name in titans_seq.__all__:
        assert getattr(titans_seq, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Backbon'"):
        _ = titans_seq.Backbon


def test_the_release_is_told_alike_everywhere() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == titans_seq.__version__
    assert f"\n## {titans_seq.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_dependencies_are_those_that_are_imported() -> None:
    extras = PROJECT["optional-dependencies"]
    texts = PROJECT["dependencies"] + extras["bigwig"] + extras["stats"] + extras["gluonts"]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    tops = {name.partition(".")[0] for file in PACKAGE.rglob("*.py") for _, name in imports(file)}
    outside = tops - sys.stdlib_module_names - {"titans_seq", ""}
    used = {canonicalize_name({"sklearn": "scikit-learn", "yaml": "PyYAML"}.get(top, top)) for top in outside}
    assert used | {"tensorboard"} == declared  # Lightning imports tensorboard for us


def test_every_dependency_is_pinned_inside_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{text} has no exact version in constraints.txt"
        assert pins[name] in requirement.specifier, f"{text} does not allow {pins[name]} of constraints.txt"


def test_every_install_is_constrained() -> None:
    for file in ("Makefile", ".ci/run"):
        for line in (ROOT / file).read_text().splitlines():
            assert "pip install" not in line or "-c constraints.txt" in line, f"{file}: {line}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, as pip would, without a network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("titans_seq-*.whl"))


def test_wheel_has_one_top_level_package_and_all_that_people_edit(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"titans_seq", f"titans_seq-{titans_seq.__version__}.dist-info"}
    assert {"titans_seq/py.typed", "titans_seq/report/page.css", "titans_seq/report/track.js"} <= names
    assert not [name for name in names if "__pycache__" in name]
    for kind in ("configs", "datasets", "pipelines"):
        for file in (ROOT / kind).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"titans_seq/{file.relative_to(ROOT)}" in names


def test_an_installed_package_finds_its_own_samples_and_not_a_neighbours(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    (tmp_path / "datasets" / "stranger").mkdir(parents=True)
    (tmp_path / "datasets" / "stranger" / "card.yaml").touch()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from titans_seq import resources as r; "
        "print(r.find('datasets', 'ecoli_region'), *r.names('datasets'))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    found, *names = done.stdout.split()
    assert Path(found) == tmp_path / "titans_seq" / "datasets" / "ecoli_region", done.stderr
    assert names == resources.names("datasets")


def test_an_unknown_name_is_told_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"'ecoli_regio' is not one of datasets. Did you mean ecoli_region\?") as told:
        resources.find("datasets", "ecoli_regio")
    assert all(name in str(told.value) for name in resources.names("datasets"))
    with pytest.raises(ConfigError, match="There are: "):
        resources.find("configs", "../datasets/ecoli_region/card")


CARDS = [name for name in resources.names("datasets") if "folder" in resources.card(name)]
SAMPLES = [ROOT / "datasets" / name for name in resources.names("datasets") if name not in CARDS]


def rows(file: Path) -> list[dict[str, str]]:
    """Read a sample table."""
    with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_sample_is_what_its_card_says(sample: Path) -> None:
    card = yaml.safe_load((sample / "card.yaml").read_text(encoding="utf-8"))
    field = {"organism", "frequency"} & set(card)
    assert len(field) == 1, "a card names its organism or its frequency"
    assert set(card) == {"name", "about", "source", "licence", "columns", "split", "files", *field}
    assert set(card["source"]) == {"package", "version", "archive", "sha256", "origin"}
    assert card["name"] == sample.name
    assert {file.name for file in sample.iterdir() if file.suffix == ".gz"} == set(card["files"])
    assert {"README.md", "make.py"} <= {file.name for file in sample.iterdir()}
    for name, facts in card["files"].items():
        assert set(facts) == {"rows", "sha256"}
        assert sha256(sample / name) == facts["sha256"], name
        if name.endswith(".csv.gz"):
            table = rows(sample / name)
            assert len(table) == facts["rows"]
            assert list(table[0]) == list(card["columns"])


def test_windows_of_the_genome_sample_do_not_leak() -> None:
    sample = ROOT / "datasets" / "ecoli_region"
    train, test = rows(sample / "train.csv.gz"), rows(sample / "test.csv.gz")
    assert max(int(row["end"]) for row in train) <= 3_500_000 <= min(int(row["start"]) for row in test)
    everywhere = sorted((int(row["start"]), int(row["end"])) for row in train + test)
    assert all(left[1] <= right[0] for left, right in pairwise(everywhere))
    assert len({row["sequence"] for row in train + test}) == len(everywhere)
    fasta = gzip.decompress((sample / "region.fa.gz").read_bytes()).decode()
    region = "".join(fasta.splitlines()[1:])
    assert len(region) == 400_000 and not re.search("[^ACGT]", region)
    inside = [row for row in train if int(row["end"]) <= len(region)]
    assert all(region[int(row["start"]) : int(row["end"])] == row["sequence"] for row in inside)
