"""The report's page: one HTML file that needs nothing else, neither network nor script."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.report.claims import FAILS, HOLDS, UNKNOWN
from bench.report.pictures import Material, Picture
from bench.report.sheets import GAPS, GENERAL, Cell, Sheet, Table, lines_to_markdown, sheets
from bench.report.tables import copies, paper_first, remark

_CSS = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5a6470; --page: #fff; --card: #f5f6f8;
  --line: #d5dae0; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #9aa5b1; --page: #15181c;
  --card: #1e2329; --line: #39414a; --link: #7db7f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
h1 { margin: 0 0 .5rem; line-height: 1.2; }
h2 { margin: 3rem 0 .5rem; padding-top: .75rem; border-top: 2px solid var(--line); }
h3 { margin: 2.25rem 0 .25rem; }
h4 { margin: 1.5rem 0 .25rem; }
nav ul { padding-left: 1.25rem; }
.note, figcaption { color: var(--soft); font-size: .875rem; max-width: 48rem; }
ul.note { max-width: none; }
.wide { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; white-space: normal;
  min-width: 5.5rem; }
thead th.name { min-width: 0; }
th.name, td.name { text-align: left; font-weight: normal; }
thead th.name { font-weight: 600; }
tr.group td { border-top: 2px solid var(--line); }
td.name:last-child { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
table.prose td { white-space: normal; vertical-align: top; min-width: 5.5rem; }
table.prose td:first-child { min-width: 14rem; } table.prose td:last-child { min-width: 24rem; }
code { font-size: .8125rem; }
td code { display: block; }
figure { margin: 1rem 0 1.5rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; padding: .5rem;
  border: 1px solid var(--line); border-radius: .4rem; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; }
.alarm { border-left: .3rem solid #c2410c; background: var(--card); padding: .5rem 1rem; }
"""

_READING = (
    "Blocks never mix presets or devices: <code>paper</code> is the published scale, <code>quick</code> "
    "minutes on two CPU cores, <code>smoke</code> only shows that everything runs; its numbers say nothing "
    "about methods.",
    "A method is a way to draw networks. An ensemble of n is the first n networks of one draw; its "
    "prediction is the mean of their probabilities. One network stands for the mean of single networks.",
    GENERAL,
    "The CSV files beside this page also hold the 95 % t-interval over seeds (columns <code>low</code> and "
    "<code>high</code>). One seed has no spread, and a difference between two methods on one seed proves "
    "little.",
    "Entropies are in nats, of the ensemble's mean probability; ln K is the most that K classes allow. "
    "AUROC is the chance that an outlying image has the higher entropy: 0.5 is guessing.",
    "Whether two methods differ stands in the paired verdicts, on the seeds or, with one seed, on the images "
    "that both share. A verdict on images holds for these trained networks only.",
)

_LEDGER = (
    "What the paper claims, tested on these rows. A comparison holds when its 95 % interval over seeds "
    "excludes no difference; with one seed the point value decides. A claim holds where all its comparisons "
    "do, and fails where one does; until then, with rows missing, it is not measured. Expected is what this "
    "project expects of its own data, in bold where the verdict departs from it; the paper's own numbers are "
    "its tables, put to the same test. Of several configurations of a method the one with most seeds counts, "
    "then the one found on most tasks."
)
_LEDGER_HEADINGS = (
    "claim", "section", "verdict", "expected", "paper's numbers", "evidence",
)  # fmt: skip

# Beginnings of the names of figures that stand right after a table.
_AFTER: dict[str, tuple[str, ...]] = {
    "accuracy": ("accuracy-",),
    "out-of-distribution": ("entropy-ecdf-", "figure3-", "figure4-", "figure9-"),
    "weight-norms": ("weight-norms-",),
    "budgets": ("pareto-",),
    "attacks": ("figure5-", "figure10-"),
    "regression": ("figure2-",),
    "diversity": ("training-", "figure6-", "figure7-", "figure8-"),
}
FOLDED = 40  # lines of a task's table: one of more opens at a click, as others stand below
GAPS_OF_FIGURE = "What this figure lacks was not measured here; these fill the gaps:"
VERDICTS = (HOLDS, FAILS, UNKNOWN)
_PAPER = "the paper's tables"
_FAILURE_HEADINGS = ("preset", "device", "task", "method", "seed", "error", "message")


def escape(value: Any) -> str:
    """The value as text that HTML shows letter by letter, in attributes too."""
    return html.escape(str(value), quote=True)


def failures_markdown(failed: pd.DataFrame) -> str:
    """The failed runs as a Markdown table."""
    lines = [[Cell(text) for text in line] for line in _failure_lines(failed)]
    return "# Failures\n\n" + lines_to_markdown(_FAILURE_HEADINGS, lines, len(_FAILURE_HEADINGS))


def claims_markdown(ledger: pd.DataFrame, found: Sequence[Mapping[str, str]]) -> str:
    """The ledger as Markdown, a heading a preset and device. found: lossy copies, of `tables.copies`."""
    parts = [f"# Claims of the paper\n\n{_LEDGER}\n"]
    for (preset, device), part in ledger.groupby(["preset", "device"], sort=False):
        table = lines_to_markdown(_LEDGER_HEADINGS, _ledger_lines(part), len(_LEDGER_HEADINGS))
        read = remark(found, {"preset": str(preset), "device": str(device)})
        parts.append(f"\n## {preset} · {device}\n\n{table}" + (f"\n{read}\n" if read else ""))
    return "".join(parts)


def render(
    material: Material,
    tables: Sequence[Table],
    ledger: pd.DataFrame,
    failed: pd.DataFrame,
    drawn: Sequence[tuple[Picture, bytes]],
) -> str:
    """The whole page. ledger: of `claims`. drawn: each figure's place and caption, with its SVG.

    An empty SVG is a gap: its caption stands with the commands that fill it.
    """
    laid = [(table, sheet) for table in tables for sheet in sheets(table)]
    blocks: list[tuple[str, str]] = list(
        dict.fromkeys(zip(material.rows["preset"], material.rows["device"], strict=True))
    )
    body = [_head(material, blocks, failed, ledger)]
    for preset, device in blocks:
        own = [(t, s) for t, s in laid if (s.block["preset"], s.block["device"]) == (preset, device)]
        seen = [(p, svg) for p, svg in drawn if (p.block["preset"], p.block["device"]) == (preset, device)]
        body.append(_block(preset, device, own, seen))
    body.append(_claims(ledger, copies(material.rows)))
    body.append(_failures(failed))
    body.append(_provenance(material))
    body.append('<h2 id="reading">How to read it</h2>' + _list(_READING))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Bayesian ensembles compared</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _anchor(*parts: str) -> str:
    return escape("-".join(p.replace(" ", "-") for p in parts if p))


def _head(
    material: Material, blocks: Sequence[tuple[str, str]], failed: pd.DataFrame, ledger: pd.DataFrame
) -> str:
    """Title, what the page rests on, and where to find it."""
    rows = material.rows
    held = rows[rows["metric"] != "failed"]
    seeds = sorted({int(s) for s in rows["seed"].dropna()})
    facts = {
        "runs": f"{len(material.abouts)}, of which {len(failed)} failed",
        "rows": f"{len(held):,}",
        "methods": ", ".join(sorted(set(rows["method"]))),
        "tasks": ", ".join(sorted(set(rows["task"]))),
        "seeds": ", ".join(map(str, seeds)) or "none",
    }
    entries = []
    for preset, device in blocks:
        part = rows[(rows["preset"] == preset) & (rows["device"] == device)]
        links = [
            f'<a href="#{_anchor(preset, device, task)}">{escape(task)}</a>'
            for task in paper_first(part["task"])
        ]
        links.append(f'<a href="#{_anchor(preset, device, _PAPER)}">{_PAPER}</a>')
        place = f'<a href="#{_anchor(preset, device)}">{escape(preset)} · {escape(device)}</a>'
        entries.append(f"{place}: {', '.join(links)}")
    entries += [
        f'<a href="#claims">Claims of the paper</a>: {escape(_counts(ledger))}',
        '<a href="#failures">Failures</a>',
        '<a href="#provenance">Provenance</a>',
        '<a href="#reading">How to read it</a>',
    ]
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return (
        "<h1>Bayesian ensembles compared</h1>"
        f'<dl class="facts">{listed}</dl><nav aria-label="Contents">{_list(entries)}</nav>'
    )


def _block(
    preset: str, device: str, laid: Sequence[tuple[Table, Sheet]], drawn: Sequence[tuple[Picture, bytes]]
) -> str:
    """One preset on one device: the summary, each task with its tables and figures, the paper's tables."""
    parts = [f'<h2 id="{_anchor(preset, device)}">Preset {escape(preset)} · {escape(device)}</h2>']
    beside = [(table, sheet) for table, sheet in laid if table.part == "paper"]
    laid = [(table, sheet) for table, sheet in laid if table.part != "paper"]
    parts += [_titled(table, sheet) for table, sheet in laid if "task" not in sheet.block]
    tasks = {s.block["task"] for _, s in laid if "task" in s.block} | {p.block["task"] for p, _ in drawn}
    for task in paper_first(tasks):
        parts.append(f'<h3 id="{_anchor(preset, device, task)}">{escape(task)}</h3>')
        pictures = [(p, svg) for p, svg in drawn if p.block["task"] == task]
        own = [(table, sheet) for table, sheet in laid if sheet.block.get("task") == task]
        for name in dict.fromkeys(table.name for table, _ in own):
            parts += [_titled(table, sheet) for table, sheet in own if table.name == name]
            parts += [_figure(p, svg) for p, svg in pictures if _follows(p, name)]
        followed = {name for table, _ in own for name in [table.name]}
        parts += [_figure(p, svg) for p, svg in pictures if not any(_follows(p, n) for n in followed)]
    parts.append(f'<h3 id="{_anchor(preset, device, _PAPER)}">{_PAPER.capitalize()}</h3>')
    parts += [_titled(table, sheet) for table, sheet in beside]
    return "\n".join(parts)


def _follows(picture: Picture, table: str) -> bool:
    """Whether a figure stands right after a table: it shows the same numbers."""
    return picture.name.startswith(_AFTER.get(table, ()))


def _titled(table: Table, sheet: Sheet) -> str:
    """A table under its heading, with what it was measured on and how to read it."""
    told = ("train", "dataset", "metric", "examples")
    where = " · ".join(escape(sheet.block[k]) for k in told if sheet.block.get(k))
    title = escape(table.title) + (f" — {where}" if where else "")
    body = _html_table(sheet.headings, sheet.lines, sheet.lead, table.title)
    if "task" in sheet.block and len(sheet.lines) > FOLDED:
        body = f"<details><summary>{len(sheet.lines)} lines</summary>{body}</details>"
    gaps = "".join(f"<li><code>{escape(text)}</code></li>" for text in sheet.commands)
    gaps = gaps and f'<p class="note">{GAPS}</p><ul class="note">{gaps}</ul>'
    note = escape(" ".join(filter(None, (table.note, sheet.remark))))
    return f'<h4>{title}</h4>{body}<p class="note">{note}</p>{gaps}'


def _html_table(
    headings: Sequence[str], lines: Sequence[Sequence[Cell]], lead: int, label: str, kind: str = ""
) -> str:
    """A table that scrolls sideways where it is wider than the page. kind: a class of its own."""

    def cell(tag: str, place: int, content: str, scope: str = "") -> str:
        named = ' class="name"' if place < lead else ""
        return f"<{tag}{scope}{named}>{content}</{tag}>"

    def content(c: Cell) -> str:
        text = f"<strong>{escape(c.text)}</strong>" if c.best else escape(c.text)
        return f"{text} <code>{escape(c.command)}</code>" if c.command else text

    head = "".join(cell("th", i, escape(h), ' scope="col"') for i, h in enumerate(headings))
    own = f' class="{kind}"' if kind else ""
    body = []
    # A rule above each group of lines that share their first cell.
    groups = len({line[0].text for line in lines}) < len(lines)
    for i, line in enumerate(lines):
        new = groups and i > 0 and line[0].text != lines[i - 1][0].text
        row = "".join(cell("td", place, content(c)) for place, c in enumerate(line))
        body.append(f'<tr class="group">{row}</tr>' if new else f"<tr>{row}</tr>")
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table{own}>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _figure(picture: Picture, svg: bytes) -> str:
    commands = "".join(f"<li><code>{escape(text)}</code></li>" for text in picture.commands)
    gaps = commands and f'<p class="note">{GAPS_OF_FIGURE}</p><ul class="note">{commands}</ul>'
    caption = escape(picture.caption)
    if not svg:
        return f'<p class="note">{caption}</p><ul class="note">{commands}</ul>'
    # As an image, not inline: ids of several SVG files in one document would meet.
    data = base64.b64encode(svg).decode()
    place = " · ".join(picture.block[k] for k in ("task", "preset", "device"))
    return (
        f'<figure id="{_anchor(picture.name)}"><img src="data:image/svg+xml;base64,{data}" '
        f'alt="{caption} {escape(place)}"><figcaption>{caption}</figcaption></figure>{gaps}'
    )


def _ledger_lines(part: pd.DataFrame) -> list[list[Cell]]:
    """A block of the ledger, the verdicts that depart from what is expected marked."""
    return [
        [
            Cell(line["statement"]), Cell(line["section"]),
            Cell(line["verdict"], best=line["departs"] == "yes"), Cell(line["expected"]),
            Cell(line["paper_numbers"]), Cell(line["evidence"], command=line["command"]),
        ]
        for line in part.to_dict("records")
    ]  # fmt: skip


def _counts(ledger: pd.DataFrame) -> str:
    """How many claims hold, fail and are not measured, block by block."""
    found = []
    for (preset, device), part in ledger.groupby(["preset", "device"], sort=False):
        counts = Counter(part["verdict"])
        numbers = ", ".join(f"{name} {counts[name]}" for name in VERDICTS if counts[name])
        found.append(f"{preset} · {device}: {numbers}")
    return "; ".join(found)


def _claims(ledger: pd.DataFrame, found: Sequence[Mapping[str, str]]) -> str:
    """The ledger, a table a preset and device."""
    parts = ['<h2 id="claims">Claims of the paper</h2>', f'<p class="note">{escape(_LEDGER)}</p>']
    departing = int((ledger["departs"] == "yes").sum())
    if departing:
        parts.append(f'<p class="alarm">{departing} of the verdicts depart from what is expected.</p>')
    for (preset, device), part in ledger.groupby(["preset", "device"], sort=False):
        label = f"Claims, preset {preset}, {device}"
        table = _html_table(_LEDGER_HEADINGS, _ledger_lines(part), len(_LEDGER_HEADINGS), label, "prose")
        read = remark(found, {"preset": str(preset), "device": str(device)})
        read = read and f'<p class="note">{escape(read)}</p>'
        parts.append(f"<h3>Preset {escape(preset)} · {escape(device)}</h3>{table}{read}")
    return "\n".join(parts)


def _failure_lines(failed: pd.DataFrame) -> list[list[str]]:
    shown = failed[list(_FAILURE_HEADINGS)].astype(object)
    return [["" if pd.isna(v) else str(v) for v in line] for line in shown.itertuples(index=False)]


def _failures(failed: pd.DataFrame) -> str:
    heading = '<h2 id="failures">Failures</h2>'
    if not len(failed):
        return heading + "<p>No run failed.</p>"
    lines = [[Cell(text) for text in line] for line in _failure_lines(failed)]
    table = _html_table(_FAILURE_HEADINGS, lines, len(_FAILURE_HEADINGS), "Failures")
    count = f"{len(failed)} of the newest runs failed: their cells count as missing."
    return f'{heading}<p class="alarm">{count}</p>{table}'


def _provenance(material: Material) -> str:
    """How many runs come from which commit, code, device and library versions."""
    headings = ("commit", "tree", "code", "device", "torch", "Python", "threads", "runs")
    counts: Counter[tuple[str, ...]] = Counter()
    dirty = 0
    for about in material.abouts.values():
        where = about.get("environment") or {}
        dirty += bool(about.get("dirty"))
        tree = "dirty" if about.get("dirty") else "clean"
        machine = (str(where.get(key, "")) for key in ("device", "torch", "python", "threads"))
        counts[(_short(about.get("commit")), tree, _short(about.get("code")), *machine)] += 1
    lines = [[Cell(text) for text in (*key, str(n))] for key, n in sorted(counts.items())]
    count = f"{dirty} of the runs come from a working tree with changes that their commit does not hold."
    alarm = f'<p class="alarm">{count}</p>' if dirty else ""
    return f'<h2 id="provenance">Provenance</h2>{alarm}' + _html_table(headings, lines, 7, "Provenance")


def _short(value: Any) -> str:
    """The first twelve letters of a hash; a mapping of hashes as JSON."""
    if isinstance(value, dict):
        return json.dumps({k: str(v)[:12] for k, v in value.items()}, sort_keys=True)
    return str(value or "")[:12]
