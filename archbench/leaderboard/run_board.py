"""The board of one's own runs: by quality with intervals, as HTML, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from archbench.leaderboard.board_page import BoardPage, BoardSection, markdown_table, markdown_text
from archbench.leaderboard.ranking import ABOUT_THE_OTHER, Group, Ranked
from archbench.leaderboard.run import Run
from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.labels import format_value, metric_label

TONES = {"worse": "bad", "worse but trivially": "even", "equivalent": "even", "not told apart": "open"}
FILTERS = ("Dataset", "Study", "Made by")
OWN = "this database"
EMPTY = (
    "No run matches. Every finished study adds itself; an older one is added by"
    " python scripts/leaderboard.py add results/<study>."
)


def run_page(groups: Sequence[Group], *, database: str) -> BoardPage:
    """Return the page of ranked groups."""
    return BoardPage(
        title="Leaderboard of finished studies",
        product="archbench leaderboard",
        paragraphs=[
            "Each table holds the runs that were tested on the same cases, ranked by the primary metric of their"
            " task alone. Intervals are over patients; verdicts are paired, case by case."
        ],
        sections=[_section(k, group) for k, group in enumerate(groups)],
        filters=FILTERS,
        absent="" if groups else EMPTY,
        footer=f"From {database}. A higher rank within the intervals is no proof: read the verdicts.",
    )


def _section(k: int, group: Group) -> BoardSection:
    label = metric_label(group.primary)
    better = "larger" if group.greater_is_better else "smaller"
    first = group.ranked[0].run
    columns = [
        Column("Model", numeric=False),
        Column("Rank", "Place by the primary metric alone; equal values share it."),
        Column(label.short, f"{label.long}; {better} is better. Bars: the intervals."),
        Column(
            "Against the first",
            "Paired difference from the first on the cases that both were tested on, p corrected by Holm.",
            numeric=False,
        ),
        Column("Latency, ms", "Median of ONNX Runtime at batch 1, on the machine named below it."),
        Column("Training, min", "All folds and seeds together."),
        Column("Folds × seeds"),
        Column("Added", numeric=False),
    ]
    return BoardSection(
        identifier=f"group-{k}",
        title=f"{group.dataset}: {group.task}" + (f", data {group.data_hash[:6]}" if group.versions > 1 else ""),
        paragraphs=[headline(group), *filter(None, [news(group)])],
        notices=group.notes,
        table=Table(
            identifier=f"runs-{k}",
            caption=f"{first.details['n_cases']} cases, {first.details['n_patients']} patients, data {group.data_hash}",
            columns=columns,
            rows=[_row(entry) for entry in group.ranked],
            sortable=True,
        ),
        facets=[(group.dataset, entry.run.study, entry.run.site or OWN) for entry in group.ranked],
        phantom=group.phantom,
    )


def _row(entry: Ranked) -> list[Cell]:
    run, details = entry.run, entry.run.details
    seconds = details.get("train_seconds")
    what = ", ".join(filter(None, [str(details.get("architecture") or ""), _pixels(details.get("image_size"))]))
    return [
        Cell(
            text=run.model,
            sort=run.model,
            sub=f"{run.study}; {what}; settings {run.config_hash[:8]}, code {run.code[:8]}",
        ),
        number_cell(entry.rank, str(entry.rank), reason="the primary metric is undefined"),
        record_cell(run.primary, draw=True),
        _against(entry),
        _latency(run),
        number_cell(
            None if seconds is None else seconds / 60,
            format_value(None if seconds is None else seconds / 60, 1),
            reason="nothing was trained",
            sub=str(details.get("device") or ""),
        ),
        _folds(details),
        Cell(text=run.added_at[:10], sort=run.added_at, sub=run.site),
    ]


def _latency(run: Run) -> Cell:
    hardware = run.details.get("hardware") or {}
    machine = str(hardware.get("gpu") or hardware.get("cpu") or "")
    disturbed = bool(run.details.get("timing_disturbed"))
    sub = ", ".join(filter(None, ["others disturbed the timing" if disturbed else "", machine]))
    cell = number_cell(run.latency_ms, format_value(run.latency_ms, 2), reason="not timed", sub=sub)
    return replace(cell, tone="warn") if disturbed and cell.reason is None else cell


def _pixels(size: Any) -> str:
    return f"{size} px" if size else ""


def _folds(details: dict[str, Any]) -> Cell:
    folds, seeds = len(details.get("folds") or []), len(details.get("seeds") or [])
    return Cell(text=f"{folds} × {seeds}", sort=float(folds * seeds))


def _against(entry: Ranked) -> Cell:
    row = entry.against_first
    if row is None:
        if entry.rank == 1:
            return Cell(text="the first", sort=0.0)
        return undefined_cell("no tests were asked for")
    if "reason" in row:
        return undefined_cell(row["reason"])
    word = ABOUT_THE_OTHER[row["verdict"]]
    if row["difference"] is None:
        return undefined_cell("the difference is undefined")
    return Cell(text=word, sort=-row["difference"], sub=difference_words(row, sign=-1.0), tone=TONES.get(word, "good"))


def difference_words(row: dict[str, Any], sign: float = 1.0) -> str:
    """A paired difference with its interval and p value; `sign` -1 turns it round."""
    ends = [row["low"], row["high"]]
    shown = [sign * end for end in (ends if sign > 0 else ends[::-1]) if end is not None]
    interval = f" ({_signed(shown[0])} to {_signed(shown[1])})" if len(shown) == 2 else ""
    p = "" if row.get("p_holm") is None else f", p {max(row['p_holm'], 0.0001):.2g}"
    return f"{_signed(sign * row['difference'])}{interval}{p}"


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return ("0.000" if not float(text) else text).replace("-", "−")


def _interval_words(record: Mapping[str, Any]) -> str:
    value, ends = format_value(record["value"]), (record["low"], record["high"])
    return value if None in ends else f"{value} ({format_value(ends[0])} to {format_value(ends[1])})"


def headline(group: Group) -> str:
    """The first of a group in one sentence."""
    first, label = group.ranked[0].run, metric_label(group.primary)
    if first.primary["value"] is None:
        return f"No run has a defined {label.long} ({first.primary['reason']})."
    others = [entry for entry in group.ranked[1:] if entry.against_first and "verdict" in entry.against_first]
    beaten = sum(
        ABOUT_THE_OTHER[entry.against_first["verdict"]].startswith("worse") for entry in others if entry.against_first
    )
    told = f" It is better than {beaten} of the {len(others)} others with statistical support." if others else ""
    tied = [entry.run.name for entry in group.ranked[1:] if entry.rank == 1]
    equal = f" Equal in value: {', '.join(tied)}." if tied else ""
    return f"First: {first.name}, {label.short} {_interval_words(first.primary)}.{equal}{told}"


def news(group: Group) -> str:
    """Whether the newest study is better than what was there before; empty where it can't be asked."""
    row = group.news
    if row is None:
        return ""
    question = f"Is the newest, {row['candidate']}, better than the best before it, {row['incumbent']}?"
    if "reason" in row:
        return f"{question} It can't be said: {row['reason']}."
    if row["difference"] is None:
        return f"{question} It can't be said: the difference is undefined."
    answer = {
        "better": "Yes",
        "better but trivial": "Yes, but by less than matters",
        "equivalent": "No, they are equivalent",
        "worse": "No, it is worse",
        "inconclusive": "It can't be told",
    }[row["verdict"]]
    notes = f" Note: {'; '.join(row['notes'])}." if row["notes"] else ""
    return f"{question} {answer}: {metric_label(group.primary).short} {difference_words(row)}.{notes}"


def run_document(groups: Sequence[Group], *, database: str) -> dict[str, Any]:
    """Return the groups as plain values."""
    return {
        "database": database,
        "groups": [
            {
                "dataset": group.dataset,
                "task": group.task,
                "primary": group.primary,
                "greater_is_better": group.greater_is_better,
                "data_hash": group.data_hash,
                "phantom": group.phantom,
                "notes": list(group.notes),
                "newest_against_before": group.news,
                "runs": [_run_document(entry) for entry in group.ranked],
            }
            for group in groups
        ],
    }


def _run_document(entry: Ranked) -> dict[str, Any]:
    run = entry.run
    names = ("id", "study", "model", "config_hash", "code", "added_at", "site", "metrics", "timings", "details")
    against = {"first_against_this": entry.against_first}
    return {"rank": entry.rank, **{name: getattr(run, name) for name in names}, "primary": run.primary, **against}


def run_markdown(groups: Sequence[Group], *, database: str) -> str:
    """Return the groups as Markdown."""
    parts = ["# Leaderboard of finished studies", f"From {markdown_text(database)}."]
    for group in groups:
        headings = ["Rank", "Model", "Study", metric_label(group.primary).short, "Against the first", "Added"]
        rows = [
            [
                "–" if entry.rank is None else str(entry.rank),
                entry.run.model,
                entry.run.study + (f" ({entry.run.site})" if entry.run.site else ""),
                _interval_words(entry.run.primary),
                " ".join(filter(None, [(cell := _against(entry)).text, cell.sub or cell.reason or ""])),
                entry.run.added_at[:10],
            ]
            for entry in group.ranked
        ]
        said = [headline(group), *filter(None, [news(group)]), *group.notes]
        parts += [f"## {markdown_text(group.dataset)}: {group.task}", *map(markdown_text, said)]
        parts.append(markdown_table(headings, rows))
    return "\n\n".join(parts if groups else [*parts, EMPTY]) + "\n"
