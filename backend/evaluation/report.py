"""The report of a run: JSON with everything, CSV with every row, and one HTML page that needs no other file."""

import base64
import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.evaluation.plots import curves, structure_bars
from backend.evaluation.results import CaseResult, Failure, Picture, Row, Settings, json_text, write_text
from backend.evaluation.statistics import Estimate
from backend.evaluation.tables import GROUPINGS, Line, challenge, differences, summary, timings

WORST_SHOWN = 8
_TITLES = {
    "overall": "Overall",
    "structure": "By anatomical structure",
    "modality": "By modality",
    "seen": "By whether the published training saw such targets",
    "size": "By size of the target",
    "dataset": "By dataset",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; } th, td { padding: 0.2em 0.7em; text-align: right; }
th { border-bottom: 2px solid #888; } td { border-bottom: 1px solid #ddd; } td.text, th.text { text-align: left; }
img { max-width: 100%; } figure { margin: 0 0 1.5em; } figcaption, .small { color: #555; font-size: 90%; }
"""


@dataclass(frozen=True)
class Report:
    """Everything that is known at the end of a run.

    Args:
        settings: what was measured.
        data: where the cases come from.
        results: of all cases.
    """

    settings: Settings
    data: str
    results: tuple[CaseResult, ...]

    @property
    def rows(self) -> list[Row]:
        """All rows, the models in the order in which they were given."""
        place = {model: number for number, model in enumerate(self.settings.models)}
        return sorted((row for result in self.results for row in result.rows), key=lambda row: place[row.model])

    @property
    def jobs(self) -> list[int]:
        """How many processes shared the machine, which the times depend on; several numbers where runs differed."""
        return sorted({result.jobs for result in self.results})

    @property
    def failures(self) -> list[Failure]:
        """All that could not be measured."""
        return [failure for result in self.results for failure in result.failures]

    @property
    def worst(self) -> list[Picture]:
        """The pictures of the lowest Dice, of each model as many."""
        shown = max(1, WORST_SHOWN // max(1, len(self.settings.models)))
        pictures = [picture for result in self.results for picture in result.pictures]
        pictures.sort(key=lambda picture: picture.dice)
        return [p for model in self.settings.models for p in [q for q in pictures if q.model == model][:shown]]

    def content(self) -> dict[str, Any]:
        """The report as JSON has it."""
        rows = self.rows
        content: dict[str, Any] = {
            "data": self.data,
            "settings": self.settings.model_dump(),
            "jobs": self.jobs,
            "cases": len(self.results),
            "targets": len({(row.case, row.key) for row in rows}),
            "left_out": sum(result.left_out for result in self.results),
            "tables": [asdict(line) for line in summary(rows)],
            "differences": [asdict(difference) for difference in differences(rows)],
            "timing": [asdict(timing) for timing in timings(rows)],
            "challenge": [asdict(line) for line in challenge(rows)] if self.settings.protocol == "challenge" else [],
            "failures": [failure.model_dump() for failure in self.failures],
            "notes": [{"case": result.case, "note": note} for result in self.results for note in result.notes],
            "case_seconds": {result.case: result.seconds for result in self.results},
            "rows": [row.model_dump() for row in rows],
        }
        return content

    def write(self, out: Path) -> None:
        """Write report.json, results.csv and report.html into a folder.

        Raises:
            SamMed3DError: FILE_WRITE; DEPENDENCY_MISSING without matplotlib.
        """
        write_text(out / "report.json", json_text(self.content()))
        write_text(out / "results.csv", csv_text(self.rows))
        write_text(out / "report.html", page(self))


def csv_text(rows: Sequence[Row]) -> str:
    """One line a target, model, repeat and number of clicks."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return stream.getvalue()


def page(report: Report) -> str:
    """The HTML page; whatever names and messages hold, it is text."""
    rows = report.rows
    parts = [f"<h1>Evaluation of {html.escape(report.data)}</h1>", *_introduction(report)]
    if rows:
        parts += _measured(report, rows)
    if report.failures:
        parts += ["<h2>What could not be measured</h2>", _failures(report.failures)]
    notes = [[result.case, note] for result in report.results for note in result.notes]
    if notes:
        parts += ["<h2>Warnings</h2>", _table(["case", "warning"], notes, text=2)]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _introduction(report: Report) -> list[str]:
    settings, rows = report.settings, report.rows
    targets, left_out = len({(r.case, r.key) for r in rows}), sum(result.left_out for result in report.results)
    said = (
        f"{targets} targets of {len(report.results)} cases, {settings.repeats} trials each, seed {settings.seed}; "
        f"{left_out} targets were left out (under {settings.min_volume_ml:g} ml, or not drawn). "
        f"Protocol: {settings.protocol}. Surface distance at {settings.tolerance_mm:g} mm. Intervals are 95 %, by "
        f"the bootstrap over subjects. Times are of {' or '.join(map(str, report.jobs))} process(es) at once."
    )
    return [f"<p>{html.escape(said)}</p>"]


def _measured(report: Report, rows: Sequence[Row]) -> list[str]:
    lines = summary(rows)
    parts = [_image(curves(lines), "Mean over targets against clicks, with its interval")]
    if report.settings.protocol == "challenge":
        header = ["model", "Dice AUC", "NSD AUC", "final Dice", "final NSD", "seconds"]
        found = [
            [c.model, *map(_told, (c.dice_auc, c.nsd_auc, c.dice_final, c.nsd_final, c.seconds))]
            for c in challenge(rows)
        ]
        parts += ["<h2>The challenge's measures</h2>", _table(header, found)]
    parts += [section for by in GROUPINGS for section in _grouping(by, lines)]
    parts += _differences(rows)
    header = ["model", "first click (s)", "next click (s)", "target (s)", "volume (s)"]
    times = [[t.model, *map(_number, (t.first_click, t.next_click, t.target, t.volume))] for t in timings(rows)]
    parts += ["<h2>Times</h2>", _table(header, times)]
    parts += [_image(structure_bars(lines), "Dice by anatomical structure"), "<h2>Worst results</h2>"]
    for shot in report.worst:
        told = f"{shot.model}, {shot.case}, {shot.target}: Dice {shot.dice:.3f} after {shot.clicks} clicks"
        parts.append(_image(shot.png, f"{told} (green: true outline; blue: found)"))
    return parts


def _grouping(by: str, lines: Iterable[Line]) -> list[str]:
    header = [by, "model", "clicks", "targets", "subjects", "Dice", "NSD"]
    found = [
        [s.group, s.model, str(s.clicks), str(s.dice.targets), str(s.dice.subjects), _told(s.dice), _told(s.nsd)]
        for s in lines
        if s.by == by
    ]
    return [f"<h2>{_TITLES[by]}</h2>", _table(header, found, text=2)]


def _differences(rows: Sequence[Row]) -> list[str]:
    found = [[d.model, d.against, str(d.clicks), _told(d.dice), _told(d.nsd)] for d in differences(rows)]
    if not found:
        return []
    header = ["model", "less", "clicks", "Dice", "NSD"]
    return ["<h2>Differences to the first model, target by target</h2>", _table(header, found, text=2)]


def _failures(failures: Sequence[Failure]) -> str:
    return _table(
        ["case", "target", "model", "error"],
        [[failure.case, failure.target or "", failure.model or "", failure.error] for failure in failures],
        text=4,
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """An HTML table whose first `text` columns are left-aligned."""

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [' class="text"' if number < text else "" for number in range(len(cells))]
        inner = "".join(f"<{tag}{mark}>{html.escape(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True))
        return f"<tr>{inner}</tr>"

    return "\n".join(["<table>", line(header, "th"), *(line(row, "td") for row in rows), "</table>"])


def _image(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    told = html.escape(caption)
    return f'<figure><img alt="{told}" src="data:image/png;base64,{data}"><figcaption>{told}</figcaption></figure>'


def _told(estimate: Estimate) -> str:
    if estimate.mean is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
