"""Variants and saturation mutagenesis: what a score is, what it does not depend on, and what is refused."""

import csv
import gzip
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from titans_seq import stream, variants
from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG
from titans_seq.checkpoint import SequenceModel, save_pretrained
from titans_seq.data.aliases import Aliases
from titans_seq.data.record import decode, encode
from titans_seq.data.reference import Reference
from titans_seq.data.variants import CheckedVcf, Region, Site, window_of
from titans_seq.data.windows import reverse_complement
from titans_seq.errors import InputError, Interrupted, UsageError
from titans_seq.memory import MemoryConfig
from titans_seq.recipe import build
from titans_seq.stream import variants as scoring
from titans_seq.stream.variants import SCORES, PredictionDifference, Scorer, _batches
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.language import LanguageModel
from titans_seq.tasks.tracks import Tracks

# float32 products run in another order in other batches; the largest difference measured below is 6e-7 nats
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
WINDOW = 64
HEAD = "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
BLOCKS = {"mag": MAG(window=8), "lmm": LMM(), "mac": MAC(segment=16)}
CLASSES = Classification(classes=("a", 'b "c"'))


def make(block: Any = BLOCKS["mag"], task: Any = None) -> SequenceModel:
    torch.manual_seed(0)
    config = BackboneConfig(width=16, depth=2, heads=2, block=block, memory=MemoryConfig(chunk_size=16))
    return SequenceModel(config, LanguageModel() if task is None else task).eval()


def genome() -> dict[str, str]:
    rng = np.random.default_rng(0)
    return {name: decode(rng.integers(0, 4, length, np.uint8)) for name, length in (("chr1", 900), ("chr2", 150))}


BASES = genome()


def other(base: str) -> str:
    return "ACGT"["ACGT".index(base) - 1]


def row(chrom: str, pos: int, ref: str | None = None, alt: str | None = None, id: str = ".") -> str:
    ref = BASES[chrom][pos - 1] if ref is None else ref
    alt = other(ref[0]) + ref[1:] if alt is None else alt
    return f"{chrom}\t{pos}\t{id}\t{ref}\t{alt}\t.\tPASS\t."


def mixed() -> list[str]:
    """SNVs, indels, several ALTs, alleles without a sequence; unsorted."""
    here = BASES["chr1"]
    return [
        row("chr1", 400),
        row("chr1", 401, here[400:405], here[400], "deletion"),
        row("chr1", 402, alt=here[401] + "ACGTACG", id="insertion"),
        row("chr2", 1),
        row("chr2", 150, id="last"),
        row("chr1", 20, alt=",".join(b for b in "ACGT" if b != here[19])),
        row("chr1", 20, alt=f"{other(here[19])},*,<DEL>,N"),
        row("chr1", 300, here[299:420], here[299], "long deletion"),
        row("chr1", 403, alt=here[402], id="no change"),
        row("chr1", 404, alt="."),
    ]


def write_vcf(file: Path, rows: list[str]) -> Path:
    file.write_text(HEAD + "".join(f"{line}\n" for line in rows))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    save_pretrained(make(), folder / "language")
    save_pretrained(make(task=CLASSES), folder / "classifier")
    (folder / "g.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in BASES.items()))
    write_vcf(folder / "x.vcf", mixed())
    return folder


@pytest.fixture
def reference(folder: Path) -> Reference:
    return Reference(folder / "g.fa")


def scorer(model: SequenceModel, genome: Reference, score: str = "llr", **options: Any) -> Scorer:
    return Scorer(model, score, genome, **{"window": WINDOW, "both_strands": False, "batch_size": 8, **options})


def score(folder: Path, out: Path, rows: list[str] | Path, source: str = "language", **options: Any) -> pl.DataFrame:
    """The table of scores of some rows."""
    file = rows if isinstance(rows, Path) else write_vcf(out.with_suffix(".in.vcf"), rows)
    given = {"reference": str(folder / "g.fa"), "window": WINDOW, "overwrite": True, **options}
    variants.variants(str(folder / source), str(file), out, **given)
    return pl.read_parquet(out) if out.suffix == ".parquet" else pl.DataFrame()


# --- windows


@pytest.mark.parametrize("length", [1, 7, 64, 500])
@pytest.mark.parametrize("bases", [1, 3, 200])
def test_a_window_holds_its_site_near_the_middle(length: int, bases: int) -> None:
    far = 10**6
    for start in [*range(5000, 5100), 0, 1, far - bases]:
        site = Site("c", start, np.zeros(bases, np.uint8), ())
        first, end = window_of(site, length, far)
        cell = max(1, length // 16)
        assert 0 <= first <= start and start + bases <= end <= far
        if first and end < far:
            assert length <= end - first < length + bases + 2 * cell
            assert abs((start - first) - (end - start - bases)) <= 2 * cell
        if bases == 1 and first and end < far:
            assert end - first == length


def test_neighbours_share_a_window() -> None:
    windows = {window_of(Site("c", start, np.zeros(1, np.uint8), ()), 512, 10**6) for start in range(64_000, 64_320)}
    assert len(windows) == 10


# --- scores


def directly(model: SequenceModel, site: tuple[int, str, str], length: int = WINDOW, rc: bool = False) -> float:
    """Both windows in one pass of a model that does not know of variants."""
    start, ref, alt = site
    bases = encode(BASES["chr1"])
    cell = length // 16
    first = start // cell * cell - (length - cell) // 2
    window = bases[max(0, first) : first + length]
    changed = window.copy()
    at = start - max(0, first)
    assert decode(window[at : at + 1]) == ref
    changed[at] = "ACGT".index(alt)
    pair = [reverse_complement(codes) if rc else codes for codes in (window, changed)]
    batch = {"tokens": torch.from_numpy(np.stack(pair).astype(np.int64)), "previous": torch.tensor([5, 5])}
    with torch.inference_mode():
        before, after = model(batch).nats.tolist()
    return after - before


@pytest.mark.parametrize("block", BLOCKS)
def test_a_score_is_the_difference_of_both_windows(block: str, reference: Reference) -> None:
    model = make(BLOCKS[block])
    places = [(at, BASES["chr1"][at], other(BASES["chr1"][at])) for at in (5, 100, 101, 450, 895)]
    sites = [Site("chr1", at, encode(ref), (encode(alt),)) for at, ref, alt in places]
    found = np.concatenate(scorer(model, reference).of(sites))[:, 0]
    np.testing.assert_allclose(found, [directly(model, place) for place in places], **TOLERANCE)
    both = np.concatenate(scorer(model, reference, both_strands=True).of(sites))[:, 0]
    expected = [(directly(model, place) + directly(model, place, rc=True)) / 2 for place in places]
    np.testing.assert_allclose(both, expected, **TOLERANCE)
    assert not np.allclose(both, found, atol=1e-3)


@pytest.mark.parametrize("both_strands", [False, True])
@pytest.mark.parametrize("name", SCORES)
def test_no_change_scores_nothing(name: str, both_strands: bool, reference: Reference) -> None:
    model = make(task=CLASSES if name == "prediction" else None)
    sites = [Site("chr1", 7, encode(BASES["chr1"][7:12]), (encode(BASES["chr1"][7:12]), encode("A" * 9)))]
    (found,) = scorer(model, reference, name, both_strands=both_strands).of(sites)
    assert not found[0].any() and found[1].all()


@pytest.mark.parametrize(
    ("name", "block", "task"),
    [
        ("llr", BLOCKS["mag"], None),
        ("embedding", BLOCKS["lmm"], None),
        ("prediction", BLOCKS["mag"], CLASSES),
        ("prediction", MAC(segment=16, mode="paper"), CLASSES),  # which padding would change
    ],
    ids=["llr", "embedding", "prediction", "prediction, not causal"],
)
def test_a_score_depends_on_nothing_but_its_own_allele(folder: Path, name: str, block: Any, task: Any) -> None:
    """Neighbours whose windows are shared, other ALTs of the row, batches: all the same."""
    there, model = Reference(folder / "g.fa"), make(block, task)
    sites = list(CheckedVcf(folder / "x.vcf", there, Aliases()).sites())
    whole = np.concatenate(scorer(model, there, name).of(sites))
    assert np.isnan(whole[:, 0]).sum() == 4 and len(whole) == 15
    one = scorer(model, there, name, batch_size=1)
    alone = [one.of([site._replace(alts=(alt,))])[0] for site in sites for alt in site.alts]
    np.testing.assert_allclose(np.concatenate(alone), whole, **TOLERANCE)
    np.testing.assert_allclose(np.concatenate(scorer(model, there, name, batch_size=3).of(sites)), whole, **TOLERANCE)


def test_several_alts_are_as_many_rows(folder: Path, tmp_path: Path) -> None:
    whole = score(folder, tmp_path / "a.parquet", folder / "x.vcf")
    rows = [line.split("\t") for line in mixed()]
    split = ["\t".join([*fields[:4], alt, *fields[5:]]) for fields in rows for alt in fields[4].split(",")]
    assert len(split) == len(whole) > len(rows)
    assert score(folder, tmp_path / "b.parquet", split).equals(whole)


def test_an_embedding_moves_by_the_distance_of_the_means(reference: Reference) -> None:
    model, at = make(), 200
    (found,) = scorer(model, reference, "embedding").of([Site("chr1", at, encode(BASES["chr1"][at]), (encode("AC"),))])
    start, end = window_of(Site("chr1", at, np.zeros(1, np.uint8), ()), WINDOW, 900)
    rows = []
    for allele in (BASES["chr1"][at], "AC"):
        codes = encode(BASES["chr1"][start:at] + allele + BASES["chr1"][at + 1 : end])
        with torch.inference_mode():
            hidden, _ = model.backbone(torch.from_numpy(codes.astype(np.int64))[None])
        rows.append(hidden[0].mean(0).double())
    cosine = 1 - torch.nn.functional.cosine_similarity(*rows, dim=0)
    expected = [float(cosine), float((rows[0] - rows[1]).norm())]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_a_prediction_moves_by_the_difference_of_the_probabilities(folder: Path, tmp_path: Path) -> None:
    found = score(folder, tmp_path / "a.parquet", [row("chr1", 200)], "classifier")
    names = ["delta_p_a", 'delta_p_b "c"']
    assert found.columns == ["chrom", "pos", "id", "ref", "alt", *names, "ref_match"]
    a, b = found.select(names).row(0)
    assert a == pytest.approx(-b, abs=1e-6) and abs(a) > 1e-7


def test_a_window_without_repeats_is_read_once(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    ratio = scorer(make(), reference)
    monkeypatch.setattr(ratio.score, "read", lambda codes: read.extend(codes) or np.zeros((len(codes), 1)))
    region = Region("chr1", 400, 420)
    ratio.of(list(region.sites(reference)))
    windows = {window_of(site, WINDOW, 900) for site in region.sites(reference)}
    assert len(read) == 3 * 20 + len(windows) == 65


def test_a_change_in_a_motif_that_was_learned_is_unlikely(tmp_path: Path) -> None:
    """A model of some hundred steps on random bases with a motif in them: a change of the motif scores below others."""
    torch.manual_seed(0)
    rng, motif = np.random.default_rng(0), encode("GATTACAGATTACA")

    def sequence(length: int = 64) -> np.ndarray:
        codes = rng.integers(0, 4, length, np.uint8)
        codes[20:34] = codes[44:58] = motif
        return codes

    model = SequenceModel(
        BackboneConfig(width=16, depth=1, heads=2, block=LMM(), memory=MemoryConfig(chunk_size=16)), LanguageModel()
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(40):
        tokens = torch.from_numpy(np.stack([sequence() for _ in range(8)]).astype(np.int64))
        batch = {"tokens": tokens, "previous": torch.full((8,), 5)}
        optimizer.zero_grad()
        model.task.loss(model(batch), batch).backward()
        optimizer.step()
    (tmp_path / "g.fa").write_text(f">c\n{decode(sequence())}\n")
    there = Reference(tmp_path / "g.fa")
    table = np.stack(scorer(model.eval(), there).of(list(Region("c", 0, 64).sites(there))))[:, :, 0]
    inside = np.zeros(64, bool)
    inside[22:34] = inside[46:58] = True
    assert table[inside].mean() < table[~inside].mean() - 1


# --- files


def read_table(file: Path) -> pl.DataFrame:
    if file.suffix == ".parquet":
        return pl.read_parquet(file)
    if file.suffix == ".jsonl":
        return pl.read_ndjson(file)
    return pl.read_csv(file, separator="\t" if file.suffix == ".tsv" else ",")


def test_every_form_says_the_same(folder: Path, tmp_path: Path) -> None:
    tables = []
    for suffix in ("parquet", "tsv", "csv", "jsonl"):
        score(folder, tmp_path / f"a.{suffix}", folder / "x.vcf")
        tables.append(read_table(tmp_path / f"a.{suffix}").with_columns(pl.col("llr").cast(pl.Float64)))
    assert tables[0].columns == ["chrom", "pos", "id", "ref", "alt", "llr", "ref_match"]
    assert all(table.equals(tables[0]) for table in tables)
    for suffix in ("vcf", "vcf.gz"):
        score(folder, tmp_path / f"a.{suffix}", folder / "x.vcf")
    text = (tmp_path / "a.vcf").read_text()
    assert gzip.decompress((tmp_path / "a.vcf.gz").read_bytes()).decode() == text
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    assert ["\t".join([*fields[:7], "."]) for fields in lines] == mixed()
    values = []
    for fields in lines:
        info = dict(entry.partition("=")[::2] for entry in fields[7].split(";"))
        assert "REF_MATCH" in info
        found = info.get("TITANS_LLR", ".").split(",")
        values += [None if value == "." else float(value) for value in found]
    expected = tables[0]["llr"].to_list()
    assert [value is None for value in values] == [value is None for value in expected]
    np.testing.assert_allclose([v or 0 for v in values], [v or 0 for v in expected], rtol=1e-5)
    assert '##INFO=<ID=TITANS_LLR,Number=A,Type=Float,Description="Log-likelihood ratio in nats: sum of' in text


def test_what_was_scored_is_scored_again_in_its_place(folder: Path, tmp_path: Path) -> None:
    score(folder, tmp_path / "a.vcf", folder / "x.vcf")
    score(folder, tmp_path / "b.vcf", tmp_path / "a.vcf")
    first, second = ((tmp_path / name).read_text().splitlines() for name in ("a.vcf", "b.vcf"))
    assert [line for line in second if line not in first] == [] and len(second) == len(first) + 1
    assert sum(line.startswith("##titans_seq=") for line in second) == 2


def test_ids_are_escaped(folder: Path, tmp_path: Path) -> None:
    rows = [row("chr1", 30, id="=1+1"), row("chr1", 31, id="\x1b[2Jx")]
    for suffix in ("csv", "vcf"):
        score(folder, tmp_path / f"a.{suffix}", rows)
        text = (tmp_path / f"a.{suffix}").read_text()
        assert "\x1b" not in text and "\\x1b[2Jx" in text
    with (tmp_path / "a.csv").open() as table:
        assert [line["id"] for line in csv.DictReader(table)] == ["'=1+1", "\\x1b[2Jx"]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stream, "SAVE_EVERY", 0)
    monkeypatch.setattr(scoring, "AT_ONCE", 1)
    yield


@pytest.mark.parametrize("suffix", ["vcf", "vcf.gz", "tsv", "parquet"])
@pytest.mark.usefixtures("small_groups")
def test_a_stopped_job_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    out, whole = tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    given = {"reference": str(folder / "g.fa"), "window": WINDOW, "batch_size": 3}
    source, vcf = str(folder / "language"), str(folder / "x.vcf")
    variants.variants(source, vcf, whole, **given)
    steps = Scorer.steps
    for stop in (1, 2):

        def signalled(*arguments: Any, stop: int = stop) -> stream.Steps:
            for number, step in enumerate(steps(*arguments)):
                yield step
                if number == stop:
                    raise Interrupted(signal.SIGTERM, "between two steps")

        with monkeypatch.context() as patch:
            patch.setattr(Scorer, "steps", signalled)
            with pytest.raises(Interrupted):
                variants.variants(source, vcf, out, resume=True, **given)
        assert not out.exists()
    with pytest.raises(InputError, match="another window"):
        variants.variants(source, vcf, out, resume=True, **{**given, "window": 32})
    variants.variants(source, vcf, out, resume=True, **given)
    assert out.read_bytes() == whole.read_bytes()
    assert variants.variants(source, vcf, out, resume=True, **given)["already_finished"]


# --- mutate


def changes(folder: Path, out: Path, region: str, **options: Any) -> pl.DataFrame:
    given = {"window": WINDOW, "overwrite": True, **options}
    variants.mutate(str(folder / "language"), str(folder / "g.fa"), out, region=region, **given)
    return read_table(out)


def test_every_change_is_that_of_a_vcf(folder: Path, tmp_path: Path) -> None:
    table = changes(folder, tmp_path / "a.parquet", "chr1:400-439")
    assert table.columns == ["chrom", "position", "ref", "alt", "llr"] and len(table) == 160
    assert table["alt"].to_list() == list("ACGT") * 40
    assert table["ref"].to_list()[::4] == list(BASES["chr1"][399:439])
    assert table["position"].to_list()[::4] == list(range(400, 440))
    itself = table["ref"] == table["alt"]
    assert (table.filter(itself)["llr"] == 0).all() and table.filter(~itself)["llr"].is_not_null().all()
    rows = [row("chr1", at, alt=",".join(b for b in "ACGT" if b != BASES["chr1"][at - 1])) for at in range(400, 440)]
    scored = score(folder, tmp_path / "b.parquet", rows)
    np.testing.assert_allclose(scored["llr"], table.filter(~itself)["llr"], **TOLERANCE)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small_groups")
def test_changes_go_on_where_they_were_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes(folder, tmp_path / "whole.tsv", "chr1:1-30", batch_size=8)
    given = {"batch_size": 8, "overwrite": False}
    with monkeypatch.context() as patch:
        patch.setattr(stream.Progress, "add", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="the same command with --resume goes on"):
            changes(folder, tmp_path / "out.tsv", "chr1:1-30", **given)
    assert {file.suffix for file in tmp_path.iterdir()} >= {".part", ".point"}
    changes(folder, tmp_path / "out.tsv", "chr1:1-30", resume=True, **given)
    for suffix in (".tsv", ".png"):
        assert (tmp_path / f"out{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_no_change_of_what_is_not_known(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "n.fa").write_text(f">a\n{'ACGT' * 20}NNN{'ACGT' * 20}\n")
    variants.mutate(str(folder / "language"), str(tmp_path / "n.fa"), tmp_path / "a.tsv", region="a:80-84", window=32)
    table = pl.read_csv(tmp_path / "a.tsv", separator="\t", infer_schema_length=None)
    assert table["ref"].to_list()[::4] == list("TNNNA") and table["llr"].null_count() == 12


@pytest.mark.parametrize(
    ("region", "kind", "says"),
    [
        ("chr1", UsageError, "is none. Give CHROM:START-END"),
        ("chr1:9", UsageError, "is none"),
        ("chr1:0-9", UsageError, "counted from 1"),
        ("chr1:9-8", UsageError, "is none"),
        ("chr1:x-8", UsageError, "is none"),
        ("chr9:1-8", InputError, "--region is on 'chr9', which .* does not have; it has 'chr1', 'chr2'"),
        ("chr1:1-901", InputError, "ends at 901, beyond the end of 'chr1', which has 900 bases"),
    ],
)
def test_regions_that_are_none(reference: Reference, region: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        Region.parse(region, reference, Aliases())


def test_a_region_is_counted_from_one_with_both_ends(reference: Reference) -> None:
    assert Region.parse("1:1,0-2,0".replace(",0", "0"), reference, Aliases()) == ("chr1", 9, 20)
    assert [site.start for site in Region("chr1", 9, 12).sites(reference)] == [9, 10, 11]


# --- through the command line


@pytest.fixture
def run(titans: Any, folder: Path, tmp_path: Path) -> Any:
    """Score rows through the command line; returns what was told, and the INFO of each line that was written."""

    def run(rows: list[str], *more: Any, code: int = 0) -> tuple[str, list[str]]:
        vcf, out = write_vcf(tmp_path / "x.vcf", rows), tmp_path / "out.vcf"
        given = ["genomics", "variants", folder / "language", vcf, "--reference", folder / "g.fa", "--out", out]
        told = titans(*given, "--window", WINDOW, "--overwrite", *more, code=code).stderr
        assert out.exists() != bool(code)
        lines = out.read_text().splitlines() if out.exists() else []
        return told, [line.split("\t")[7] for line in lines if not line.startswith("#")]

    return run


def many(wrong: int, count: int = 40) -> list[str]:
    """SNVs, the first of which have a REF that is not there."""
    rows = [row("chr1", at) for at in range(100, 100 + count)]
    return [row("chr1", at, other(BASES["chr1"][at - 1])) for at in range(100, 100 + wrong)] + rows[wrong:]


def test_a_ref_that_is_not_there(run: Any, folder: Path) -> None:
    base = BASES["chr1"][99]
    where = rf"line 3 (chr1:100) has REF {other(base)} where {folder / 'g.fa'} has {base}"
    told, _ = run(many(1), code=3)
    assert where in told and "1 of 40 rows (2.5%)" in told and "--on-ref-mismatch skip" in told
    told, found = run(many(2), "--on-ref-mismatch", "skip")
    assert where in told and "2 of 40 rows (5.0%), which are not scored" in told
    assert found[:2] == [".", "."] and all("TITANS_LLR=" in info and "REF_MATCH" in info for info in found[2:])
    told, found = run(many(2), "--on-ref-mismatch", "flag")
    assert where in told and "are scored with the VCF's REF" in told
    assert all("TITANS_LLR=" in info for info in found)
    assert ["REF_MATCH" in info for info in found] == [False] * 2 + [True] * 38


@pytest.mark.parametrize("what", ["error", "skip", "flag"])
def test_another_assembly(run: Any, what: str) -> None:
    told, _ = run(many(3), "--on-ref-mismatch", what, code=3)
    assert "line 3 (chr1:100) has REF" in told and "3 of 40 rows (7.5%)" in told and "another assembly?" in told
    assert "--on-ref-mismatch" not in told  # which does not help here


def test_one_row_of_a_few_is_no_other_assembly(run: Any) -> None:
    told, _ = run(many(1, 3), code=3)
    assert "another assembly?" in told and "--on-ref-mismatch skip" in told
    told, found = run(many(1, 3), "--on-ref-mismatch", "skip")
    assert "1 of 3 rows" in told and len(found) == 3


def test_alleles_without_a_sequence_are_counted_once(run: Any) -> None:
    told, found = run(mixed())
    assert told.count("warning:") == 1
    assert (
        "are not scored: 1 overlapping deletions (*), 1 symbolic, 1 of N or IUPAC codes, 1 missing (.); first in line 9"
        in told
    )
    assert found[-1] == "REF_MATCH" and found[6].count(".,.,.;") == 1


def test_rows_without_a_base_or_a_sequence_are_kept_and_left_unscored(run: Any) -> None:
    alts = ["C<ctg1>", "<INS:ME>", ".[chr1:4[", "]chr1:4].", "C.", ".C"]
    rows = [row("chr1", 0, "N", ".[chr2:4["), row("chr1", 0, "N", "C"), *(row("chr1", 30, alt=alt) for alt in alts)]
    rows.append(row("chr1", 901, "N", "]chr2:4]."))  # the telomere behind the last base
    told, found = run([*rows, row("chr1", 31)])
    assert told.count("warning:") == 1
    assert "are not scored: 6 breakends, 1 of N or IUPAC codes, 2 symbolic; first in line 3" in told
    assert found[:-1] == ["REF_MATCH"] * len(rows) and found[-1].startswith("TITANS_LLR=")


def test_unsorted_rows_stay_in_their_order(run: Any) -> None:
    rows = [row("chr2", 90), row("chr1", 700), row("chr1", 3), row("chr2", 10)]
    told, found = run(rows)
    alone = [run([line])[1][0] for line in rows]
    values = [[float(info.split(";")[0].removeprefix("TITANS_LLR=")) for info in infos] for infos in (found, alone)]
    assert told == "" and len(set(values[0])) == len(rows)
    np.testing.assert_allclose(*values, **TOLERANCE)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (row("chr1", 5).replace("chr1", "chr7"), "x.vcf: line 3 is on 'chr7', which "),
        (row("chr1", 5).replace("\t5\t", "\t901\t"), "x.vcf: line 3 is at 901, and its REF ends beyond 'chr1'"),
        (row("chr1", 902, "N", "]chr2:4]."), "x.vcf: line 3 is at 902, and its REF ends beyond 'chr1'"),
        (row("chr1", 901, "NN", "]chr2:4]."), "x.vcf: line 3 is at 901, and its REF ends beyond 'chr1'"),
        (row("chr1", 5).replace("\t5\t", "\tfive\t"), "line 3 has the POS 'five'"),
        ("chr1\t5", "line 3 has 2 columns"),
        (row("chr1", 5, alt="Q"), "line 3 has the ALT 'Q'"),
    ],
)
def test_rows_that_are_refused(run: Any, line: str, says: str) -> None:
    told, _ = run([line], code=3)
    assert says in told


def test_names_of_chromosomes(run: Any, tmp_path: Path) -> None:
    told, found = run([row("chr1", 5).replace("chr1", "1"), row("chr2", 7)])
    assert "'1' = 'chr1', 1 rows" in told and found == run([row("chr1", 5), row("chr2", 7)])[1]
    (tmp_path / "names").write_text("chr1\tmine\n")
    told, found = run([row("chr1", 5).replace("chr1", "mine")], "--aliases", tmp_path / "names")
    assert "'mine' = 'chr1'" in told and len(found) == 1


def test_a_vcf_without_a_variant(run: Any) -> None:
    told, found = run([])
    assert "has no variant" in told and found == []


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_a_table_of_no_variant_has_its_columns(titans: Any, folder: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "none.vcf").write_text(HEAD)
    out = tmp_path / f"o{suffix}"
    given = [folder / "language", tmp_path / "none.vcf", "--reference", folder / "g.fa", "--out", out]
    titans("genomics", "variants", *given)
    found = pl.read_parquet(out) if suffix == ".parquet" else pl.read_csv(out, separator="\t")
    assert found.columns == ["chrom", "pos", "id", "ref", "alt", "llr", "ref_match"] and not len(found)


def test_tracks_have_no_prediction_of_a_window() -> None:
    with pytest.raises(UsageError, match=r"task tracks\. Give --score embedding"):
        PredictionDifference(make(task=Tracks(bin=2, targets=("a",), location=(0.0,), scale=(1.0,))))


def test_windows_read_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [np.zeros(size, np.uint8) for size in (30, 30, 30, 50, 60, 200)]
    assert [len(places) for places in _batches(codes, 64, True)] == [5, 1]
    monkeypatch.setattr("titans_seq.stream.variants.TOGETHER", 100)
    assert [len(places) for places in _batches(codes, 64, True)] == [3, 1, 1, 1]


def test_files_that_are_no_vcf(titans: Any, folder: Path, tmp_path: Path) -> None:
    given = ["--reference", folder / "g.fa", "--out", tmp_path / "a.tsv"]
    for content, says in ((b"", "is empty"), (b">a\nACGT\n", "is not VCF"), (b"\x1f\x8b\x08", "truncated")):
        (tmp_path / "x.vcf").write_bytes(content)
        assert says in titans("genomics", "variants", folder / "language", tmp_path / "x.vcf", *given, code=3).stderr
    missing = ["genomics", "variants", folder / "language", tmp_path / "no.vcf", *given]
    assert "no.vcf does not exist" in titans(*missing, code=2).stderr
    stdin = ["genomics", "variants", folder / "language", "-", *given]
    assert "is read twice" in titans(*stdin, code=2, stdin=HEAD).stderr
    assert [file.name for file in tmp_path.iterdir()] == ["x.vcf"]


def test_scores_that_a_model_has_not(titans: Any, folder: Path, tmp_path: Path) -> None:
    for source, name, says in (
        ("classifier", "llr", "asks a language model, and this is a model of task classification"),
        ("language", "prediction", "Give --score llr"),
    ):
        given = [folder / source, folder / "x.vcf", "--reference", folder / "g.fa", "--out", tmp_path / "a.tsv"]
        assert says in titans("genomics", "variants", *given, "--score", name, code=2).stderr
    given = [folder / "language", folder / "g.fa", "--region", "chr1:1-9", "--out", tmp_path / "a.vcf"]
    assert "should end in one of .csv" in titans("genomics", "mutate", *given, code=2).stderr
    (tmp_path / "a.png").touch()
    assert "a.png exists" in titans("genomics", "mutate", *given[:-1], tmp_path / "a.tsv", code=2).stderr


def test_the_window_is_that_of_the_training(folder: Path, tmp_path: Path) -> None:
    data = {"kind": "fasta", "paths": [str(folder / "g.fa")], "length": 80}
    recipe = build({"data": data, "task": {"kind": "language_model"}, "backbone": "dna_nano"}, name="x")
    save_pretrained(make(), tmp_path / "run" / "model")
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.text())
    assert variants._window(str(tmp_path / "run")) == 80
    assert variants._window(str(folder / "language")) == 512


# --- real data


@pytest.mark.skipif("TITANS_SEQ_DATA" not in os.environ, reason="TITANS_SEQ_DATA names no folder of real data")
def test_variants_of_clinvar(titans: Any, folder: Path, tmp_path: Path) -> None:
    data = Path(os.environ["TITANS_SEQ_DATA"]) / "genomics"
    vcf, chr20 = data / "vep/clinvar_20200808_chr20_b37_snv.vcf.gz", data / "genomes/human_b37_chr20.fa.gz"
    given = ["genomics", "variants", folder / "language", "--window", WINDOW, "--overwrite", "--threads", 1]

    def found(vcf: Path, fasta: Path, code: int = 0) -> str:
        out = tmp_path / "out.tsv"
        return str(titans(*given, vcf, "--reference", fasta, "--out", out, code=code).stderr)

    assert "REF" not in found(vcf, chr20)
    plain = pl.read_csv(tmp_path / "out.tsv", separator="\t")
    assert len(plain) == 612 and plain["ref_match"].all() and plain["llr"].null_count() == 1
    text = gzip.decompress(vcf.read_bytes()).decode()
    (tmp_path / "chr.vcf").write_text(text.replace("\n20\t", "\nchr20\t"))
    assert "'chr20' = '20', 612 rows" in found(tmp_path / "chr.vcf", chr20)
    prefixed = pl.read_csv(tmp_path / "out.tsv", separator="\t")
    assert prefixed["chrom"].unique().to_list() == ["chr20"] and prefixed["llr"].equals(plain["llr"])
    moved = [line.split("\t") for line in text.splitlines()]
    moved = [f if f[0].startswith("#") else [f[0], str(int(f[1]) + 1000), *f[2:]] for f in moved]
    (tmp_path / "moved.vcf").write_text("\n".join("\t".join(fields) for fields in moved) + "\n")
    assert "another assembly?" in found(tmp_path / "moved.vcf", chr20, code=3)
