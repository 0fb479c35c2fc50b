"""The page of a run: whole, self-contained, and safe with whatever names the data bring."""

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.conftest import Call, Models, Tiny
from titans_seq.data.audit.found import Audit
from titans_seq.errors import InputError
from titans_seq.measured import FOLDER, Measured
from titans_seq.report import write_report
from titans_seq.report.html import embedded, name, seconds, text
from titans_seq.report.measurements import _command, meaning
from titans_seq.report.scores import lead_lines, score_table

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"]]>-->&lt;$x$=1+1\x00\x1b[31m\u202e\u2028"
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "script"),
    *("h1", "h2", "h3", "h4", "p", "small", "b", "br", "pre", "code", "ul", "li", "details", "summary"),
    *("table", "thead", "tbody", "tr", "th", "td", "div", "span", "i", "figure", "figcaption"),
    *("svg", "g", "path", "polyline", "polygon", "circle", "text"),
}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Tags, attributes, scripts and text of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[tuple[str, str]] = []  # type and content
        self.style, self.text, self.policy = "", "", ""
        self._in = ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {key for key, _ in attrs}
        self._in = tag
        given = dict(attrs)
        if tag == "script":
            self.scripts.append((given.get("type") or "", ""))
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            kind, content = self.scripts[-1]
            self.scripts[-1] = (kind, content + data)
        elif self._in == "style":
            self.style += data
        else:
            self.text += data


def is_safe(page: Page) -> None:
    """Nothing on the page is loaded or run but its own style and script, which its policy names."""
    assert page.tags <= TAGS
    assert not {a for a in page.attributes if a.startswith("on") or a in ("src", "href", "srcset", "action", "style")}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import", page.source)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", page.source)
    run = [content for kind, content in page.scripts if kind != "application/json"]
    assert len(run) <= 1
    for kind, content in (("style", page.style), *(("script", script) for script in run)):
        allowed = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{allowed}'" in page.policy
    assert page.policy.startswith("default-src 'none'") and "unsafe" not in page.policy


@pytest.fixture(scope="module")
def measured(titans: Call, models: Models, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The runs with a measurement and an audit of each."""
    folder = tmp_path_factory.mktemp("measured")
    runs = Models(*(folder / kind for kind in Models._fields))
    for old, new in zip(models, runs, strict=True):
        shutil.copytree(old, new, ignore=shutil.ignore_patterns(FOLDER))
    few = ("--resamples", "20")
    titans("genomics", "evaluate", runs.language, tiny.fasta, *few)
    titans("genomics", "evaluate", runs.classifier, tiny.table, "--both-strands", *few)
    for run, table in ((runs.wide, tiny.wide), (runs.long, tiny.long)):
        titans("forecast", "backtest", run, table, "--windows", 2, "--out", folder / f"{run.name}.csv")
        titans("forecast", "audit", table, "--out", run / "audit.json")
    titans("genomics", "audit", tiny.table, "--test", tiny.table, "--out", runs.classifier / "audit.json")
    for run in runs:
        titans("report", run)
    return runs


def test_a_measurement_is_repeated_by_its_command() -> None:
    def command(verb: Any, field: str, **identity: str) -> str:
        one = Measured(verb=verb, path="x y", identity=identity, when="", titans_seq="", found={}, drawn={})
        return _command(one, "run", field)

    said = {"windows": "4", "step": "2", "horizon": "3", "refit": "None", "reading": '{"on_gap": "ffill"}'}
    assert command("backtest", "forecast", **said) == (
        "titans-seq forecast backtest run 'x y' --windows 4 --step 2 --horizon 3 --on-gap ffill --out backtest.csv"
    )
    said = {
        "label_columns": '["a", "(b) 1"]',
        "resamples": "20",
        "seed": "7",
        "baseline": "False",
        "regions": '{"reference": "g.fa", "feature": ["CDS", "gene"]}',
        "model": "0",
    }
    assert command("evaluate", "genomics", **said) == (
        "titans-seq genomics evaluate run 'x y' --no-baseline --resamples 20 --seed 7 --reference g.fa "
        "--feature CDS,gene --label-column a --label-column '(b) 1'"
    )


@pytest.mark.parametrize("kind", Models._fields)
def test_every_run_has_a_page_that_needs_nothing_else(models: Models, measured: Models, kind: str) -> None:
    for runs in (models, measured):
        page = Page(getattr(runs, kind) / "report.html")
        is_safe(page)
        assert 'name="viewport"' in page.source and "prefers-color-scheme: dark" in page.style


@pytest.mark.parametrize("kind", Models._fields)
def test_page_tells_scores_settings_versions_and_commands(models: Models, kind: str) -> None:
    run: Path = getattr(models, kind)
    page = Page(run / "report.html")
    manifest = json.loads((run / "manifest.json").read_text())
    for score in manifest["result"]["validation"]:
        assert score.replace("_", " ") in page.text
    for told in (manifest["torch"], manifest["titans_seq"], *manifest["data_sha256"].values()):
        assert told in page.text
    assert manifest["model_sha256"] in page.text and f"{manifest['sizes']['parameters']:,} parameters" in page.text
    assert (run / "recipe.yaml").read_text() in page.text
    field = "forecast" if kind in ("wide", "long") else "genomics"
    assert f"titans-seq {field} predict {run}" in page.text and "load_pretrained" in page.text
    verb = {"forecast": "backtest", "genomics": "evaluate"}[field]
    assert "Nothing was measured yet" in page.text and f"titans-seq {field} {verb} {run} T" in page.text


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("language", ["interpolated markov", "95% intervals of 20", "Along r0, positions 1 to 200", "trained on this"]),
        ("classifier", ["majority class", "kmer logistic", "Confusion", "ROC", "recall", "Calibration", "exact"]),
        ("wide", ["seasonal naive", "2 forecasts of 4 rows", "error by step", "80% band", "chosen by, rows of"]),
        ("long", ["seasonal naive", "Calibration", "x: MAE", "No problem and no leak"]),
    ],
)
def test_page_shows_what_was_measured(measured: Models, kind: str, told: list[str]) -> None:
    page = Page(getattr(measured, kind) / "report.html")
    assert not [words for words in told if words not in page.text]
    assert "Nothing was measured yet" not in page.text and "training loss" in page.text
    verb = "backtest" if kind in ("wide", "long") else "evaluate"
    assert f" {verb} {getattr(measured, kind)} " in page.text  # the command that measures again


# --- whatever names the data bring


def test_errors_are_told_with_their_unit_and_less_of_them_is_better() -> None:
    both = {"mse": 4.0, "scaled_mse": 1.0}
    assert "the labels' own unit" in unescape(meaning("mse", both))
    assert "training standard deviations" in meaning("mse", {"mse": 1.0})  # of forecasts
    lines = lead_lines(
        {"lead": {"training_mean": {"scaled_mse": [-2, -1], "mse_x": [-2, -1], "pearson_x": [0.1, 0.2]}}}
    )
    bits = ("bits_per_nt", "bits_per_nt_repeat", "bits_per_nt_other", "bits_per_masked_nt")
    (told,) = lead_lines({"lead": {"markov": {name: [0.1, 0.2] for name in bits}}})
    assert told.startswith("Model worse than markov") and "better" not in told
    assert len(lines) == 1 and "Model better than training mean" in lines[0]
    table = score_table({"items": 2, "model": {"mse": 1.234e-6}, "intervals": {"model": {"mse": [1e-6, 2e-6]}}})
    assert "1.23e-06 [1.0e-06, 2.0e-06]" in table


def hostile(value: Any) -> Any:
    """What was measured, with every text in it, and every name of a model, class or track, replaced."""
    if isinstance(value, dict):
        return {key: hostile(part) for key, part in value.items()}
    if isinstance(value, list):
        return [hostile(part) for part in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("kind", Models._fields)
def test_hostile_measurements_and_audits_stay_text(measured: Models, tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(getattr(measured, kind), run)
    (file,) = (run / FOLDER).iterdir()
    one = json.loads(file.read_text())
    one["path"] = one["when"] = one["titans_seq"] = HOSTILE
    one["identity"][HOSTILE] = HOSTILE
    found, drawn = one["found"], one["drawn"]
    lookback = found.get("protocol", {}).get("lookback")
    found["details"], drawn["examples"] = hostile(found.get("details", {})), hostile(drawn.get("examples", []))
    for curves in ("roc", "precision_recall"):
        if curves in found["details"]:
            found["details"][curves] = {HOSTILE: [[0, 0], [1, 1]]}
    if "bootstrap" in found:
        found[HOSTILE] = found["model"]
        found["chromosomes"] = {HOSTILE: {"items": 1, "model": {HOSTILE: 0.5}}}
        found["model"] |= {HOSTILE: 0.5}
    if drawn.get("region"):
        drawn["region"] |= {"id": HOSTILE, "observed": {}}
        drawn["region"]["tracks"] = {HOSTILE: drawn["region"]["tracks"]["loglik"]}
    if lookback:
        found["protocol"]["units"] = HOSTILE
    file.write_text(json.dumps(one))
    audit = Audit(
        HOSTILE, HOSTILE, {HOSTILE: HOSTILE, "rows": [{HOSTILE: HOSTILE}]}, (HOSTILE,), (HOSTILE,), (HOSTILE,)
    )
    (run / "audit.json").write_text(json.dumps(audit.as_json()))
    write_report(run)
    page = Page(run / "report.html")
    is_safe(page)
    shown = name(HOSTILE)
    assert "&lt;script&gt;" in shown and "\\x1b" in shown and page.source.count(shown) > 5
    for _, content in (script for script in page.scripts if script[0] == "application/json"):
        data = json.loads(content)
        assert data["id"] == HOSTILE and data["lines"][0]["name"] == HOSTILE


def test_names_of_files_and_labels_stay_text(titans: Call, tiny: Tiny, tmp_path: Path) -> None:
    draw, odd = random.Random(0), "<script>alert(1)<\"'&$x$>"
    folder = tmp_path / odd
    folder.mkdir()
    table = folder / "a.csv"
    rows = [f"{''.join(draw.choices('ACGT', k=20))},{'<b>x</b>' if i % 2 else odd[:8]}" for i in range(12)]
    table.write_text("\n".join(["sequence,label", *rows, ""]))
    run = folder / "run <i>"
    titans("genomics", "finetune", table, "--out", run, *tiny.size, "--set", "training.steps=1")
    titans("genomics", "evaluate", run, table, "--resamples", 0)
    titans("report", run)
    page = Page(run / "report.html")
    is_safe(page)
    assert odd in page.text and "run <i>" in page.text and "<b>x</b>" in page.text


def test_embedded_json_is_what_it_was_and_ends_no_script() -> None:
    facts = {HOSTILE: [HOSTILE, 1.5, None], "<!--": "<![CDATA[ ]]> </SCRIPT >"}
    assert json.loads(embedded(facts)) == facts
    assert not set("<>&\u2028") & set(embedded(facts))


def test_text_keeps_lines_and_is_cut() -> None:
    assert text("a\nb\x07") == "a\nb\\x07" and text("abc", 2) == "a…" and name("a\nb") == "a\\nb"


# --- what is kept


def test_a_measurement_made_again_takes_the_place_of_the_earlier(
    titans: Call, measured: Models, tiny: Tiny, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured.classifier, run)
    (file,) = (run / FOLDER).iterdir()
    (kept,) = (Measured.model_validate_json(file.read_bytes()) for file in (run / FOLDER).iterdir())
    assert TypeAdapter(Measured).validate_json(kept.model_dump_json()) == kept
    same = ["genomics", "evaluate", run, tiny.table, "--both-strands", "--resamples", 20, "--json"]
    found = json.loads(titans(*same).stdout)
    assert found == json.loads(file.read_text())["found"] and len(list((run / FOLDER).iterdir())) == 1
    titans("genomics", "evaluate", run, tiny.table, "--resamples", 20)
    assert len(list((run / FOLDER).iterdir())) == 2
    assert json.loads(titans("report", run, "--json").stdout)["measurements"] == 2


def test_measurements_of_other_weights_are_not_shown(measured: Models, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured.classifier, run)
    (file,) = (run / FOLDER).iterdir()
    file.write_text(file.read_text().replace('"model": "', '"model": "0'))
    assert write_report(run)["measurements"] == 0


def test_a_damaged_measurement_is_named(measured: Models, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured.classifier, run)
    (file,) = (run / FOLDER).iterdir()
    file.write_text(file.read_text()[:100])
    with pytest.raises(InputError, match=rf"{re.escape(str(file))} does not hold .* measure again"):
        write_report(run)


def test_where_nothing_can_be_kept_the_measurement_is_made_all_the_same(
    titans: Call, models: Models, tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(models.classifier / "model", tmp_path / "alone")  # a checkpoint, no run
    titans("genomics", "evaluate", tmp_path / "alone", tiny.table, "--resamples", 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["alone"]
    shutil.copytree(models.classifier, tmp_path / "run", ignore=shutil.ignore_patterns(FOLDER))
    (tmp_path / "run" / FOLDER).write_text("in the way")
    result = titans("genomics", "evaluate", tmp_path / "run", tiny.table, "--resamples", 0)
    assert "will not have this measurement" in result.stderr and "accuracy" in result.stdout


# --- the command


def test_page_can_be_written_again_and_elsewhere(titans: Call, models: Models, tmp_path: Path) -> None:
    run, out = tmp_path / "moved", tmp_path / "page.html"
    shutil.copytree(models.classifier, run)
    (run / "report.html").write_text("old")
    titans("report", run)
    assert "moved" in Page(run / "report.html").text
    titans("report", run, "--out", out)
    assert out.read_bytes() == (run / "report.html").read_bytes()
    assert f"{out} exists" in titans("report", run, "--out", out, code=2).stderr
    titans("report", run, "--out", out, "--overwrite")


def test_several_seeds_are_shown_by_their_best(titans: Call, tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "runs"
    given = ["genomics", "finetune", tiny.table, "--out", run, *tiny.size, "--set", "training.steps=1", "--seeds", 2]
    best = json.loads(titans(*given, "--json").stdout)["best"]
    titans("genomics", "evaluate", run, tiny.table, "--resamples", 0)
    titans("genomics", "evaluate", run / best, tiny.table, "--resamples", 0, "--both-strands")
    assert json.loads(titans("report", run, "--json").stdout)["measurements"] == 2
    assert f"{best} is best on validation by log loss" in Page(run / "report.html").text


def test_what_cannot_be_reported_on(titans: Call, models: Models, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(models.classifier, run)
    (tmp_path / "no.json").write_text('{"path": 1}')
    assert "is no audit" in titans("report", run, "--audit", tmp_path / "no.json", code=3).stderr
    assert "does not exist" in titans("report", run, "--audit", tmp_path / "gone.json", code=2).stderr
    assert "should end in .html" in titans("report", run, "--out", tmp_path / "page.pdf", code=2).stderr
    assert "is no folder" in titans("report", tmp_path / "gone", code=2).stderr
    assert "is no run folder" in titans("report", run / "model", code=5).stderr
    manifest = json.loads((run / "manifest.json").read_text()) | {"status": "running"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "is not finished" in titans("report", run, code=5).stderr


@pytest.mark.parametrize(("value", "told"), [(0.4, "0 s"), (119, "119 s"), (120, "2.0 min"), (7200, "2.0 h")])
def test_durations_are_told_in_their_unit(value: float, told: str) -> None:
    assert seconds(value) == told


# --- in a browser


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("kind", Models._fields)
def test_a_browser_has_nothing_to_complain_of(measured: Models, tmp_path: Path, kind: str) -> None:
    page = getattr(measured, kind) / "report.html"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", "--disable-quic", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    done = subprocess.run([str(BROWSER), *options], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    tracks = page.read_text().count('<div class="track"')
    assert tracks == (1 if kind == "language" else 0)
    assert done.stdout.count('<div class="buttons">') == tracks  # the script ran
    assert 'class="still"' not in done.stdout if tracks else "</main>" in done.stdout
