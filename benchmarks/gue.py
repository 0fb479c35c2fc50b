"""GUE, transcription factor binding and core promoters: MCC from scratch and pretrained, beside k-mers and others.

Official train, dev and test tables. The weights of a run are chosen on dev, and so was the learning rate, on
prom_core_tata; the steps are what a slow machine allows (results/gue_dev.md has what more of them give on dev: on tf/2
something, on tf/3 and tf/4 nothing). Test is read once a row. Training sees either strand by chance, and a prediction
is the mean over both.
"""

from typing import NamedTuple

from classification import (
    KMERS,
    PRETRAINED,
    SCRATCH,
    STARTS,
    Task,
    mean_of,
    measure_all,
    of_start,
    options_of,
    told,
    with_interval,
)
from common import Row, measured_when

from titans_seq.bench.results import markdown


class Setting(NamedTuple):
    """How a task is trained, and what others reach: test MCC as printed by Zhou et al. 2023 (arXiv 2306.15006)."""

    steps: int  # of 64 rows
    learning_rate: float
    dnabert_2: float  # 117 million parameters
    nucleotide_transformer: float  # 2,500 million parameters, of many species


SETTINGS = {
    "tf/0": Setting(400, 3e-3, 0.720, 0.663),
    "tf/1": Setting(400, 3e-3, 0.761, 0.683),
    "tf/2": Setting(400, 3e-3, 0.665, 0.587),
    "tf/3": Setting(400, 3e-3, 0.585, 0.491),
    "tf/4": Setting(400, 3e-3, 0.774, 0.676),
    "prom_core_all": Setting(600, 3e-3, 0.694, 0.674),
    "prom_core_notata": Setting(600, 3e-3, 0.680, 0.675),
    "prom_core_tata": Setting(300, 3e-3, 0.742, 0.697),
}


def task_of(name: str) -> Task:
    """A task, on the files of the data card."""
    setting = SETTINGS[name]
    folder = f"card:gue/{name if '/' in name else f'prom/{name}'}"
    train, dev, test = (f"{folder}/{split}.csv.gz" for split in ("train", "dev", "test"))
    return Task(name, train, test, setting.steps, validation=dev, learning_rate=setting.learning_rate)


def report(kept: dict[str, Row]) -> str:
    """Means by task, how the aims stand, and every row."""
    means, lines = {}, []
    for name, setting in SETTINGS.items():
        found = [of_start(kept, name, start) for start in (KMERS, *STARTS)]
        means[name] = [mean_of(rows, "mcc") for rows in found]
        ours = [told(mean, len(rows)) for mean, rows in zip(means[name], found, strict=True)]
        lines.append([name, *ours, f"{setting.dnabert_2:.3f}", f"{setting.nucleotide_transformer:.3f}"])
    head = ("task", "k-mers", SCRATCH, PRETRAINED, "DNABERT-2 (117M)", "NT (2,500M)")
    return "\n\n".join(
        [
            "# GUE: test MCC",
            measured_when(kept),
            markdown(head, lines),
            _aims(means),
            markdown(("row", "MCC (95 %)", "accuracy", "AUROC", "MCC on dev", "steps", "seconds"), _every(kept)),
            "k-mers: logistic regression on tf-idf of all words of 1 to 6 bases, fitted here. The two on the right are "
            "printed numbers. Seconds are those of a machine that may have done other work.\n",
        ]
    )


def _aims(means: dict[str, list[float]]) -> str:
    """How many tasks are above the k-mers, above scratch, and at DNABERT-2."""
    above = [max(ours) > kmers for kmers, *own in means.values() if (ours := [m for m in own if m == m])]
    gains = [pretrained - scratch for _, scratch, pretrained in means.values() if pretrained == pretrained]
    reached = [pre >= SETTINGS[name].dnabert_2 for name, (_, _, pre) in means.items() if pre == pre]
    gain = f"{sum(gains) / len(gains):+.3f} on average over {len(gains)} tasks" if gains else "not measured"
    return (
        f"Above the k-mers, with the better start: {sum(above)} of {len(above)} tasks. Pretrained beside scratch: "
        f"{gain}. DNABERT-2 reached by the pretrained: {sum(reached)} of {len(reached)}."
    )


def _every(kept: dict[str, Row]) -> list[list[str]]:
    found = []
    for key, row in kept.items():
        scores = [with_interval(row, "mcc"), f"{row['test']['accuracy']:.3f}", f"{row['test']['auroc']:.3f}"]
        if row["start"] == KMERS:
            found.append([key, *scores, "", "", ""])
        else:
            steps, seconds = row["settings"]["training"]["steps"], row["seconds"]
            found.append([key, *scores, f"{row['validation']['mcc']:.3f}", f"{steps:,}", f"{seconds:,.0f}"])
    return found


if __name__ == "__main__":
    measure_all("gue", options_of(__doc__ or "", list(SETTINGS)), task_of, report)
