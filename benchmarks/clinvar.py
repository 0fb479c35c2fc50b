"""ClinVar SNVs of human chr20 (56 pathogenic, 556 benign): AUROC of scores without any training on variants.

The model is a small language model that this trains on human chrX, or any other with ``--model``. A small one has
learned little more than that CG is rare, and so finds likely what pathogenic SNVs of ClinVar often are, the loss of a
CG: areas below a half are then no wrong sign. So variants that have no CG before or after are measured alone too.
"""

import re
from pathlib import Path

import numpy as np
import polars as pl
from common import arguments, keep, train
from sklearn.metrics import roc_auc_score

from titans_seq.data.record import decode
from titans_seq.data.reference import Reference
from titans_seq.data.vcf import Variant, read_vcf
from titans_seq.variants import variants

TRAINING = {"steps": 600, "batch_size": 16, "learning_rate": 3e-3, "validate_every": 200}
SAMPLES = 2000  # of the bootstrap
SIGN = {"llr": -1, "cosine_distance": 1, "l2_distance": 1}  # a variant that the model finds unlikely, or moves far


def parts(vcf: Path, genome: Reference) -> dict[str, np.ndarray]:
    """Which variants are pathogenic, and which belong to the parts that are measured alone."""
    rows = list(read_vcf(vcf)[1])
    info = [row.fields[7] for row in rows]
    return {
        "pathogenic": np.array(["LABEL=1" in entry.split(";") for entry in info]),
        "missense alone": np.array([re.search(r"MC=[^;]*missense", entry) is not None for entry in info]),
        "without CG alone": np.array([not _touches_cg(row, genome) for row in rows]),
    }


def _touches_cg(variant: Variant, genome: Reference) -> bool:
    around = decode(genome.codes("20", variant.start - 1, variant.start + 2))
    return "CG" in around or "CG" in around[0] + variant.alts[0] + around[2]


def auroc(label: np.ndarray, value: np.ndarray, seed: int = 0) -> dict[str, float | int]:
    """Area, and its 95 % interval by a bootstrap within either class."""
    rng = np.random.default_rng(seed)
    ill, well = value[label], value[~label]
    truth = np.repeat([True, False], [len(ill), len(well)])
    areas = [
        roc_auc_score(truth, np.concatenate([rng.choice(ill, len(ill)), rng.choice(well, len(well))]))
        for _ in range(SAMPLES)
    ]
    low, high = np.percentile(areas, [2.5, 97.5])
    area = roc_auc_score(label, value)
    return {
        "auroc": float(area),
        "low": float(low),
        "high": float(high),
        "n": len(label),
        "pathogenic": int(label.sum()),
    }


def main() -> None:
    """Train if need be, score, measure, keep."""
    options = arguments(__doc__ or "", ("--model", "run or checkpoint folder, or a shipped name"))
    data = options.data / "genomics"
    vcf = data / "vep/clinvar_20200808_chr20_b37_snv.vcf.gz"
    model, bits = options.model, None
    if not model:
        recipe = {
            "data": {
                "kind": "fasta",
                "paths": [str(data / "genomes/human_b37_chrX_first70M.fa.gz")],
                "length": 512,
                "validation": 0.001,
                "reverse_complement": True,
            },
            "task": {"kind": "language_model"},
            "backbone": "dna_nano",
            "training": TRAINING,
            "threads": options.threads,
        }
        model = str(options.work / "chrX")
        bits = train(recipe, Path(model))["validation"]["bits_per_nt"]
    chr20 = data / "genomes/human_b37_chr20.fa.gz"
    of = parts(vcf, Reference(chr20))
    label = of.pop("pathogenic")
    found: dict[str, dict[str, float | int]] = {}
    for score in ("llr", "embedding"):
        out = options.work / f"clinvar_{score}.parquet"
        variants(
            model,
            str(vcf),
            out,
            reference=str(chr20),
            score=score,
            window=512,
            both_strands=True,
            threads=options.threads,
            overwrite=True,
        )
        table = pl.read_parquet(out)
        for name in (name for name in table.columns if name in SIGN):
            value = SIGN[name] * table[name].fill_null(np.nan).to_numpy()
            known = np.isfinite(value)
            found[name] = auroc(label[known], value[known])
            for part, inside in of.items():
                found[f"{name}, {part}"] = auroc(label[known & inside], value[known & inside])
    name = "dna_nano, trained on chrX by this benchmark" if bits else model
    keep("clinvar", {"model": name, "validation_bits_per_nt": bits, "window": 512, **found}, options.threads)


if __name__ == "__main__":
    main()
