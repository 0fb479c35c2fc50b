"""The page of a run: whole, self-contained, and safe with whatever names the data bring."""

import json
import random
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import Call, Models, Tiny
from titans_seq.report import write_report
from titans_seq.report.page import _seconds

HOSTILE = "<script>alert(1)<\"'&$x$>"


class Page(HTMLParser):
    """Tags, addresses that a browser would fetch, and text of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", Models._fields)
def test_every_run_has_a_page_that_needs_nothing_else(models: Models, kind: str) -> None:
    run: Path = getattr(models, kind)
    page = Page(run / "report.html")
    assert page.addresses and all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    assert 'name="viewport"' in text


@pytest.mark.parametrize("kind", Models._fields)
def test_page_tells_scores_settings_versions_and_commands(models: Models, kind: str) -> None:
    run: Path = getattr(models, kind)
    text = Page(run / "report.html").text
    manifest = json.loads((run / "manifest.json").read_text())
    for name in manifest["result"]["validation"]:
        assert name.replace("_", " ") in text
    for told in (manifest["torch"], manifest["titans_seq"], *manifest["data_sha256"].values()):
        assert told in text
    for setting in ("training.learning_rate", "backbone.width", "backbone.memory.chunk_size", "seed"):
        assert setting in text
    field = "forecast" if kind in ("wide", "long") else "genomics"
    assert f"titans-seq {field} predict {run}" in text and "load_pretrained" in text


def test_names_from_the_data_are_escaped(titans: Call, tiny: Tiny, tmp_path: Path) -> None:
    draw, folder = random.Random(0), tmp_path / HOSTILE
    folder.mkdir()
    table = folder / "a.csv"
    rows = [f"{''.join(draw.choices('ACGT', k=20))},{'<b>x</b>' if i % 2 else HOSTILE[:8]}" for i in range(12)]
    table.write_text("\n".join(["sequence,label", *rows, ""]))
    run = folder / "run <i>"
    titans("genomics", "finetune", table, "--out", run, *tiny.size, "--set", "training.steps=1")
    page = Page(run / "report.html")
    assert not {"script", "b", "i"} & set(page.tags)
    assert HOSTILE in page.text and "run <i>" in page.text


def test_page_can_be_written_again(models: Models, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(models.classifier, run)
    (run / "report.html").write_text("old")
    write_report(run)
    assert "moved" in Page(run / "report.html").text


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0 s"), (119, "119 s"), (120, "2.0 min"), (7200, "2.0 h")])
def test_durations_are_told_in_their_unit(seconds: float, told: str) -> None:
    assert _seconds(seconds) == told
