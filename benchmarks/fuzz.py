"""Coverage-guided fuzzing of everything that reads a file: it is read, or refused with the code of its kind.

Each target has a process of its own. An input is made from one that is known by some random changes (bytes, words of
its format, lines, cuts, parts of another); one that makes the reader take a step from one line of its code to another
that none took before is known from then on. What ends in anything but a result or an error of titans-seq that names the
file and has the right code, takes longer than ten seconds or ends the process, is made as short as it can be and told.
`tests/test_fuzz.py` runs the same targets for a moment, and keeps what was found.
"""

import base64
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from common import HERE, Row, explained, measured_when, parser_of, results, rows_options

from titans_seq.bench.results import markdown
from titans_seq.data.compressed import UTF8_BOM
from titans_seq.errors import ConfigError, InputError, ModelError, TitansError, log
from titans_seq.files import sha256, to_json, whole_file

HANGS = 10  # seconds of processor time that an input may take
MEMORY = 12 << 30  # bytes of addresses that a process may have
LONGEST = 4000  # bytes of an input
CODE = ("data", "recipe", "checkpoint", "memory_state", "training/points")
WATCHED = tuple(str(HERE.parent / "titans_seq" / name) for name in CODE)

DNA = b">a one\nACGTNNACGTRYACGT\nACGT\n>b\nttgaca\n"
GENOME = b">chr1\n" + b"ACGTTGCAAC" * 8 + b"\n>chr2\nGGGGCCCCAATT\n"
LABELS = b"id,sequence,label\na,ACGT,x\nb,TTGA,y\nc,GGCC,x\n"
HOURS = [f"2024-03-{1 + i // 24:02} {i % 24:02}:00:00" for i in range(40)]
WIDE = ("date,a,b\n" + "".join(f"{hour},{i}.5,{i % 7}\n" for i, hour in enumerate(HOURS))).encode()
LONG = ("unique_id,ds,y\n" + "".join(f"{'xy'[i % 2]},{hour},{i}.5\n" for i, hour in enumerate(HOURS))).encode()
TSF = (
    b"# a comment\n@relation r\n@attribute series_name string\n@attribute start_timestamp date\n@frequency hourly\n"
    b"@missing true\n@equallength false\n@data\nT1:2024-01-01 00-00-00:1,2,3.5,?,5\nT2:2024-01-01 00-00-00:7,8,9\n"
)
VCF = (
    b'##fileformat=VCFv4.3\n##INFO=<ID=AF,Number=A,Type=Float,Description="x">\n'
    b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    b"chr1\t1\trs1\tA\tC,G\t.\tPASS\tAF=0.1,0.2\nchr1\t5\t.\tTG\tT\t9\t.\t.\n1\t9\t.\tA\t<DEL>\t.\t.\t.\nchr2\t3\t.\tG\t*\t.\t.\t.\n"
)
BED = b"track name=x\nchr1\t0\t10\tp1\t0\t+\nchr1\t20\t44\tp2\t7.5\t-\nchr2\t3\t9\n"
PEAKS = b"chr1\t0\t30\tp\t1\t.\t2.5\t3\t1\t9\nchr2\t1\t12\tq\t2\t.\t1\t2\t3\t4\n"
GFF = (
    b"##gff-version 3\nchr1\tx\tgene\t1\t30\t.\t+\t.\tID=g1;Name=a\nchr1\tx\tCDS\t4\t12\t.\t-\t0\tID=c1;Parent=g1\n"
    b"chr1\tx\tCDS\t15\t20\t.\t-\t2\tID=c1;Parent=g1\n"
)
GTF = (
    b'chr1\tx\tgene\t1\t30\t.\t+\t.\tgene_id "g1"; gene_name "a";\n'
    b'chr1\tx\tCDS\t4\t12\t.\t-\t0\tgene_id "g1"; transcript_id "t";\n'
)


class Target(NamedTuple):
    """Something that reads a file."""

    read: Callable[[Path], Any]
    seeds: tuple[bytes, ...]
    name: str = "x"  # of the file
    error: type[TitansError] = InputError
    words: tuple[bytes, ...] = ()  # of its format


# --- what reads


def _blocks(path: Path) -> None:
    from titans_seq.data.fasta import read_blocks

    for size in (5, 64):
        list(read_blocks(path, size=size))


def _indexed(index: Path) -> None:
    """A FASTA beside an index; the codes must be those without one."""
    from titans_seq.data.fasta import read_fasta

    fasta = index.with_suffix("")
    fasta.write_bytes(GENOME)
    assert [len(record.codes) for record in read_fasta(fasta)] == [80, 12]


def _table(path: Path) -> None:
    from titans_seq.data.table import read_table

    read_table(path)


def _labelled(path: Path) -> None:
    from titans_seq.data.sequences import read_sequences

    read_sequences(path)


def _series(path: Path) -> None:
    from titans_seq.data.series import read_series

    assert read_series(path).series


def _placed(path: Path, **regions: Any) -> None:
    from titans_seq.data.regions import Regions
    from titans_seq.data.sequences import read_sequences

    read_sequences(path, need_labels=False, regions=Regions(reference=str(_genome(path)), **regions))


def _genome(path: Path) -> Path:
    genome = path.with_name("genome.fa")
    if not genome.exists():
        genome.write_bytes(GENOME)
    return genome


def _variants(path: Path) -> None:
    from titans_seq.data.aliases import Aliases
    from titans_seq.data.reference import open_reference
    from titans_seq.data.variants import CheckedVcf

    CheckedVcf(path, open_reference(_genome(path)), Aliases.of_file(None))


def _recipe(path: Path) -> None:
    from titans_seq.recipe import load_recipe

    load_recipe(path)


def _backbone(path: Path) -> None:
    from titans_seq.recipe import load_backbone_config

    load_backbone_config(str(path))


def _description(path: Path) -> None:
    """A ``config.json`` and a ``task.json`` whose sums fit."""
    from titans_seq.checkpoint import REQUIRED, load_config

    (path.parent / "model.safetensors").touch()
    (path.parent / "task.json").write_bytes(path.read_bytes() if b'"kind"' in path.read_bytes()[:60] else TASK)
    sums = (f"{sha256(path.parent / name)}  {name}\n" for name in REQUIRED[:-1])
    (path.parent / "SHA256SUMS").write_text("".join(sums))
    load_config(str(path.parent))


def _weights(path: Path) -> None:
    from titans_seq.checkpoint import load_tensors

    load_tensors(path.parent)


def _state(path: Path) -> None:
    from titans_seq.memory_state import read_state

    read_state(path)


def _point(path: Path) -> None:
    from titans_seq.training.points import load_point

    load_point(path)


def _packed(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)


def _tensors(dtype: str = "F32") -> bytes:
    import torch
    from safetensors.torch import save

    kind = {"F32": torch.float32, "BF16": torch.bfloat16}[dtype]
    return bytes(save({"a": torch.ones(4, dtype=kind), "b.c": torch.zeros(2, 2, dtype=kind)}))


def _saved() -> bytes:
    import io

    import torch

    packed = io.BytesIO()
    torch.save({"step": 3, "finished": False, "model": {"a": torch.ones(2)}, "best": {}, "since_best": 0}, packed)
    return packed.getvalue()


def _parquet() -> bytes:
    import io

    import polars as pl

    packed = io.BytesIO()
    pl.DataFrame({"sequence": ["ACGT", "TTGA"], "label": ["x", "y"]}).write_parquet(packed)
    return packed.getvalue()


def _recipes() -> tuple[bytes, ...]:
    from titans_seq.resources import find, names

    return tuple(find("pipelines", name).read_bytes() for name in names("pipelines"))


TASK = b'{"schema_version": 1, "kind": "classification", "classes": ["a", "b"]}'
CONFIG = b'{"schema_version": 1, "width": 16, "depth": 1, "heads": 2, "block": {"kind": "lmm"}}'
BACKBONE = b"width: 16\ndepth: 1\nheads: 2\nblock: {kind: mac}\n"
INDEX = b"chr1\t80\t6\t80\t81\nchr2\t12\t93\t12\t13\n"
IN_TSF = (b"@data", b"@frequency", b":", b"?", b"NaN")
IN_VCF = (b"<DEL>", b"*", b"[chr1:5[", b"AC,", b"N")
IN_JSON = (b"1e999", b"NaN", b'"kind"', b"[", b"{", b"-1", b"9999999999999")
IN_TABLES = (
    b",",
    b";",
    b"\t",
    b'"',
    b"\r\n",
    b"\xef\xbb\xbf",
    b"NA",
    b"inf",
    b"1e308",
    b"-9999",
    b"0,5",
    b"\xff",
    b"\0",
)
IN_TIMES = (b"2024-02-30", b"31/12/2024", b"+01:00", b"Z", b"24:00", b"9999-12-31", b"0001-01-01", b"1700000000")
IN_YAML = (
    b"&a ",
    b"*a",
    b"!!python/name:os.system ",
    b"<<: ",
    b"- ",
    b": ",
    b"{",
    b"}",
    b"null",
    b".nan",
    b"1e3",
    b"kind",
)
IN_PLACES = (
    b"\t",
    b"chr1",
    b"chr9",
    b"-1",
    b"0",
    b"99999999999999999999",
    b".",
    b"+",
    b"-",
    b"#",
    b"track",
    b"browser",
)


def targets() -> dict[str, Target]:
    """Everything that reads a file, by name."""
    return {
        "fasta": Target(
            _blocks, (DNA, DNA.replace(b"\n", b"\r\n"), UTF8_BOM + DNA), "x.fa", words=(b">", b";", b"\n\n")
        ),
        "fasta, gzip": Target(_blocks, (_packed(DNA), _packed(DNA) * 2), "x.fa.gz"),
        "index": Target(_indexed, (INDEX,), "x.fa.fai", words=IN_PLACES),
        "table": Target(_table, (LABELS, WIDE, LABELS.replace(b",", b"\t")), "x.csv", words=IN_TABLES),
        "parquet": Target(_table, (_parquet(),), "x.parquet"),
        "labelled sequences": Target(_labelled, (LABELS,), "x.csv", words=IN_TABLES),
        "series": Target(_series, (WIDE, LONG, WIDE.replace(b",", b";")), "x.csv", words=IN_TABLES + IN_TIMES),
        "tsf": Target(_series, (TSF,), "x.tsf", words=IN_TSF + IN_TIMES),
        "bed": Target(_placed, (BED, PEAKS), "x.bed", words=IN_PLACES),
        "gff": Target(partial(_placed, feature=("gene", "CDS")), (GFF, GTF), "x.gff", words=IN_PLACES),
        "vcf": Target(_variants, (VCF,), "x.vcf", words=IN_PLACES + IN_VCF),
        "recipe": Target(_recipe, _recipes(), "x.yaml", ConfigError, IN_YAML),
        "backbone": Target(_backbone, (BACKBONE,), "x.yaml", ConfigError, IN_YAML),
        "description": Target(_description, (CONFIG, TASK), "config.json", ModelError, IN_JSON),
        "weights": Target(_weights, (_tensors(),), "model.safetensors", ModelError, (b'"F64"', *IN_JSON)),
        "state": Target(_state, (_tensors(), _tensors("BF16")), "x.state", ModelError, (b'"BOOL"', *IN_JSON)),
        "checkpoint": Target(_point, (_saved(),), "last.ckpt", ModelError),
    }


# --- one input


class Hang(BaseException):
    """An input takes too long."""


def verdict(target: Target, folder: Path, data: bytes) -> str | None:
    """What is wrong with how a target reads these bytes; None if nothing is."""
    path = folder / target.name
    path.write_bytes(data)
    log.disabled = True
    signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, HANGS)
    try:
        target.read(path)
    except target.error as error:
        return None if target.name in str(error) else f"the message does not name the file: {error}"
    except Hang:
        return "hangs"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of polars' is no Exception
        return f"{type(error).__name__} at {_place(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        log.disabled = False
    return None


def _late(number: int, frame: FrameType | None) -> None:
    raise Hang


def _place(error: BaseException) -> str:
    """The last line of ours that an error came through."""
    found, trace = "outside", error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if "titans_seq" in file:
            found = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def changed(chance: random.Random, known: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """One of the known inputs after some random changes."""
    data = bytearray(chance.choice(known))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        at, size = chance.randint(0, len(data)), chance.choice((1, 1, 2, 4, 16, 64))
        way = chance.randrange(8)
        if way == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif way == 1:
            del data[at : at + size]
        elif way == 2:
            data[at:at] = chance.randbytes(size)
        elif way == 3 and words:
            data[at : at + chance.choice((0, 0, size))] = chance.choice(words)
        elif way == 4:
            data[at:at] = data[at : at + size] * chance.choice((1, 2, 30))
        elif way == 5:
            lines = bytes(data).splitlines(keepends=True) or [b""]
            chance.shuffle(lines) if chance.random() < 0.2 else lines.insert(
                chance.randrange(len(lines)), chance.choice(lines)
            )
            data = bytearray(b"".join(lines))
        elif way == 6:
            other = chance.choice(known)
            start = chance.randint(0, len(other))
            data[at : at + size] = other[start : start + size * 4]
        else:
            del data[at:]
    return bytes(data[:LONGEST])


def shortest(wrong: Callable[[bytes], bool], data: bytes, most: int = 400) -> bytes:
    """A short part of an input that is wrong too, by leaving out pieces."""
    size = max(1, len(data) // 2)
    while size and most:
        at = 0
        while at < len(data) and most:
            most -= 1
            less = data[:at] + data[at + size :]
            if wrong(less):
                data = less
            else:
                at += size
        size //= 2
    return data


# --- many inputs


class Steps:
    """Which steps from line to line of the watched files were taken."""

    def __init__(self) -> None:
        self.all: set[tuple[str, int, int]] = set()
        self.new = False

    def watch(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For `sys.settrace`: follow the frames of watched files alone."""
        file, before = frame.f_code.co_filename, frame.f_lineno
        if not file.startswith(WATCHED):
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal before
            step = (file, before, frame.f_lineno)
            if step not in self.all:
                self.all.add(step)
                self.new = True
            before = frame.f_lineno
            return line

        return line


def spent() -> float:
    """Seconds of processor time of this process and of those that it waited for: such read Parquet."""
    return sum(os.times()[:4])


def fuzzed(target: Target, folder: Path, seconds: float, seed: int) -> Row:
    """Read as many inputs as there is time for; what was counted and found."""
    chance, steps, until = random.Random(seed), Steps(), spent() + seconds
    known, found, count = list(target.seeds), {}, 0
    while spent() < until or count < len(target.seeds):
        data = known[count] if count < len(target.seeds) else changed(chance, known, target.words)
        (folder / "input").write_bytes(data)  # what is left if the process ends
        steps.new = False
        sys.settrace(steps.watch)
        try:
            wrong = verdict(target, folder, data)
        finally:
            sys.settrace(None)
        count += 1
        if wrong and wrong not in found:
            short = shortest(lambda less, wrong=wrong: verdict(target, folder, less) == wrong, data)  # type: ignore[misc]
            found[wrong] = base64.b64encode(short).decode()
        elif steps.new:
            known.append(data)
    return {"executions": count, "known": len(known), "steps": len(steps.all), "found": found}


def measured(name: str, options: Any) -> Row:
    """A target in a process of its own."""
    folder = options.work / "fuzz" / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "found.json").unlink(missing_ok=True)
    one = ["--only", name, "--seconds", str(options.seconds), "--seed", str(options.seed), "--work", str(options.work)]
    done = subprocess.run([sys.executable, __file__, *one], env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        data = base64.b64encode((folder / "input").read_bytes()).decode()
        return {"executions": 0, "known": 0, "steps": 0, "found": {f"the process ends with {done.returncode}": data}}
    found: Row = json.loads((folder / "found.json").read_text())
    return found


def alone(name: str, options: Any) -> None:
    """Fuzz one target in this process."""
    folder = options.work / "fuzz" / name.replace(" ", "_")
    with suppress(ValueError):  # the limit that is there is lower
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    found = fuzzed(targets()[name], folder, options.seconds, options.seed)
    with whole_file(folder / "found.json") as draft:
        draft.write_text(to_json(found))


def _lines(kept: dict[str, Row]) -> Iterator[list[str]]:
    for name, row in kept.items():
        yield [name, *(f"{row[what]:,}" for what in ("executions", "known", "steps")), str(len(row["found"]))]
    sums = [f"{sum(row[what] for row in kept.values()):,}" for what in ("executions", "known", "steps")]
    yield ["all", *sums, str(sum(len(row["found"]) for row in kept.values()))]


def report(kept: dict[str, Row]) -> str:
    """A line a target."""
    head = ("target", "executions", "known inputs", "steps", "findings")
    found = [f"- {name}: {what}" for name, row in kept.items() for what in row["found"]]
    told = "\n".join(found) if found else "Nothing was found."
    minutes = sum(row["settings"]["seconds"] for row in kept.values()) / 60
    table = markdown(head, _lines(kept))
    when = f"{measured_when(kept)} {minutes:.0f} minutes of processor time in all."
    return f"# Fuzzing\n\n{when}\n\n{table}\n\n{told}\n\n{explained(__doc__)}"


def main() -> None:
    """Fuzz each target, and end with code 1 if anything was found."""
    parser = parser_of(__doc__.splitlines()[0])
    parser.set_defaults(threads=1)
    parser.add_argument("--seconds", type=float, default=225, help="of processor time for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=targets(), help="one target, in this process")
    rows_options(parser)
    options = parser.parse_args()
    if options.only:
        alone(options.only, options)
        return
    with results("fuzz", options, report) as rows:
        for name in targets():
            settings = {"seconds": options.seconds, "seed": options.seed}
            rows.row(name, settings, lambda name=name: measured(name, options))  # type: ignore[misc]
    if any(row["found"] for row in rows.kept.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
