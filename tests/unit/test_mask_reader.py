"""Images with masks as a dataset: pairing, conversion, and every bad file named before anything is trained."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from archbench.datasets import DatasetError, MaskSettings, PhantomSettings, SourceSettings
from archbench.datasets.image_masks import read_image_masks
from archbench.datasets.mask_slices import class_indices
from archbench.datasets.phantom_masks import STRUCTURES, read_phantom_masks
from archbench.mask_files import read_mask
from archbench.mask_stacks import write_stack

AFFINE = np.diag([0.7, 0.8, 2.5, 1.0])
ONE = {"lung": (2,)}


def volume(seed: int = 0, shape: tuple[int, int, int] = (12, 10, 8)) -> tuple[np.ndarray, np.ndarray]:
    """HU in the range of a CT, and a mask with the values 0, 2 and 7."""
    generator = np.random.default_rng(seed)
    image = generator.integers(-1000, 1000, size=shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[2:6, 3:7, 1:5] = 2
    mask[8:10, 3:7, 4:6] = 7
    return image, mask


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def write_pair(root: Path, case: str, *, seed: int = 0, mark: str = "_0000") -> None:
    image, mask = volume(seed)
    save(root / "images" / f"{case}{mark}.nii.gz", image)
    save(root / "masks" / f"{case}.nii.gz", mask)


def settings(root: Path, **plan: object) -> SourceSettings:
    given = {"structures": ONE, "window": (-1000.0, 400.0), "other_values": "background", **plan}
    return SourceSettings(
        root=root, images="images", masks="masks", segmentation=MaskSettings(**given), work=root.parent / "work"
    )


def refused(given: SourceSettings) -> str:
    with pytest.raises(DatasetError) as caught:
        read_image_masks(given)
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, case in enumerate(("case_1", "case_10", "case_2")):
        write_pair(tmp_path / "data", case, seed=k, mark="_0000" if k else "")
    return tmp_path / "data"


def test_volumes_become_slices_of_their_own_case(root: Path) -> None:
    source = read_image_masks(settings(root))
    assert len(source.rows) == 3 * 8 and source.labels == ("lung",)
    assert {row.patient_id for row in source.rows} == {"case_1", "case_10", "case_2"}
    for row in source.rows:
        assert row.image.split("/")[1] == row.mask.split("/")[1] == row.patient_id
        assert row.spacing_mm == (0.8, 0.7), "rows run along y, columns along x"
        assert (row.volume, row.slice_mm) == (row.patient_id, 2.5)
        labels = read_mask(source.root / row.mask).labels
        assert set(np.unique(labels)) == ({0, 1} if row.labels == ("1",) else {0})
        assert Image.open(source.root / row.image).size == (12, 10)
    assert sum(row.labels == ("1",) for row in source.rows) == 3 * 4, "the structure lies in four slices"


def test_image_and_mask_are_turned_alike_whatever_the_stored_orientation(root: Path, tmp_path: Path) -> None:
    image, mask = volume()
    flipped = AFFINE @ np.array([[-1, 0, 0, 11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    other = tmp_path / "other" / "data"
    save(other / "images" / "case_1.nii.gz", image[::-1], flipped)
    save(other / "masks" / "case_1.nii.gz", mask[::-1], flipped)
    plain, turned = read_image_masks(settings(root, max_cases=1)), read_image_masks(settings(other))
    for a, b in zip(plain.rows, turned.rows, strict=True):
        for name in ("image", "mask"):
            first, second = (np.asarray(Image.open(s.root / getattr(r, name))) for s, r in ((plain, a), (turned, b)))
            np.testing.assert_array_equal(first, second)


def test_the_window_maps_to_black_and_white(root: Path) -> None:
    source = read_image_masks(settings(root, window=(0.0, 100.0)))
    image = np.asarray(nibabel.load(root / "images" / "case_1.nii.gz").dataobj)
    row = next(row for row in source.rows if row.image == "images/case_1/0003.png")
    expected = np.rint(np.clip(image[::-1, ::-1, 3].T / 100, 0, 1) * 255)
    np.testing.assert_array_equal(np.asarray(Image.open(source.root / row.image)), expected)


def test_blocks_of_one_volume_stand_apart(root: Path) -> None:
    source = read_image_masks(settings(root, max_cases=1, blocks=2, block_gap=1))
    by_part: dict[str, list[int]] = {}
    for row in source.rows:
        by_part.setdefault(str(row.patient_id), []).append(int(row.image[-8:-4]))
    assert by_part == {"case_1-part00": [0, 1, 2, 3], "case_1-part01": [5, 6, 7]}
    assert any("count as patients" in note for note in source.notes)


def test_pictures_pair_with_jpeg_images_too(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(root / "images" / "a_0000.jpg")
    Image.fromarray(np.full((6, 9), 2, np.uint8)).save(root / "masks" / "a.png")
    (row,) = read_image_masks(settings(root, spacing_mm=0.5)).rows
    assert (row.image, row.labels, row.spacing_mm) == ("images/a_0000.jpg", ("1",), (0.5, 0.5))
    assert (read_mask(root / row.mask).labels == 1).all()


def test_a_csv_names_both_paths_and_the_patient(root: Path) -> None:
    (root / "pairs.csv").write_text(
        "image,mask,patient\nimages/case_1.nii.gz,masks/case_1.nii.gz,p1\n"
        "images/case_2_0000.nii.gz,masks/case_2.nii.gz,p1\n"
    )
    given = settings(root)
    given = SourceSettings(root=root, csv="pairs.csv", segmentation=given.segmentation, work=given.work)
    assert {row.patient_id for row in read_image_masks(given).rows} == {"p1"}
    (root / "pairs.csv").write_text(
        "image,mask\nimages/gone.nii.gz,masks/case_1.nii.gz\n../x.nii,masks/case_1.nii.gz\n"
    )
    told = refused(given)
    assert "line 2: no file" in told and "leaves the data root" in told


def test_class_indices_follow_the_order_of_the_structures() -> None:
    values = np.array([[0, 1, 2], [5, 5, 9]])
    found = class_indices(values, {"b": (5, 2), "a": (1,)})
    assert found.tolist() == [[0, 2, 1], [1, 1, 0]]
    assert class_indices(values, {"any": ()}).tolist() == [[0, 1, 1], [1, 1, 1]]


def test_every_bad_file_is_named_at_once(root: Path) -> None:
    image, mask = volume()
    broken = root / "images" / "case_2_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:400])
    save(root / "images" / "nan.nii.gz", np.where(image > 990, np.nan, image).astype(np.float32))
    save(root / "masks" / "nan.nii.gz", mask)
    save(root / "images" / "four.nii.gz", np.stack([image, image], axis=-1))
    save(root / "masks" / "four.nii.gz", mask)
    save(root / "images" / "small.nii.gz", image)
    save(root / "masks" / "small.nii.gz", mask[:-1])
    save(root / "images" / "moved.nii.gz", image)
    save(root / "masks" / "moved.nii.gz", mask, AFFINE + np.diag([0, 0, 1.0, 0]))
    save(root / "images" / "turned.nii.gz", image)
    save(root / "masks" / "turned.nii.gz", mask, AFFINE @ np.diag([-1.0, 1, 1, 1]))
    save(root / "images" / "lonely.nii.gz", image)
    save(root / "masks" / "stranger.nii.gz", mask)
    save(root / "masks" / "case_1.nii", mask)
    told = refused(settings(root))
    for words in (
        f"{broken}: damaged or truncated",
        "nan.nii.gz: ",
        "NaN or infinite",
        "4 dimensions",
        "shapes differ",
        "affines differ",
        "orientations RAS and LAS",
        "case 'lonely' has no mask",
        "case 'stranger' has no image",
        "two masks for case 'case_1'",
    ):
        assert words in told, words
    assert "Nothing was trained" in told


def test_a_structure_that_no_mask_holds_is_told(root: Path) -> None:
    told = refused(settings(root, structures={"lung": (2,), "heart": (51,)}))
    assert "structure 'heart' [51] is in no mask (their values: [0, 2, 7])" in told


def test_values_that_no_structure_names_are_refused_file_by_file(root: Path) -> None:
    told = refused(settings(root, other_values="error"))
    for case in ("case_1", "case_10", "case_2"):
        assert f"{case}.nii.gz: no structure names its values 7: name them in segmentation.structures" in told
    for structures in ({"lung": (2,), "other": (7,)}, {"any": ()}):
        assert read_image_masks(settings(root, structures=structures, other_values="error")).rows


def test_values_declared_background_are_told(root: Path) -> None:
    told = "mask values that no structure names were taken as background: 7"
    assert told in read_image_masks(settings(root)).notes
    assert told not in read_image_masks(settings(root, structures={"lung": (2,), "other": (7,)})).notes
    assert not any("background" in note for note in read_image_masks(settings(root, structures={"any": ()})).notes)


def test_a_cap_takes_the_first_cases_and_zero_takes_all(root: Path) -> None:
    patients = {cap: {row.patient_id for row in read_image_masks(settings(root, max_cases=cap)).rows} for cap in (0, 2)}
    assert patients == {0: {"case_1", "case_10", "case_2"}, 2: {"case_1", "case_10"}}


def test_empty_and_missing_folders_are_told(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    told = refused(settings(tmp_path / "data"))
    assert "images: no image in it" in told and "masks: no such folder of masks" in told


def test_the_phantom_says_what_its_masks_hold(tmp_path: Path) -> None:
    phantom = PhantomSettings(folder=tmp_path / "p", patients=20, image_size=64, seed=3)
    source = read_phantom_masks(SourceSettings(root=tmp_path, phantom=phantom))
    assert source.labels == STRUCTURES and len(source.rows) == 40
    nodules = 0
    for row in source.rows:
        labels = read_mask(source.root / str(row.mask)).labels
        assert row.labels == tuple(str(int((labels == k).any())) for k in (1, 2, 3))
        nodules += row.labels[2] == "1"
        assert 0.1 < (labels == 1).mean() < 0.5
    assert 8 <= nodules <= 32


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_slices_become_a_volume_again(n: int, tmp_path: Path) -> None:
    labels = np.random.default_rng(n).integers(0, 4, size=(n, 6, 9)).astype(np.uint8)
    for k, plane in enumerate(labels):
        Image.fromarray(plane).save(tmp_path / f"{k}.png")
    path = write_stack(tmp_path / "a" / "v.tif", [tmp_path / f"{k}.png" for k in range(n)])
    found = read_mask(path, spacing_mm=(2.5, 0.8, 0.7))
    np.testing.assert_array_equal(found.labels, labels)
    assert found.spacing_mm == (2.5, 0.8, 0.7)
