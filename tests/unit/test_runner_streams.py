"""Many images in the memory of a few: sources, read-ahead, order, bad images, files to write."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runner_bundles import export, make_bundle, peak_mib, trained_network

from archbench_predict.command_line import lanes_for, main
from archbench_predict.images import ImageError
from archbench_predict.outputs import Task
from archbench_predict.predictor import Answers
from archbench_predict.records import open_writer, to_records
from archbench_predict.sources import Columns, Item, SourceError, find_images
from archbench_predict.streaming import stream


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    export(trained_network(), folder / "model.onnx")
    return make_bundle(folder / "bundle", folder / "model.onnx")


def write_images(folder: Path, names: list[str]) -> None:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)


def found(*sources: Any, **columns: str) -> list[tuple[str, str]]:
    return [
        (item.case_id, os.path.basename(item.path)) for item in find_images(list(map(str, sources)), Columns(**columns))
    ]


# Sources


def test_folders_patterns_tables_and_files(tmp_path: Path) -> None:
    write_images(tmp_path, ["b.png", "a/2.jpg", "a/10.tif", "a/deep/x.PNG", ".hidden.png"])
    (tmp_path / "a/notes.txt").write_text("no image")
    whole = [("a/10", "10.tif"), ("a/2", "2.jpg"), ("a/deep/x", "x.PNG"), ("b", "b.png")]
    assert found(tmp_path) == whole
    assert found(tmp_path / "a" / "*") == [("10", "10.tif"), ("2", "2.jpg")]
    assert found(tmp_path / "**" / "*.[pjtP]*") == [
        ("a/10", "10.tif"),
        ("a/2", "2.jpg"),
        ("a/deep/x", "x.PNG"),
        ("b", "b.png"),
    ]
    assert found(tmp_path / "b.png", tmp_path / "a/deep") == [("b", "b.png"), ("x", "x.PNG")]
    (tmp_path / "list.csv").write_text("\ufeffid_code,image\nP7,a/2.jpg\n,b.png\nP8,\n", encoding="utf-8")
    assert found(tmp_path / "list.csv") == [("P7", "2.jpg"), ("b", "b.png"), ("P8", "")]
    (tmp_path / "list.tsv").write_text("who\twhere\n7\t2.jpg\n")
    columns = {"image": "where", "case": "who", "root": str(tmp_path / "a")}
    assert [item.path for item in find_images([str(tmp_path / "list.tsv")], Columns(**columns))] == [
        str(tmp_path / "a/2.jpg")
    ]


def test_sources_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    for source, columns, match in (
        (tmp_path / "nowhere", {}, "no such file or folder"),
        (tmp_path / "empty", {}, "no image found"),
        (tmp_path / "*.png", {}, "no image found"),
        (tmp_path / "t.csv", {}, "--image-column"),
        (tmp_path / "t.csv", {"image": "c"}, "no column 'c'.*it has a, b"),
        (tmp_path / "t.csv", {"image": "a", "case": "z"}, "no column 'z'"),
    ):
        with pytest.raises(SourceError, match=match):
            found(source, **columns)


# Streaming


def test_order_is_kept_and_no_more_is_read_ahead_than_promised() -> None:
    read, answered, lock = [0], [0], threading.Lock()
    most = 0

    def items() -> Any:
        nonlocal most
        for k in range(200):
            with lock:
                read[0] += 1
                most = max(most, read[0] - answered[0])
            yield k

    def prepare(k: int) -> int:
        time.sleep(0.003 * (k % 3 == 0))  # later ones are done first
        return k * 10

    given = []
    for item, answer in stream(items(), prepare=prepare, predict=lambda b: [v + 1 for v in b], batch_size=4, workers=3):
        given.append((item, answer))
        with lock:
            answered[0] += 1
    assert given == [(k, 10 * k + 1) for k in range(200)]
    assert most <= 2 * 4 + 4, "the batch that is predicted, the next one, and the one that was handed on"


def test_images_are_prepared_while_a_batch_is_predicted() -> None:
    begun = threading.Event()

    def prepare(k: int) -> int:
        if k >= 2:
            begun.set()
        return k

    def predict(batch: list[int]) -> list[bool]:
        return [begun.wait(5)] * len(batch)

    answers = [answer for _, answer in stream(range(8), prepare=prepare, predict=predict, batch_size=2, workers=1)]
    assert answers == [True] * 8


def test_lanes_predict_side_by_side_and_order_is_kept() -> None:
    both, seen = threading.Barrier(2, timeout=10), []

    def predict(batch: list[int]) -> list[int]:
        both.wait()  # breaks if another batch is never predicted at the same time
        seen.append(threading.current_thread().name)
        return [k + 1 for k in batch]

    answers = list(stream(range(24), prepare=lambda k: k, predict=predict, batch_size=3, workers=2, lanes=2))
    assert answers == [(k, k + 1) for k in range(24)]
    assert len(set(seen)) == 2


def test_few_images_share_all_threads_and_many_get_one_each() -> None:
    assert lanes_for(1, threads=2, batch_size=8) == 1
    assert lanes_for(15, threads=2, batch_size=8) == 1
    assert lanes_for(16, threads=2, batch_size=8) == 2
    assert lanes_for(10_000, threads=64, batch_size=8) == 16
    assert lanes_for(0, threads=1, batch_size=8) == 1


def test_bad_items_keep_their_place_and_the_rest_goes_on() -> None:
    def prepare(k: int) -> int:
        if k % 5 == 0:
            raise ImageError("truncated", f"{k} is cut off")
        if k % 7 == 0:
            raise MemoryError("of a decoder")
        return k

    sizes = []

    def predict(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        return batch

    answers = dict(stream(range(30), prepare=prepare, predict=predict, batch_size=4, workers=2))
    assert list(answers) == list(range(30))
    assert str(answers[10]) == "10 is cut off"
    assert str(answers[7]) == "MemoryError: of a decoder"
    assert [answers[k] for k in (1, 29)] == [1, 29]
    assert 0 not in sizes
    assert all(
        isinstance(a, ImageError) for _, a in stream([0, 5], prepare=prepare, predict=predict, batch_size=1, workers=1)
    )


def test_an_error_of_the_network_is_not_hidden() -> None:
    def predict(batch: list[int]) -> list[int]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream(range(100), prepare=lambda k: k, predict=predict, batch_size=2, workers=2))


# The command


def test_a_bad_image_is_reported_and_the_rest_go_on(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", [f"{k:02d}.png" for k in range(12)])
    (tmp_path / "in/05.png").write_bytes((tmp_path / "in/05.png").read_bytes()[:900])
    (tmp_path / "in/07.png").write_bytes(b"")
    out = tmp_path / "sub/out.csv"
    assert main([str(bundle), str(tmp_path / "in"), "--out", str(out), "--batch-size", "5"]) == 3
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case_id"] for row in rows] == [f"{k:02d}" for k in range(12)]
    bad = [row for row in rows if row["error"]]
    assert [row["case_id"] for row in bad] == ["05", "07"]
    assert "damaged" in bad[0]["error"] and "empty" in bad[1]["error"]
    assert all(row["label"] == "" and row["probability_mild"] == "" for row in bad)
    for row in rows:
        if not row["error"]:
            for kind in ("probability", "calibrated"):
                assert sum(float(row[f"{kind}_{name}"]) for name in ("none", "mild", "severe")) == pytest.approx(1)
    errors = capsys.readouterr().err
    assert "10 of 12 images predicted" in errors and "05.png: damaged" in errors and "images 12/12, 2 failed" in errors
    assert not list(tmp_path.rglob("*.partial"))


def test_the_three_formats_say_the_same_and_batches_change_nothing(bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", [f"{k}.png" for k in range(5)])
    (tmp_path / "list.csv").write_text("case,image\nA,in/0.png\nB,in/gone.png\nC,in/3.png\n")
    said = {}
    for name, batch in (("a.csv", "1"), ("b.json", "2"), ("c.jsonl", "8")):
        out = tmp_path / name
        code = main([str(bundle), str(tmp_path / "list.csv"), "--out", str(out), "--batch-size", batch, "--quiet"])
        assert code == 3
        text = out.read_text()
        if name == "a.csv":
            rows = list(csv.DictReader(text.splitlines()))
            said[name] = [(r["case_id"], r["label"], r["calibrated_severe"], bool(r["error"])) for r in rows]
        else:
            records = json.loads(text) if name == "b.json" else [json.loads(line) for line in text.splitlines()]
            said[name] = [
                (r["case_id"], r.get("label", ""), str(r.get("calibrated", {}).get("severe", "")), "error" in r)
                for r in records
            ]
    for other in ("b.json", "c.jsonl"):
        for one, two in zip(said["a.csv"], said[other], strict=True):
            assert one[:2] + one[3:] == two[:2] + two[3:]
            assert float(one[2] or 0) == pytest.approx(float(two[2] or 0), abs=1e-6)
    assert [row[0] for row in said["a.csv"]] == ["A", "B", "C"] and said["a.csv"][1][3]


def test_wrong_calls_are_refused_before_anything_is_read(bundle: Path, tmp_path: Path) -> None:
    for arguments in (
        ["--out", "x.csv"],
        ["images"],
        ["images", "--out", "x.xlsx"],
        ["i", "--out", "x.csv", "--workers", "0"],
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(bundle), *arguments])
        assert caught.value.code == 2
    assert main([str(bundle), str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.csv")]) == 1
    assert not (tmp_path / "x.csv").exists()


def test_memory_does_not_grow_with_the_number_of_images(bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "few", [f"{k}.png" for k in range(4)])
    peak = {}
    for n in (300, 3000):
        folder = tmp_path / f"many{n}"
        folder.mkdir()
        for k in range(n):
            (folder / f"{k:05d}.png").symlink_to(tmp_path / "few" / f"{k % 4}.png")
        peak[n] = peak_mib(bundle, folder, "--out", tmp_path / "out.csv")
    assert peak[3000] - peak[300] < 8, f"{peak} MiB"


# Records of every task


def answers(task: Task, logits: np.ndarray, called: np.ndarray, *, calibrated: bool = True) -> Answers:
    said = task.probabilities(logits)
    return Answers(logits, said, said if calibrated else None, called)


ITEM = Item("c", "c.png")
TASKS = {
    "classes": (Task("classes", ("a", "b"), ("grade",), "argmax"), 2, np.array([1])),
    "labels": (Task("labels", (), ("x", "y"), "argmax"), 2, np.array([[True, False]])),
    "zones": (Task("zones", ("no", "yes", "Ungradable"), ("left", "right"), "argmax"), 6, np.array([[1, 0]])),
    "value": (Task("value", (), ("score",), "argmax"), 1, np.array([[2.5]])),
}


@pytest.mark.parametrize("outputs", TASKS)
def test_every_task_fits_its_columns(outputs: str, tmp_path: Path) -> None:
    task, width, called = TASKS[outputs]
    logits = np.linspace(-1, 2, width)[None]
    record = to_records(answers(task, logits, called, calibrated=outputs != "value"), task)[0]
    with open_writer(tmp_path / "x.csv", task, calibrated=outputs != "value") as writer:
        writer.write(ITEM, record, None)
        writer.write(ITEM, None, "broken")
    with (tmp_path / "x.csv").open() as file:
        good, bad = list(csv.DictReader(file))
    assert bad["error"] == "broken" and not any(v for k, v in bad.items() if k not in ("case_id", "image", "error"))
    said = {key: value for key, value in good.items() if key not in ("case_id", "image", "error")}
    assert all(said.values()), "no column stays empty"
    expected = {
        "classes": {"label": "b"},
        "labels": {"label": "x"},
        "zones": {"label_left": "yes", "label_right": "no"},
        "value": {"value": "2.5"},
    }[outputs]
    assert expected.items() <= said.items()
    if outputs == "zones":
        assert float(said["probability_left_no"]) + float(said["probability_left_yes"]) == pytest.approx(1)
        assert not any("Ungradable" in name for name in said)
