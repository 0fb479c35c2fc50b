"""Pieces of a page. Everything that data or files may have named goes through `text`."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from titans_seq.data.record import printable

SHOWN = 200  # characters of a name; more would only push the page apart


def text(value: Any, most: int | None = None) -> str:
    """Any value as text that a browser shows as it is: escaped, control characters written out, cut to ``most``."""
    said = "\n".join(map(printable, str(value).split("\n")))
    return escape(said if most is None or len(said) <= most else said[: most - 1] + "…")


def name(value: Any) -> str:
    """A name of the data, as one short line."""
    return text(printable(str(value)), SHOWN)


def embedded(facts: Any) -> str:
    """Facts as JSON inside a ``script`` element, which no text in them can end."""
    plain = json.dumps(facts, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", plain)


def number(value: float | None) -> str:
    """A number as people read it; None, as JSON has what is not finite, is told so."""
    if value is None or value != value:
        return "not finite"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def counted(count: int, thing: str) -> str:
    """A count with its thing, one or several."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s"


def section(title: str, *parts: str) -> str:
    """A titled part of the page; nothing where there is nothing in it."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>" if body else ""


def paragraph(said: str, kind: str = "") -> str:
    """A paragraph of plain text; ``kind`` is its class: note, warning."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{text(said)}</p>"


def code(lines: str) -> str:
    """Lines as they are typed."""
    return f"<pre>{text(lines)}</pre>"


def folded(title: str, body: str) -> str:
    """What is shown on demand."""
    return f"<details><summary>{text(title)}</summary>\n{body}\n</details>" if body else ""


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, the values already HTML."""
    return '<table class="facts">' + "".join(f"<tr><th>{name(k)}</th><td>{v}</td></tr>" for k, v in rows) + "</table>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows; cells are HTML already."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def listed(lines: Sequence[str], most: int) -> str:
    """Sentences as a list, the first ``most`` of them."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines[:most])
    more = f"<li>and {len(lines) - most:,} more</li>" if len(lines) > most else ""
    return f"<ul>{items}{more}</ul>" if lines else ""


def flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Keys of a nested mapping with dots between, and their values as HTML; what is not set is left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        elif isinstance(value, list | tuple):
            if value:
                yield f"{before}{key}", " ".join(map(text, value))
        elif value is not None:
            yield f"{before}{key}", text(value)
