"""Reading masks: what each format means, and what is wrong with bad files."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from archbench.mask_files import MaskError, differing_space, read_mask

LABELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3


def nifti(path, values=LABELS, affine=None, change=None):
    image = nibabel.Nifti1Image(values, np.diag([0.7, 0.7, 2.5, 1]) if affine is None else affine)
    if change:
        change(image.header)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ"])
def test_nifti_has_labels_spacing_and_place(tmp_path, name):
    mask = read_mask(nifti(tmp_path / name))
    assert np.array_equal(mask.labels, LABELS)
    assert mask.spacing_mm == (0.7, 0.7, 2.5)  # not 0.699999988
    assert mask.affine[2, 2] == pytest.approx(2.5)


def test_microns_and_a_trailing_axis_of_one(tmp_path):
    path = nifti(tmp_path / "a.nii", LABELS[:, :, :1, None], change=lambda header: header.set_xyzt_units("micron"))
    mask = read_mask(path)
    assert mask.labels.shape == (2, 3)
    assert mask.spacing_mm == pytest.approx((0.0007, 0.0007))


def test_whole_floats_are_labels(tmp_path):
    assert np.array_equal(read_mask(nifti(tmp_path / "a.nii", LABELS.astype(np.float32))).labels, LABELS)


def truncated(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def with_nan(path):
    values = LABELS.astype(np.float32)
    values[0, 0, :2] = np.nan
    return nifti(path, values)


def without_spacing(path):
    nifti(path)
    data = bytearray(path.read_bytes())
    data[80:84] = np.float32(0).tobytes()  # pixdim[1]
    path.write_bytes(bytes(data))
    return path


def coloured(path):
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 1] = 9
    Image.fromarray(picture).save(path)
    return path


BAD = {
    "truncated.nii": (lambda path: truncated(nifti(path), 0.97), "damaged or truncated"),
    "header.nii": (lambda path: truncated(nifti(path), 0.5), "damaged or truncated"),
    "truncated.nii.gz": (lambda path: truncated(nifti(path), 0.6), "damaged or truncated"),
    "text.nii.gz": (lambda path: path.write_bytes(gzip.compress(b"no image")) and path, "damaged or truncated"),
    "empty.nii": (lambda path: path.write_bytes(b"") or path, "damaged or truncated"),
    "nan.nii": (with_nan, "2 voxels are NaN"),
    "four.nii": (lambda path: nifti(path, np.stack([LABELS, LABELS], -1)), "4 dimensions"),
    "spacing.nii": (without_spacing, "spacing"),
    "complex.nii": (lambda path: nifti(path, LABELS.astype(np.complex64)), "no labels"),
    "soft.nii": (lambda path: nifti(path, np.full((2, 2, 2), 0.4, np.float32)), "threshold probabilities"),
    "colour.png": (coloured, "colours"),
    "cut.png": (
        lambda path: (
            Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)).save(path)
            or truncated(path, 0.5)
        ),
        "damaged or no image",
    ),
    "cut.tif": (lambda path: tifffile.imwrite(path, LABELS[0]) or truncated(path, 0.3), "damaged or no image"),
    "text.tif": (lambda path: path.write_text("no image") and path, "damaged or no image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_says_what_is_wrong(tmp_path, name):
    make, words = BAD[name]
    path = make(tmp_path / name)
    with pytest.raises(MaskError, match=words):
        read_mask(path)


def test_pictures_of_every_kind(tmp_path):
    plane = LABELS[0]
    Image.fromarray(plane).save(tmp_path / "gray.png")
    palette = Image.fromarray(plane).convert("P")
    palette.putdata(plane.ravel().tolist())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(plane > 0).save(tmp_path / "bits.png")
    Image.fromarray(np.repeat(plane[..., None], 3, axis=2)).save(tmp_path / "gray_as_rgb.png")
    tifffile.imwrite(tmp_path / "deep.tif", plane.astype(np.uint16) * 300)
    tifffile.imwrite(tmp_path / "stack.tiff", LABELS, photometric="minisblack")
    for name in ("gray.png", "palette.png", "gray_as_rgb.png"):
        mask = read_mask(tmp_path / name)
        assert np.array_equal(mask.labels, plane) and mask.spacing_mm == (1.0, 1.0), name
    assert np.array_equal(read_mask(tmp_path / "bits.png").labels, plane > 0)
    assert read_mask(tmp_path / "deep.tif").labels.max() == 600
    stack = read_mask(tmp_path / "stack.tiff", spacing_mm=(2.0, 0.5, 0.25))
    assert np.array_equal(stack.labels, LABELS) and stack.spacing_mm == (2.0, 0.5, 0.25)
    with pytest.raises(MaskError, match="3 axes but 2 spacings"):
        read_mask(tmp_path / "stack.tiff", spacing_mm=(2.0, 0.5))


def test_masks_elsewhere_are_named(tmp_path):
    base = np.diag([0.7, 0.7, 2.5, 1])
    turned, moved, rounded = base.copy(), base.copy(), base.copy()
    turned[0, 0] *= -1
    moved[2, 3] += 2.5
    rounded[0, 3] += 0.001
    first = read_mask(nifti(tmp_path / "a.nii"))
    assert differing_space(first, read_mask(nifti(tmp_path / "b.nii", affine=rounded))) is None
    assert "2.5 mm" in differing_space(first, read_mask(nifti(tmp_path / "c.nii", affine=moved)))
    assert "orientations RAS and LAS" in differing_space(first, read_mask(nifti(tmp_path / "d.nii", affine=turned)))
    assert "shapes differ" in differing_space(first, read_mask(nifti(tmp_path / "e.nii", LABELS[:1])))
