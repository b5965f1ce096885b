"""scripts/masks.py: existing masks of any tool against the truth; every fault of a file is named before any number."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[2]
FEW = ("--resamples", "200", "--comparison-resamples", "200", "--workers", "1")
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


def run(*words, code=0):
    from scripts.masks import main

    assert main([*map(str, words)]) == code


def refused(*words):
    with pytest.raises(ValueError, match=r".") as caught:
        run(*words)
    return str(caught.value)


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8), affine), path)


def blob(left, *, node=True):
    """A block of label 1, and a small one of label 2 unless there is none."""
    values = np.zeros((24, 16, 6), np.uint8)
    values[left : left + 8, 4:12, 1:5] = 1
    if node:
        values[18:22, 6:9, 2:4] = 2
    return values


@pytest.fixture
def folders(tmp_path):
    """Twelve cases of six patients; `near` is one voxel off, `far` three, and misses every other node."""
    for i in range(12):
        has_node = i % 4 != 0
        save(tmp_path / "truth" / f"case_{i}.nii.gz", blob(2, node=has_node))
        save(tmp_path / "near" / f"case_{i}.nii.gz", blob(3, node=has_node))
        save(tmp_path / "far" / f"case_{i}.nii.gz", blob(5, node=i % 2 == 0))
    lines = ["case,patient", *(f"case_{i},p{i // 2}" for i in range(12))]
    (tmp_path / "patients.csv").write_text("\n".join(lines))
    return tmp_path


def words_of(folder, *more):
    pairs = ("--masks", f"near={folder / 'near'}", "--masks", f"far={folder / 'far'}")
    return ("--seg-dir", folder / "truth", *pairs, "--output-dir", folder / "out", *FEW, *more)


def summary_of(folder):
    return json.loads((folder / "out" / "summary.json").read_text())


def rows_of(folder, name="per_case.csv"):
    with open(folder / "out" / name, newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_tests_detection_and_pictures(folders, capsys):
    run(*words_of(folders, "--patients", folders / "patients.csv", "--labels", "1=lung", "2=node"))
    summary = summary_of(folders)
    assert (summary["n_cases"], summary["n_patients"]) == (12, 6)
    assert summary["order"] == ["near", "far"]  # by Dice; success and speed rank nothing
    lung = summary["models"]["near"]["structures"]["lung"]["dice"]
    assert lung["value"] == pytest.approx(7 / 8) and lung["n_patients"] == 6
    assert summary["models"]["far"]["structures"]["lung"]["dice"]["value"] == pytest.approx(5 / 8)
    pair = summary["comparison"]["dice"]["pairs"][0]
    assert (pair["a"], pair["verdict"]) == ("near", "better")
    assert pair["low"] > 0 and pair["p_holm"] < 0.05
    node = summary["models"]["far"]["detection"]["node"]
    # truth without node: 0, 4, 8; far draws it in every even case
    counts = [node[key] for key in ("true_positive", "false_negative", "false_positive", "true_negative")]
    assert counts == [3, 6, 3, 0]
    assert node["mean_false_positive_size"] == pytest.approx(4 * 3 * 2 * 0.8 * 0.8 * 2.0)
    rows = [row for row in rows_of(folders) if row["model"] == "far" and row["label"] == "node"]
    missed = next(row for row in rows if row["case"] == "case_1")
    assert float(missed["dice"]) == 0
    assert float(missed["hd95_mm"]) == pytest.approx(np.linalg.norm([24 * 0.8, 16 * 0.8, 6 * 2.0]), rel=1e-5)
    false = next(row for row in rows if row["case"] == "case_0")
    assert false["dice"] == "" and "false positive" in false["undefined"]
    page = (folders / "out" / "report.html").read_text()
    assert page.count("data:image/png") == 2 * 3 and 'src="http' not in page
    assert "near: mean Dice" in page and "better" in capsys.readouterr().out


def test_the_mean_is_over_patients_not_cases(folders):
    lines = ["case,patient", "case_0,a", *(f"case_{i},b" for i in range(1, 12))]
    (folders / "patients.csv").write_text("\n".join(lines))
    run(*words_of(folders, "--patients", folders / "patients.csv", "--foreground", "2"))
    rows = {row["case"]: row["dice"] for row in rows_of(folders) if row["model"] == "far"}
    defined = [float(rows[f"case_{i}"]) for i in range(1, 12) if rows[f"case_{i}"]]
    found = summary_of(folders)["models"]["far"]["structures"]["2"]["dice"]
    assert rows["case_0"] == "" and found["n_patients"] == 1 and found["n_cases"] == 9
    assert found["value"] == pytest.approx(np.mean(defined))


def test_several_processes_give_the_same_files(folders):
    run(*words_of(folders))
    alone = (folders / "out" / "per_case.csv").read_text()
    command = [sys.executable, CHECKOUT / "scripts" / "masks.py", *words_of(folders), "--workers", "2"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (folders / "out" / "per_case.csv").read_text() == alone
    assert "12/12 cases scored" in done.stderr and "Warning" not in done.stderr


def test_every_problem_is_named_before_anything_is_computed(folders):
    (folders / "near" / "case_1.nii.gz").unlink()  # and no other case takes its place: case_10, case_11 exist
    path = folders / "near" / "case_2.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    values = blob(3).astype(np.float32)
    values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), folders / "near" / "case_3.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.stack([blob(3)] * 2, -1), AFFINE), folders / "near" / "case_4.nii.gz")
    save(folders / "near" / "case_5.nii.gz", blob(3)[:-1])
    save(folders / "near" / "case_6.nii.gz", blob(3), AFFINE @ np.diag([-1, 1, 1, 1]))
    save(folders / "near" / "case_7.nii.gz", blob(3) * 3)
    save(folders / "far" / "case_8.nii", blob(3))
    save(folders / "far" / "case_99.nii.gz", blob(3))
    (folders / "truth" / "case_9.nii.gz").write_bytes(b"")
    said = refused(*words_of(folders))
    expected = {
        "near/case_1.*": "no mask for case 'case_1' (case_1.nii.gz)",
        "near/case_2.nii.gz": "damaged or truncated NIfTI",
        "near/case_3.nii.gz": "1 voxels are NaN",
        "near/case_4.nii.gz": "4 dimensions",
        "near/case_5.nii.gz": "shapes differ: (24, 16, 6) and (23, 16, 6)",
        "near/case_6.nii.gz": "orientations RAS and LAS",
        "near/case_7.nii.gz": "label 3, 6 is not among [1, 2]",
        "far/case_8.nii": "two masks for case 'case_8', also case_8.nii.gz",
        "far/case_99.nii.gz": "no truth for case 'case_99'",
        "truth/case_9.nii.gz": "damaged or truncated NIfTI",
    }
    for file, words in expected.items():
        line = next(line for line in said.splitlines() if file in line)
        assert words in line, line
    assert said.startswith("10 problems") and f"truth {folders}/truth/case_6.nii.gz" in said
    assert not (folders / "out").exists()


def test_left_out_cases_are_failures_and_never_zeros(folders):
    path = folders / "far" / "case_2.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    run(*words_of(folders, "--leave-out"))
    summary = summary_of(folders)
    near, far = summary["models"]["near"], summary["models"]["far"]
    assert (far["total"], far["successful"], far["success_rate"]) == (12, 11, pytest.approx(11 / 12))
    assert near["successful"] == 12 and near["scored"] == far["scored"] == 11
    assert [row["case"] for row in summary["failures"]] == ["case_2"]
    assert "case_2" not in {row["case"] for row in rows_of(folders)}
    assert "damaged or truncated NIfTI" in (folders / "out" / "report.html").read_text()


def test_nothing_left_is_an_error_and_no_empty_list(folders):
    for path in (folders / "far").iterdir():
        path.unlink()
    assert "no mask in it" in refused(*words_of(folders, "--leave-out"))
    assert "no such folder" in refused(*words_of(folders / "nowhere"))


def test_the_cap_takes_the_first_cases_and_zero_takes_all(folders):
    run(*words_of(folders, "--max-cases", "3"))
    assert summary_of(folders)["n_cases"] == 3
    run(*words_of(folders, "--max-cases", "0"))
    assert summary_of(folders)["n_cases"] == 12
    with pytest.raises(SystemExit):
        run(*words_of(folders, "--max-cases", "-1"))


def test_labels_and_foreground(folders):
    run(*words_of(folders, "--labels", "1=lung", "2=node", "--foreground", "2"))
    assert summary_of(folders)["structures"] == ["node"]
    run(*words_of(folders, "--foreground", "any"))
    assert summary_of(folders)["structures"] == ["foreground"]
    # 7 of 8 slices of the block overlap, and the node wholly
    block, node = 8 * 8 * 4, 4 * 3 * 2
    row = next(row for row in rows_of(folders) if (row["model"], row["case"]) == ("near", "case_1"))
    assert float(row["dice"]) == pytest.approx((block * 7 / 8 + node) / (block + node), rel=1e-5)
    assert "no such label" in refused(*words_of(folders, "--foreground", "7"))
    assert "label 2 is not among [1]" in refused(*words_of(folders, "--labels", "1=lung"))


def test_tolerance_and_delta_and_confidence_have_effects(folders):
    found = {}
    for name, more in {"plain": (), "wide": ("--tolerance-mm", "3")}.items():
        run(*words_of(folders, "--foreground", "1", *more))
        found[name] = summary_of(folders)
    values = [found[name]["models"]["far"]["structures"]["1"]["surface_dice"]["value"] for name in found]
    assert values[0] < values[1] == pytest.approx(1.0)
    run(*words_of(folders, "--foreground", "1", "--delta", "0.5", "--confidence", "0.9"))
    summary = summary_of(folders)
    assert summary["comparison"]["dice"]["pairs"][0]["verdict"] == "better but trivial"
    assert "90 % intervals" in (folders / "out" / "report.html").read_text()


def test_pngs_count_in_pixels_unless_a_spacing_is_given(tmp_path):
    for folder, left in (("truth", 4), ("tool", 8)):
        (tmp_path / folder).mkdir()
        for i in range(3):
            values = np.zeros((30, 40), np.uint8)
            values[5:20, left : left + 20] = 255
            Image.fromarray(values).save(tmp_path / folder / f"{i}.png")
    words = ("--seg-dir", tmp_path / "truth", "--masks", tmp_path / "tool", "--output-dir", tmp_path / "out", *FEW)
    run(*words)
    summary = summary_of(tmp_path)
    assert any("in pixels" in warning for warning in summary["warnings"]) and summary["size_unit"] == "mm2"
    assert summary["models"]["tool"]["structures"]["255"]["hd95_mm"]["value"] == pytest.approx(4)
    run(*words, "--spacing-mm", "1", "0.5")
    summary = summary_of(tmp_path)
    assert not any("in pixels" in warning for warning in summary["warnings"])
    assert summary["models"]["tool"]["structures"]["255"]["hd95_mm"]["value"] == pytest.approx(2)


def test_masks_are_drawn_over_the_images_where_there_are_any(folders):
    for i in range(12):
        save(folders / "images" / f"case_{i}_0000.nii.gz", np.random.default_rng(i).integers(0, 200, (24, 16, 6)))
    run(*words_of(folders, "--foreground", "1"))
    black = np.asarray(Image.open(folders / "out" / "overlays" / "near-best.png"))
    run(*words_of(folders, "--foreground", "1", "--image-dir", folders / "images"))
    drawn = np.asarray(Image.open(folders / "out" / "overlays" / "near-best.png"))
    assert black.shape == drawn.shape and drawn.mean() > 2 * black.mean()
    (folders / "images" / "case_4_0000.nii.gz").unlink()
    assert "no image case_4_0000.* or case_4.*" in refused(*words_of(folders, "--image-dir", folders / "images"))


def test_patients_are_checked(folders):
    (folders / "patients.csv").write_text("case,patient\ncase_0,a\ncase_0,b\ncase_1,\n")
    said = refused(*words_of(folders, "--patients", folders / "patients.csv"))
    assert "row 3: case 'case_0' has two patients" in said and "row 4: case or patient is empty" in said
    (folders / "patients.csv").write_text("case,patient\ncase_0,a\n")
    assert "case 'case_11' has no row" in refused(*words_of(folders, "--patients", folders / "patients.csv"))


def test_two_tools_of_one_name_are_refused(folders):
    assert "two folders are named 'near'" in refused(*words_of(folders, "--masks", f"near={folders / 'far'}"))
