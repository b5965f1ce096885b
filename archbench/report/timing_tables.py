"""Tables of the timing: batches, what the runtime bought, where time goes, start and memory, work, rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell, undefined_cell
from archbench.report.collect import DatasetResult
from archbench.report.labels import format_duration, format_ms, format_rate, format_si, format_value, spelled
from archbench.report.quality_tables import caption
from archbench.report.timing import batch_sizes_of, peak_memory_mib, row_of, runtime_name, runtimes_of

UNCOUNTED_SHOWN = 8


def batch_table(dataset: DatasetResult) -> Table | None:
    """Latency and throughput of every contender at every batch size."""
    sizes = batch_sizes_of(dataset)
    if not sizes:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Runtime", numeric=False),
        *(
            Column(f"Batch {size}, ms", f"median per call on prepared input; {dataset.unit}s per second below")
            for size in sizes
        ),
        Column("p95, ms", f"at batch {sizes[0]}; its interval below"),
        Column("p99, ms", f"at batch {sizes[0]}; its interval below"),
    ]
    rows = []
    for model in dict.fromkeys(row["model"] for row in (dataset.timing or {})["results"]):
        for runtime in runtimes_of(dataset):
            of = {size: dataset.latency(model, runtime, size) for size in sizes}
            if any(of.values()):
                cells = [_batch_cell(of[size]) for size in sizes]
                needed = (dataset.timing or {}).get("quantile_calls") or {}
                tails = [_tail_cell(of[sizes[0]], name, needed.get(name)) for name in ("p95", "p99")]
                rows.append([Cell(model, model.lower()), Cell(runtime_name(runtime), runtime), *cells, *tails])
    text = "latency per call and throughput, all contenders in the same interleaved rounds."
    return Table(f"timing-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _batch_cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return undefined_cell("not timed at this batch size")
    rate = f"{format_rate(row['throughput_img_per_s'])}\u00a0/\u00a0s"
    return Cell(format_ms(row["median_ms"]), row["median_ms"], sub=rate)


def _tail_cell(row: Mapping[str, Any] | None, name: str, needed: int | None) -> Cell:
    """A high percentile with its interval; n/a below the calls that it needs."""
    value = (row or {}).get(f"{name}_ms")
    if row is None or value is None:
        return undefined_cell(f"{name} and its interval need {needed or 'more'} calls: raise inference.calls or rounds")
    low, high = row.get(f"{name}_low_ms"), row.get(f"{name}_high_ms")
    sub = "" if low is None else f"{format_ms(low)} to {format_ms(high)}"
    return Cell(format_ms(value), value, sub=sub)


_TONES = {"slower": "bad", "faster": "good", "indistinguishable": "even"}


def runtime_table(dataset: DatasetResult) -> Table | None:
    """What the choice of runtime bought: every other runtime against the headline's, paired by round."""
    timing = dataset.timing or {}
    columns = [
        Column("Model", numeric=False),
        Column("Runtime", numeric=False),
        Column("Batch"),
        Column(
            f"Time / {runtime_name(dataset.headline_runtime)}",
            "median of the ratios within the rounds, with its bootstrap interval over rounds; above 1 it takes longer",
        ),
        Column("Noise floor", "factor by which two processes of the same contender seemed to differ"),
        Column("Verdict", "slower or faster only where the whole interval lies outside the noise floor", numeric=False),
    ]
    rows = [_ratio_row(row, disturbed=dataset.timing_disturbed) for row in timing.get("speedups") or []]
    rows += [_failed_row(row, dataset.primary) for row in timing.get("contenders") or [] if row["status"] != "timed"]
    text = "what the choice of runtime bought. What could not be timed is struck through and never ranked."
    return Table(f"runtimes-{dataset.name}", caption(dataset, text), columns, rows, sortable=True) if rows else None


def _ratio_row(row: Mapping[str, Any], *, disturbed: bool) -> list[Cell]:
    floor, verdict = row.get("floor"), str(row.get("verdict") or "")
    tone, doubt = ("open", "disturbed") if disturbed else (_TONES.get(verdict, "open"), "")
    return [
        Cell(str(row["model"]), str(row["model"]).lower()),
        Cell(runtime_name(str(row.get("runtime", "torch"))), str(row.get("runtime", "torch"))),
        Cell(str(row["batch_size"]), row["batch_size"]),
        record_cell({**row, "value": row["ratio"], "reason": "no paired round"}, draw=True, digits=2),
        number_cell(floor, f"× {floor or 0:.2f}", reason="no contender was timed twice"),
        Cell(verdict, verdict, sub=doubt, tone=tone) if verdict else undefined_cell("no noise floor was measured"),
    ]


def _failed_row(row: Mapping[str, Any], metric: str) -> list[Cell]:
    name = f"{runtime_name(str(row['runtime']))}{' (its double)' if row.get('twin') else ''}"
    said = spelled(str(row.get("reason") or "no reason was recorded"), metric)  # the gate names it by its key
    reason = f"{row['model']}, {name}: {row['status']}, {said}"
    return [
        Cell(str(row["model"]), str(row["model"]).lower(), tone="struck"),
        Cell(name, str(row["runtime"]), tone="struck"),
        *(undefined_cell(reason) for _ in range(3)),
        Cell(str(row["status"]), str(row["status"]), tone="bad"),
    ]


def stages_table(dataset: DatasetResult) -> Table | None:
    """Where the time of an image goes, from the file on the disk to its logits."""
    rows = (dataset.timing or {}).get("stages") or []
    if not rows:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Runtime", numeric=False),
        Column("Decode, ms", "read and decode the file; share of the whole below"),
        Column("Preprocess, ms", "crop, resize and what else the study does; share of the whole below"),
        Column("Model, ms", "normalise, run, fetch the logits; share of the whole below"),
        Column("File to answer, ms", "median of the whole; 95th percentile below"),
        Column("Pixels to answer, ms", "median from decoded pixels in memory to logits in memory"),
    ]
    body = [_stages_row(dataset, row) for row in rows]
    text = f"where the time of one {dataset.unit} goes. Medians of each step, so that they need not add up exactly."
    return Table(f"stages-{dataset.name}", caption(dataset, text), columns, body, sortable=True)


def _stages_row(dataset: DatasetResult, row: Mapping[str, Any]) -> list[Cell]:
    model, runtime = str(row["model"]), str(row["runtime"])
    whole, pixels = row_of(dataset, "end_to_end", model, runtime), row_of(dataset, "host_to_host", model, runtime)
    p95 = (whole or {}).get("p95_ms")
    steps = [
        Cell(format_ms(row[key]), row[key], sub=f"{100 * row[key] / row['total_ms']:.0f}\u00a0%")
        for key in ("decode_ms", "preprocess_ms", "model_ms")
    ]
    median = (pixels or {}).get("median_ms")
    return [
        Cell(model, model.lower()),
        Cell(runtime_name(runtime), runtime),
        *steps,
        Cell(format_ms(row["total_ms"]), row["total_ms"], sub="" if p95 is None else f"p95 {format_ms(p95)}"),
        number_cell(median, format_ms(median), reason="not timed"),
    ]


def start_table(dataset: DatasetResult) -> Table | None:
    """Cold start, peak memory and file size of every contender, each in a fresh process."""
    accounts = [row for row in (dataset.timing or {}).get("contenders") or [] if row["status"] == "timed"]
    sizes = batch_sizes_of(dataset)
    if not accounts or not sizes:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Runtime", numeric=False),
        Column("Cold start", "from nothing to the first logits in a fresh process; files come from the system's cache"),
        Column("of it loading", "reading and optimising the model, imports of the runtime included"),
        Column("Peak memory, MiB", f"of the process at batch {sizes[0]}; at batch {sizes[-1]} below"),
        Column("GPU memory, MiB", "that the process added"),
        Column("File, MiB"),
        Column(f"Energy, J / {dataset.unit}", f"at batch {sizes[-1]}"),
        Column("Runs on", "what the session says it really uses, and with how many threads", numeric=False),
    ]
    rows = [_start_row(dataset, row, sizes) for row in accounts if not row.get("twin")]
    text = "cold start, memory and size, each contender in a process of its own."
    return Table(f"starts-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _start_row(dataset: DatasetResult, row: Mapping[str, Any], sizes: list[int]) -> list[Cell]:
    starts = row.get("starts_ms") or []
    start = sorted(starts)[len(starts) // 2] if starts else None
    small, large = peak_memory_mib(row), peak_memory_mib(row, sizes[-1])
    gpu, size = row.get("gpu_memory_mib"), row.get("bytes")
    result = dataset.latency(row["model"], row["runtime"], sizes[-1]) or {}
    joules = result.get("energy_j_per_image")
    source = ((dataset.timing or {}).get("energy") or {}).get(row["device"], {})
    load = row.get("load_ms")
    return [
        Cell(str(row["model"]), str(row["model"]).lower()),
        Cell(runtime_name(str(row["runtime"])), str(row["runtime"])),
        number_cell(
            start, _seconds(start), reason="not timed", sub="one start" if len(starts) == 1 else f"of {len(starts)}"
        ),
        number_cell(load, _seconds(load), reason="not timed"),
        number_cell(
            small, format_value(small, 0), reason="the system doesn't tell", sub="" if large is None else f"{large:.0f}"
        ),
        number_cell(
            gpu, f"{gpu or 0:.0f}", reason="runs on the CPU" if row["device"] == "cpu" else "NVML doesn't tell"
        ),
        number_cell(size, f"{(size or 0) / 2**20:.1f}", reason="no file"),
        number_cell(joules, f"{joules or 0:.3f}", reason=f"unavailable: {source.get('reason') or 'not counted'}"),
        Cell(f"{row.get('provider')}, {row.get('threads')} threads"),
    ]


def _seconds(ms: float | None) -> str:
    return (
        ""
        if ms is None
        else f"{ms:.0f}\u00a0ms"
        if ms < 1000
        else (f"{ms / 1000:.1f}\u00a0s" if ms < 90_000 else format_duration(ms / 1000))
    )


def work_table(dataset: DatasetResult) -> Table | None:
    """Parameters and multiply-accumulates of each model, and what the counter leaves out."""
    models = (dataset.timing or {}).get("models") or {}
    if not models:
        return None
    counted_by = next(iter(models.values())).get("counted_by") or "unknown"
    columns = [
        Column("Model", numeric=False),
        Column("Input, px"),
        Column("Parameters"),
        Column("GMACs", f"of one {dataset.unit}, by {counted_by}"),
        Column("Not counted", "operations that the counter has no formula for", numeric=False),
    ]
    rows = [
        [
            Cell(name, name.lower()),
            number_cell(facts.get("image_size"), str(facts.get("image_size")), reason="not recorded"),
            number_cell(facts.get("parameters"), format_si(facts.get("parameters")), reason="not counted"),
            number_cell(facts.get("gmacs"), format_value(facts.get("gmacs")), reason="not counted"),
            Cell(_listed(facts.get("uncounted") or [])),
        ]
        for name, facts in models.items()
    ]
    return Table(f"work-{dataset.name}", caption(dataset, f"work of one {dataset.unit}."), columns, rows, sortable=True)


def _listed(names: list[str]) -> str:
    plain = [name.strip("_").removeprefix("native_") for name in names]
    more = len(plain) - UNCOUNTED_SHOWN
    return ", ".join(plain[:UNCOUNTED_SHOWN]) + (f" and {more} more" if more > 0 else "") or "nothing"


def rounds_table(dataset: DatasetResult) -> Table | None:
    """What else went on in each round."""
    rounds = ((dataset.timing or {}).get("isolation") or {}).get("rounds") or []
    if not rounds:
        return None
    columns = [
        Column("Round"),
        Column("Counts", numeric=False),
        Column("Seconds"),
        Column("Others' share", "of the usable processors"),
        Column("Waiting", "share of the time in which some task waited for a processor (/proc/pressure/cpu)"),
        Column("Throttled", "times, by heat or by the container's quota"),
        Column("Pushed off / s", "involuntary switches of the contenders' threads; they push each other off, too"),
        Column("Disturbed by", numeric=False),
    ]
    return Table(
        f"rounds-{dataset.name}",
        caption(dataset, "what else the machine did in each round of the timing."),
        columns,
        [_round_row(row) for row in rounds],
    )


def _round_row(row: Mapping[str, Any]) -> list[Cell]:
    unknown = "the system doesn't tell"
    pressure, pushed, throttled = (row.get(k) for k in ("pressure_share", "involuntary_per_s", "throttled"))
    return [
        Cell(str(row["round"] + 1), row["round"]),
        Cell("yes" if row["kept"] else "no"),
        Cell(f"{row['seconds']:.1f}", row["seconds"]),
        Cell(f"{100 * row['foreign_share']:.0f}\u00a0%", row["foreign_share"]),
        number_cell(pressure, f"{100 * (pressure or 0):.0f}\u00a0%", reason=unknown),
        number_cell(throttled, str(throttled), reason=unknown),
        number_cell(pushed, f"{pushed or 0:.0f}", reason=unknown),
        Cell("; ".join(row["reasons"]) or "nothing", tone="warn" if row["reasons"] else ""),
    ]
