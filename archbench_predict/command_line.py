"""archbench-predict BUNDLE IMAGES... --out predictions.csv (or a folder of masks)"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from archbench_predict import __version__
from archbench_predict.bundle import Bundle, BundleError, open_bundle
from archbench_predict.hounsfield import Declared
from archbench_predict.images import ImageError
from archbench_predict.mask_command import check_mask_options, find_mask_images, predict_all_masks
from archbench_predict.mask_predictor import MaskPredictor
from archbench_predict.network import usable_cores
from archbench_predict.predictor import Inputs, Predictor
from archbench_predict.records import FORMATS, open_writer, to_records, write_answers
from archbench_predict.sources import SUFFIXES, Columns, Item, SourceError, find_images, mask_of
from archbench_predict.streaming import stream
from archbench_predict.volume_metadata import SUFFIXES as VOLUME_SUFFIXES
from archbench_predict.volume_metadata import MetadataError, read_declared, stem

REFUSED, SOME_FAILED = 1, 3
PROGRESS_SECONDS = 2.0
MOST_LANES = 16  # each keeps a batch's activations in memory


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    made = argparse.ArgumentParser(
        prog="archbench-predict",
        description="Predict images with a bundle of archbench.",
        epilog="Exit code: 0 all images predicted; 1 refused (bundle, sources); 2 wrong options; 3 some images could "
        "not be read: their rows say why, all others are predicted.",
        allow_abbrev=False,
    )
    made.add_argument("bundle", help="folder or zip written by `make bundle`")
    made.add_argument("images", nargs="*", help="folders, patterns ('scans/*.png'), CSV tables, image files")
    made.add_argument("--out", type=Path, help="file to write: .csv, .json or .jsonl; of masks a new folder")
    made.add_argument("--table", type=Path, help="sizes of masks: .csv, .json or .jsonl (default: masks.csv in --out)")
    made.add_argument("--masks", help="folder of masks named like the images, for bundles that were trained with masks")
    made.add_argument("--metadata", type=Path, help="table of slopes and spacings for volumes whose files lack them")
    made.add_argument("--challenge", action="store_true", help="write [{input_image_name, probabilities}] (labels)")
    made.add_argument("--top", type=_positive, default=0, help="also name the so many likeliest labels or classes")
    made.add_argument("--image-column", help="column of a table that names the image")
    made.add_argument("--case-column", help="column of a table that names the case")
    made.add_argument("--root", help="folder that a table's paths are relative to (default: the table's own)")
    made.add_argument("--batch-size", type=_positive, default=8, help="images per call of the network (8)")
    made.add_argument("--threads", type=_positive, help="threads of the network (default: all cores of this process)")
    made.add_argument("--workers", type=_positive, help="threads that decode (default: as many)")
    made.add_argument("--check", action="store_true", help="only check the bundle and its example image")
    made.add_argument("--quiet", action="store_true", help="no progress")
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return made


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Check the bundle, predict, and say how many images failed."""
    options = parser()
    arguments = options.parse_args(argv)
    if not arguments.check:
        if not arguments.images or arguments.out is None:
            options.error("name images and --out FILE (or --check)")
        if arguments.challenge and arguments.out.suffix != ".json":
            options.error("--challenge writes JSON: --out FILE.json")
        if arguments.challenge and arguments.top:
            options.error("--top has no effect with --challenge, whose files hold all labels")
    try:
        return _run(arguments, options)
    except (BundleError, SourceError, MetadataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"interrupted; what is there stands beside {arguments.out}, its table ends in .partial", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, options: argparse.ArgumentParser) -> int:
    threads = arguments.threads or usable_cores()
    with open_bundle(arguments.bundle) as bundle:
        if not arguments.check:
            _check_options(bundle, arguments, options)
        total = 0 if arguments.check else sum(1 for _ in _found(bundle, arguments))
        # a volume's batch is large: one at a time
        alone = bundle.unit == "volumes"
        lanes = 1 if alone else lanes_for(total, threads=threads, batch_size=arguments.batch_size)
        predictor = (MaskPredictor if bundle.draws_masks else Predictor)(bundle, threads=threads // lanes)
        difference = predictor.check_example()
        print(f"{bundle.name} ({bundle.identity[:12]}): intact, example within {difference:.0e}", file=sys.stderr)
        if arguments.check:
            return 0
        work = {"total": total, "workers": arguments.workers or threads, "lanes": lanes}
        report = (lambda done, failed: None) if arguments.quiet else _progress(total, bundle.unit)
        if isinstance(predictor, MaskPredictor):
            failed = predict_all_masks(predictor, arguments, report=report, **work)
        else:
            failed = _predict_all(predictor, arguments, report=report, **work)
    return SOME_FAILED if failed else 0


def _check_options(bundle: Bundle, arguments: argparse.Namespace, options: argparse.ArgumentParser) -> None:
    outputs = bundle.content["outputs"]
    if arguments.metadata is not None and not bundle.reads_volumes:
        raise SourceError("--metadata describes CT volumes; this bundle reads pictures")
    if bundle.draws_masks:
        check_mask_options(arguments)
        return
    if arguments.out.suffix not in FORMATS:
        options.error(f"--out: a name that ends in {', '.join(FORMATS)}, not {arguments.out.name!r}")
    if arguments.table is not None:
        raise SourceError(f"--table is for bundles of masks; this one gives {outputs}")
    if bundle.needs_masks and not arguments.masks:
        raise BundleError("the networks were trained with masks: give --masks FOLDER")
    if arguments.challenge and outputs != "labels":
        raise SourceError(f"--challenge is for bundles of several labels; this one gives {outputs}")
    if arguments.top and outputs not in ("labels", "classes"):
        raise SourceError(f"--top is for bundles of labels or classes; this one gives {outputs}")


def lanes_for(total: int, *, threads: int, batch_size: int) -> int:
    """Return how many batches are predicted at once.

    A thread per batch never waits for another one at the end of each operation; only where there are too few images
    for that do all threads share each batch.
    """
    lanes = min(threads, MOST_LANES)
    return lanes if total >= lanes * batch_size else 1


def _found(bundle: Bundle, arguments: argparse.Namespace) -> Iterable[Item]:
    if bundle.draws_masks:
        return find_mask_images(bundle, arguments)
    columns = Columns(arguments.image_column, arguments.case_column, arguments.root)
    return find_images(arguments.images, columns, VOLUME_SUFFIXES if bundle.reads_volumes else SUFFIXES)


def _predict_all(
    predictor: Predictor,
    arguments: argparse.Namespace,
    *,
    total: int,
    workers: int,
    lanes: int,
    report: Callable[[int, int], None],
) -> int:
    declared = read_declared(arguments.metadata) if arguments.metadata else {}
    content = predictor.bundle.content
    fitted = {"calibrated": content["calibration"]["method"] != "none", "tuned": content.get("cut_points") is not None}
    answers = stream(
        _found(predictor.bundle, arguments),
        prepare=partial(_prepare, predictor, arguments.masks, declared),
        predict=lambda batch: to_records(predictor.predict(batch), predictor.task, top=arguments.top),
        batch_size=arguments.batch_size,
        workers=workers,
        lanes=lanes,
    )
    kind = {"top": bool(arguments.top), "challenge": arguments.challenge}
    with open_writer(arguments.out, predictor.task, **fitted, **kind) as writer:
        failed = write_answers(_finite(answers), writer, report)
    print(f"{total - failed} of {total} {predictor.bundle.unit} predicted: {arguments.out}", file=sys.stderr)
    return failed


def _prepare(predictor: Predictor, masks: str | None, declared: Mapping[str, Declared], item: Item) -> Inputs:
    path = item.file()
    facts = declared.get(stem(path))
    return predictor.prepare(path, mask_of(item, masks) if masks else None, facts)


def _finite(answers: Iterable[tuple[Item, Any]]) -> Iterable[tuple[Item, Any]]:
    """The answers, a record that isn't finite turned into an error."""
    for item, answer in answers:
        if isinstance(answer, dict) and not _is_finite(answer):
            answer = ImageError("unreadable", "the network's answer is not a finite number")
        yield item, answer


def _is_finite(content: Any) -> bool:
    if isinstance(content, dict):
        return all(_is_finite(value) for value in content.values())
    return not isinstance(content, float) or abs(content) < float("inf")


def _progress(total: int, unit: str) -> Callable[[int, int], None]:
    begin = last = time.monotonic()

    def report(done: int, failed: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < PROGRESS_SECONDS:
            return
        last = now
        rate = done / max(now - begin, 1e-9)
        bad = f", {failed} failed" if failed else ""
        left = f"{(total - done) / rate:.0f} s remaining"
        print(f"{unit} {done}/{total}{bad}, {rate:.1f} {unit}/s, {left}", file=sys.stderr)

    return report
