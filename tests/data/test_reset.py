"""Reset rules against a walk base by base, in every cut."""

import numpy as np
import pytest

from titans_seq.data.reset import Reset, reset_rule
from titans_seq.errors import UsageError


def walked(rule: Reset, codes: np.ndarray) -> list[int]:
    """Where a record's memory begins anew behind its first base, as the rule says it in words."""
    found, run = [], 0
    for at, code in enumerate(codes):
        if (rule.at == "every" and at % rule.length == 0) or (rule.at == "N" and code != 4 and run >= rule.length):
            found.append(at)
        run = run + 1 if code == 4 else 0
    return [at for at in found if at]


@pytest.mark.parametrize("text", ["record", "never", "N:1", "N:3", "N:40", "every:1", "every:7", "every:64"])
@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000])
def test_a_rule_in_blocks_is_the_rule_in_words(text: str, size: int) -> None:
    rule, rng = reset_rule(text), np.random.default_rng(0)
    for length in (0, 1, 100, 300):
        # long runs of N, short ones, and at both ends
        codes = np.where(np.repeat(rng.random(length // 5 + 1) < 0.5, 5)[:length], 4, rng.integers(0, 5, length))
        codes = np.concatenate([np.full(length % 7, 4), codes, np.full(length % 3, 4)]).astype(np.uint8)
        found, run = [], 0
        for start in range(0, max(1, len(codes)), size):
            cuts, run = rule.inside(codes[start : start + size], start, run)
            found += [start + cut for cut in cuts]
        assert found == walked(rule, codes)


def test_what_a_rule_is_called() -> None:
    assert [str(reset_rule(text)) for text in ("record", "never", "N:20", "every:5")] == [
        "record",
        "never",
        "N:20",
        "every:5",
    ]


@pytest.mark.parametrize(
    "text", ["", "Record", "N", "N:", "N:0", "N:-1", "every:1.5", "every", "records", "N:1 ", "n:5"]
)
def test_no_rule(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no rule\. Give record, never, N:LENGTH"):
        reset_rule(text)
