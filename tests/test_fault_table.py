"""The page of faults names tests that there are, in every row."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 80 and PAGE.read_text().count("`tests/") == len(named)
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"


def test_every_fault_has_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    heads = [line for line in rows if line.endswith("| test |")]
    assert len(heads) == 5
    for row in rows:
        width = row.count(" |")
        assert row in heads or NAMED.search(row), row
        assert width in {head.count(" |") for head in heads}, row


def test_soaks_are_marked_as_such() -> None:
    for row in PAGE.read_text().splitlines():
        quick, _, soak = row.partition("soak: ")
        for long, part in ((False, quick), (True, soak)):
            for file, name in NAMED.findall(part):
                before = (ROOT / file).read_text().split(f"\ndef {name}(")[0].rpartition("\n\n")[2]
                assert ("pytest.mark.soak" in before) is long, f"{file}::{name}"
