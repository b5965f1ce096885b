"""CT volumes: one orientation, Hounsfield units once, slices and resampling, and every fault named with its file."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import scipy.ndimage
from volume_trees import SPACING, save_nifti, save_slices, small_chest

from archbench_predict.hounsfield import Declared
from archbench_predict.images import ImageError, to_cached_pixels
from archbench_predict.volumes import (
    Volume,
    VolumeSettings,
    field_of_view_cut,
    prepare_volume,
    read_volume,
    slice_heights,
    source_box,
    volume_sha256,
)

CHECKOUT = Path(__file__).resolve().parents[2]
RELEASED = Declared(slope=1.0, intercept=-1024.0)


def reason(path: Path, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_volume(path, **options)
    assert str(path) in str(caught.value)
    return caught.value


def all_axes() -> list[str]:
    letters = (("R", "L"), ("A", "P"), ("S", "I"))
    return ["".join(pick) for order in itertools.permutations(letters) for pick in itertools.product(*order)]


@pytest.mark.parametrize("axes", all_axes())
def test_every_orientation_of_a_file_is_read_as_the_same_volume(tmp_path: Path, axes: str) -> None:
    units = small_chest()
    volume = read_volume(save_nifti(tmp_path / "v.nii.gz", units, axes=axes))
    np.testing.assert_array_equal(volume.voxels, units)
    assert volume.voxels.dtype == np.int16
    assert volume.spacing_mm == pytest.approx(SPACING)
    assert volume.orientation == axes


def test_a_slice_is_shown_as_radiologists_see_it() -> None:
    units = np.full((3, 8, 8), -1000, np.int16)
    units[2, 7, 7] = 1000  # the most right, front and upper voxel
    slices = prepare_volume(Volume(units, (1, 1, 1)), VolumeSettings("all", 3), size=8)
    assert np.argwhere(slices == 1000).tolist() == [[2, 0, 0]]


def test_the_headers_own_slope_is_applied_once(tmp_path: Path) -> None:
    units = small_chest()
    path = save_nifti(tmp_path / "v.nii.gz", units, slope=2.0, intercept=-1024)
    assert nibabel.load(path).dataobj.inter == -1024
    read = read_volume(path)
    assert np.abs(read.voxels.astype(int) - units).max() <= 1  # a slope of 2 stores every second value
    again = read_volume(path, declared=RELEASED)
    np.testing.assert_array_equal(again.voxels, read.voxels)
    assert again.was_rescaled


@pytest.mark.parametrize("padding", [None, -2000, -3024])
def test_declared_slopes_are_applied_to_stored_values_and_to_nothing_else(tmp_path: Path, padding: int | None) -> None:
    units = small_chest()
    stored = units + 1024
    if padding is not None:
        stored[:, :4] = padding
        units[:, :4] = padding - 1024
    raw = read_volume(save_nifti(tmp_path / "raw.nii.gz", stored), declared=RELEASED)
    np.testing.assert_array_equal(raw.voxels, units)
    assert not raw.was_rescaled
    done = read_volume(save_nifti(tmp_path / "done.nii.gz", units), declared=RELEASED)
    np.testing.assert_array_equal(done.voxels, units)
    assert done.was_rescaled


def test_the_study_may_overrule_what_the_values_look_like(tmp_path: Path) -> None:
    units = small_chest()
    path = save_nifti(tmp_path / "v.nii.gz", units)
    always = read_volume(path, declared=RELEASED, rescale="always")
    np.testing.assert_array_equal(always.voxels, units - 1024)
    never = read_volume(save_nifti(tmp_path / "raw.nii.gz", units + 1024), declared=RELEASED, rescale="never")
    np.testing.assert_array_equal(never.voxels, units + 1024)
    strange = save_nifti(tmp_path / "strange.nii.gz", np.abs(units) + 9000)
    assert reason(strange, declared=RELEASED).kind == "no_hounsfield"
    assert "volumes.rescale" in str(reason(strange, declared=RELEASED))


def test_spacing_comes_from_the_file_then_from_the_metadata(tmp_path: Path) -> None:
    units = small_chest()
    path = save_nifti(tmp_path / "v.nii.gz", units)
    assert read_volume(path, declared=Declared(spacing_mm=SPACING)).notes == ()
    contradicted = read_volume(path, declared=Declared(spacing_mm=(2.5, 2.0, 1.5)))
    assert contradicted.spacing_mm == pytest.approx(SPACING)
    assert "spacing 5 x 2 x 1.5 mm in the file, 2.5 x 2 x 1.5 mm in the metadata" in contradicted.notes[0]
    silent = save_nifti(tmp_path / "silent.nii.gz", units, codes=False)
    assert read_volume(silent, declared=Declared(spacing_mm=SPACING)).spacing_mm == SPACING
    assert reason(silent).kind == "no_spacing"


def test_a_header_that_contradicts_itself_is_reported(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(small_chest().transpose(2, 1, 0), np.diag([1.5, 2, 5, 1]))
    data = image.to_bytes()
    header = image.header.copy()
    header["pixdim"][1:4] = 1.5, 2, 3
    path = tmp_path / "v.nii"
    path.write_bytes(header.binaryblock + data[348:])
    assert "contradict its affine" in read_volume(path).notes[0]


def broken(tmp_path: Path) -> dict[str, tuple[Path, str, str]]:
    """File, kind and words of the message, by what is wrong."""
    units = small_chest()
    whole = save_nifti(tmp_path / "whole.nii.gz", units)
    plain = save_nifti(tmp_path / "whole.nii", units)

    def written(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    nan = units.astype(np.float32)
    nan[4, 3, 2] = np.nan
    four = nibabel.Nifti1Image(np.stack([units.transpose(2, 1, 0)] * 2, axis=3), np.eye(4))
    flat = nibabel.Nifti1Image(units.transpose(2, 1, 0)[:, :, :1], np.eye(4))
    skew = nibabel.Nifti1Image(units.transpose(2, 1, 0), None)
    skew.header["sform_code"], skew.header["srow_x"][:] = 1, (1, 1, 0, 0)
    skew.header["srow_y"][:], skew.header["srow_z"][:] = (1, 1.01, 0, 0), (0, 0, 1, 0)
    for name, image in (("four", four), ("flat", flat)):
        image.to_filename(tmp_path / f"{name}.nii.gz")
    skewed = skew.header.binaryblock + plain.read_bytes()[348:]
    return {
        "missing": (tmp_path / "none.nii.gz", "missing_file", "no such file"),
        "empty": (written("empty.nii.gz", b""), "unreadable", "the file is empty"),
        "truncated gzip": (
            written("cut.nii.gz", whole.read_bytes()[: whole.stat().st_size // 2]),
            "truncated",
            "end early",
        ),
        "truncated": (written("cut.nii", plain.read_bytes()[:4000]), "truncated", "end early"),
        "corrupt": (written("bad.nii.gz", gzip.compress(b"no header" * 99)), "unreadable", "no readable NIfTI"),
        "no gzip": (written("text.nii.gz", b"a page that says 404"), "unreadable", "no readable NIfTI"),
        "NaN": (save_nifti(tmp_path / "nan.nii.gz", nan), "not_finite", "1 voxels of slice 4"),
        "4D": (tmp_path / "four.nii.gz", "not_a_volume", "a volume has 3"),
        "2D": (tmp_path / "flat.nii.gz", "not_a_volume", "is a picture"),
        "constant": (save_nifti(tmp_path / "zeros.nii.gz", 0 * units), "unreadable", "every voxel is 0"),
        "skewed axes": (written("skew.nii", skewed), "unreadable", "right angles"),
    }


BROKEN = (
    *("missing", "empty", "truncated gzip", "truncated", "corrupt", "no gzip"),
    *("NaN", "4D", "2D", "constant", "skewed axes"),
)


@pytest.mark.parametrize("which", BROKEN)
def test_a_bad_file_is_refused_with_its_name_and_a_reason(tmp_path: Path, which: str) -> None:
    path, kind, words = broken(tmp_path)[which]
    error = reason(path)
    assert error.kind == kind
    assert words in str(error)


def test_a_header_that_claims_too_much_is_refused_before_reading(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "v.nii.gz", small_chest())
    assert reason(path, max_voxels=1000).kind == "oversized"


def test_a_metaimage_is_read_as_the_nifti_file_is(tmp_path: Path) -> None:
    import SimpleITK

    path = save_nifti(tmp_path / "v.nii.gz", small_chest(), axes="LPS")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / "v.mha"))
    volume, other = read_volume(path), read_volume(tmp_path / "v.mha")
    np.testing.assert_array_equal(volume.voxels, other.voxels)
    assert volume.spacing_mm == pytest.approx(other.spacing_mm)
    (tmp_path / "v.mha").write_bytes((tmp_path / "v.mha").read_bytes()[:2000])
    assert reason(tmp_path / "v.mha").kind == "unreadable"


def test_npy_slices_are_read_as_the_nifti_file_is(tmp_path: Path) -> None:
    units = small_chest()
    table = save_slices(tmp_path / "v", units)
    volume = read_volume(table)
    np.testing.assert_array_equal(volume.voxels, units)
    assert volume.spacing_mm == pytest.approx(SPACING)
    before = volume_sha256(table)
    np.save(tmp_path / "v" / "003.npy", units[0])
    assert volume_sha256(table) != before


def test_slices_that_are_missing_are_named_and_never_become_zeros(tmp_path: Path) -> None:
    table = save_slices(tmp_path / "v", small_chest())
    text = table.read_text()
    table.write_text("\n".join(line for line in text.splitlines() if not line.startswith("004")))
    assert "one is missing" in str(reason(table))
    table.write_text(text)
    (tmp_path / "v" / "004.npy").unlink()
    with pytest.raises(ImageError, match=r"004\.npy") as caught:
        read_volume(table)
    assert caught.value.kind == "missing_file"
    table.write_text(text.replace("004.npy", "../../secret.npy"))
    assert "no path in this folder" in str(reason(table))


def test_strategies_choose_their_slices() -> None:
    volume = Volume(small_chest(shape=(60, 8, 8)), (2.0, 1.0, 1.0))
    multi = slice_heights(volume, VolumeSettings("multi", 12)) / volume.height_mm
    assert [np.count_nonzero((multi >= k / 3) & (multi < (k + 1) / 3)) for k in range(3)] == [2, 8, 2]
    anatomical = slice_heights(volume, VolumeSettings("anatomical"))
    np.testing.assert_allclose(anatomical / volume.height_mm, (0.1, 0.25, 0.4, 0.55, 0.7, 0.85), atol=1 / 60)
    np.testing.assert_allclose(slice_heights(volume, VolumeSettings("all", 4)), [15, 45, 75, 105])
    lung = np.full((5, 4, 4), -1000, np.int16)
    lung[3] = -800
    assert slice_heights(Volume(lung, (2.0, 1, 1)), VolumeSettings("best")).tolist() == [7.0]
    for strategy in ("multi", "anatomical", "all", "best"):
        settings = VolumeSettings(strategy, 7)
        assert prepare_volume(volume, settings, size=6).shape == (settings.depth, 6, 6)


def test_without_a_spacing_slices_are_the_files_own() -> None:
    square = small_chest(shape=(10, 24, 24))
    slices = prepare_volume(Volume(square, SPACING), VolumeSettings("multi", 5), size=24)
    for plane in slices:
        assert any(np.array_equal(plane, own[::-1, ::-1]) for own in square)


def test_more_slices_interpolate_and_fewer_average() -> None:
    units = small_chest(shape=(12, 8, 8))
    volume = Volume(units, (3.0, 1.0, 1.0))
    shown = units[:, ::-1, ::-1].astype(np.float64)
    fewer = prepare_volume(volume, VolumeSettings("all", 4), size=8)
    np.testing.assert_allclose(fewer, shown.reshape(4, 3, 8, 8).mean(axis=1), atol=0.51)
    settings = VolumeSettings("all", 24)
    more = prepare_volume(volume, settings, size=8)
    places = slice_heights(volume, settings) / 3.0 - 0.5
    inside = (places >= 0) & (places <= 11)
    expected = scipy.ndimage.map_coordinates(shown, np.meshgrid(places, range(8), range(8), indexing="ij"), order=1)
    np.testing.assert_allclose(more[inside], expected[inside], atol=0.51)


def test_a_declared_spacing_decides_the_field_of_view() -> None:
    units = small_chest(shape=(10, 24, 32))
    volume = Volume(units, (5.0, 1.0, 1.0))
    settings = VolumeSettings("all", 10, spacing_mm=(5.0, 2.0, 2.0))
    slices = prepare_volume(volume, settings, size=20)
    halved = units.reshape(10, 12, 2, 16, 2).mean(axis=(2, 4))[:, ::-1, ::-1]
    np.testing.assert_allclose(slices[:, 4:16, 2:18], halved, atol=0.51)
    assert (slices[:, :4] == -1000).all() and (slices[:, :, :2] == -1000).all()
    assert not field_of_view_cut(volume, settings, size=20)
    assert field_of_view_cut(volume, settings, size=10)
    np.testing.assert_allclose(prepare_volume(volume, settings, size=10), halved[:, 1:11, 3:13], atol=0.51)


@pytest.mark.parametrize("spacing", [None, (5.0, 1.7, 2.3)])
def test_a_place_is_found_again_in_the_prepared_slice(spacing: tuple[float, float, float] | None) -> None:
    units = np.full((4, 60, 80), -1000, np.int16)
    units[1, 60 - 1 - 20 - 4 : 60 - 1 - 20 + 5, 80 - 1 - 50 - 4 : 80 - 1 - 50 + 5] = 1000
    volume, settings = Volume(units, (5.0, 2.0, 2.0)), VolumeSettings("all", 4, spacing_mm=spacing)
    plane = prepare_volume(volume, settings, size=64)[1].astype(float) + 1000
    found = [float((plane.sum(axis=axis) * np.arange(64)).sum() / plane.sum()) for axis in (0, 1)]
    box = np.array(source_box(volume, settings, size=64))
    np.testing.assert_allclose(found, to_cached_pixels(np.array([50, 20]), box=box, size=64), atol=0.6)


def test_a_large_volume_stays_below_two_gigabytes(tmp_path: Path) -> None:
    """512 x 512 x 300 voxels in the widest type that such files have: one slab, compressed once and repeated."""
    slab = np.tile(small_chest(shape=(3, 32, 32)), (1, 16, 16)).astype(np.float64)
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 300))
    header.set_data_dtype(np.float64)
    header.set_sform(np.diag([0.7, 0.7, 1.0, 1.0]), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    packed = gzip.compress(slab.tobytes(), compresslevel=1)
    (tmp_path / "large.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)) + 100 * packed)
    program = (
        "import sys\n"
        "from archbench.memory import peak_rss_mib\n"
        "from archbench_predict.volumes import VolumeSettings, prepare_volume, read_volume\n"
        "volume = read_volume(sys.argv[1])\n"
        "assert volume.voxels.shape == (300, 512, 512)\n"
        "for strategy in ('multi', 'all', 'best'):\n"
        "    prepare_volume(volume, VolumeSettings(strategy, 24, (1.5, .75, .75)), size=480)\n"
        "print(peak_rss_mib())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "large.nii.gz")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2000, "MiB"
