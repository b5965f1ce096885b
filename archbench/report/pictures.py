"""Photographs and heat maps: bounded raster pictures for the page and the CAM sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archbench.artifacts import atomic_path
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import Picture

MAX_SIDE = 224
MAX_SHEET_SIDE = 680
MAX_CASES = 4
MAX_CASES_IN_TOTAL = 48
# Pictures come from our own stage, yet a damaged header must not make the report allocate gigabytes.
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class CamCase:
    """One explained case: pictures, grades, and whether the grade is right; of a volume a sheet of all its slices."""

    case_id: str
    true: str
    predicted: str
    probability: float | None
    right: bool
    in_lesion: bool | None
    original: Path
    heatmap: Path
    overlay: Path
    label: str = ""
    outcome: str = ""
    sheet: Path | None = None
    about_slice: str = ""

    @property
    def about(self) -> str:
        """The label or zone that is explained, before its truth: `Edema (FP): `."""
        outcome = f" ({self.outcome})" if self.outcome else ""
        return f"{self.label}{outcome}: " if self.label else ""


def cam_cases(dataset: DatasetResult, model: ModelResult) -> list[CamCase]:
    """The explained cases of a model whose pictures exist, in the order of the artifact."""
    classes = list((model.metrics or {}).get("classes") or dataset.entry.get("classes") or [])
    folder = model.folder / "gradcam"
    cases = []
    for row in (model.gradcam or {}).get("cases", []):
        true, predicted = _class_name(row.get("true"), classes), _class_name(row.get("predicted"), classes)
        case = CamCase(
            case_id=str(row["case_id"]),
            true=true,
            predicted=predicted,
            probability=row.get("probability"),
            right=true == predicted,
            in_lesion=row.get("cam_max_in_lesion"),
            original=folder / Path(row["original"]).name,
            heatmap=folder / Path(row["heatmap"]).name,
            overlay=folder / Path(row["overlay"]).name,
            label=str(row.get("label") or ""),
            outcome=str(row.get("outcome") or ""),
            sheet=folder / Path(row["sheet"]).name if row.get("sheet") else None,
            about_slice=_about_slice(row),
        )
        if case.original.exists() and case.overlay.exists():
            cases.append(case)
    return cases


def _about_slice(row: Mapping[str, Any]) -> str:
    """Which slice of a volume the two pictures show, and what the sheet below them does."""
    if not row.get("slice"):
        return ""
    bars = "; each bar is the slice's weight in the pooling" if row.get("slice_weights") else ""
    return f"slice {row['slice']} of {row['n_slices']}, then all of them{bars}"


def _class_name(value: Any, classes: Sequence[str]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
        return classes[value]
    return "unknown" if value is None else str(value)


def cases_per_side(n_models: int) -> int:
    """How many right and how many wrong cases a model shows, so that many models stay bounded."""
    return max(1, min(MAX_CASES, MAX_CASES_IN_TOTAL // max(1, 2 * n_models)))


def embed(path: Path, alt: str, *, max_side: int = MAX_SIDE) -> Picture:
    """A picture file as a JPEG of bounded size inside a data URI."""
    picture = _open(path, max_side)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/jpeg;base64,{encoded}", alt, "", *picture.size)


def _open(path: Path, max_side: int) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{path} claims {picture.width} x {picture.height} pixels: refused")
        bounded = picture.convert("RGB")
    bounded.thumbnail((max_side, max_side))
    return bounded


def write_cam_sheet(datasets: Sequence[DatasetResult], path: Path) -> None:
    """Write one PNG: per model right cases on the left, wrong ones on the right."""
    blocks = []
    for dataset in datasets:
        explained = [model for model in dataset.evaluated if model.gradcam]
        for model in explained:
            cases = cam_cases(dataset, model)
            n = cases_per_side(len(explained))
            phantom = " (phantom data)" if dataset.phantom else ""
            blocks.append((f"{dataset.name}: {model.name}{phantom}", _sides(cases, n)))
    _paint_sheet(blocks, path)


def _sides(cases: Sequence[CamCase], n: int) -> Mapping[str, list[CamCase]]:
    return {"right": [c for c in cases if c.right][:n], "wrong": [c for c in cases if not c.right][:n]}


_TILE, _GAP, _HEAD, _CAPTION = 150, 6, 34, 22


def _paint_sheet(blocks: Sequence[tuple[str, Mapping[str, list[CamCase]]]], path: Path) -> None:
    from PIL import Image, ImageDraw

    side_width = 3 * _TILE + 2 * _GAP
    heights = [_block_height(sides) for _, sides in blocks]
    size = (2 * side_width + 5 * _GAP, max(120, sum(heights) + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    if not blocks:
        draw.text((_GAP, 40), "No CAM was made: see the report page.", fill="black", font=_font(14))
    top = _GAP
    for (title, sides), height in zip(blocks, heights, strict=True):
        draw.text((2 * _GAP, top + 6), title, fill="black", font=_font(15))
        for k, (word, cases) in enumerate(sides.items()):
            left = 2 * _GAP + k * (side_width + _GAP)
            _paint_side(sheet, draw, word, cases, left, top + _HEAD)
        top += height
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _block_height(sides: Mapping[str, list[CamCase]]) -> int:
    rows = max([1, *(len(cases) for cases in sides.values())])
    return _HEAD + 20 + rows * (_TILE + _CAPTION + _GAP)


def _paint_side(sheet: Any, draw: Any, word: str, cases: Sequence[CamCase], left: int, top: int) -> None:
    note = f"{word}: original, heat map, overlay" if cases else f"{word}: no such case among those drawn"
    draw.text((left, top), note, fill="#555555", font=_font(12))
    top += 20
    for case in cases:
        for k, source in enumerate((case.original, case.heatmap, case.overlay)):
            if source.exists():
                sheet.paste(_open(source, _TILE), (left + k * (_TILE + _GAP), top))
        text = f"{case.about}true {case.true} · predicted {case.predicted}"
        draw.text((left, top + _TILE + 3), _shorten(text, 70), fill="black", font=_font(12))
        top += _TILE + _CAPTION + _GAP


def _shorten(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _font(size: int) -> Any:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
