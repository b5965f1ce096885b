"""Images: every encoding decodes to the same picture; the cache is whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from archbench import cache_folder, image_cache
from archbench.artifacts import ArtifactError, write_json
from archbench.image_cache import build_cache, open_cache
from archbench_predict.images import ImageError, Preprocessing, border_box, decode, equalize, resize, to_cached_pixels

LIMIT = 10_000_000


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth colour picture without symmetry."""
    yy, xx = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    return np.rint(255 * np.stack([xx, yy, (1 - xx) * yy], axis=2)).astype(np.uint8)


def encode(pixels: np.ndarray, format: str, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    (image.convert(mode) if mode else image).save(out, format, **options)
    return out.getvalue()


def encode_tiff(pixels: np.ndarray, **options: Any) -> bytes:
    import tifffile

    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_colour_images_decode(format: str) -> None:
    options = {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    image = decode(encode(picture(), format, **options), max_pixels=LIMIT)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture()).max() <= (6 if format == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    data = encode(picture(), "TIFF" if mode == "CMYK" else "PNG", mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode(data, max_pixels=LIMIT), expected)


def test_transparent_pixels_become_black() -> None:
    pixels = np.dstack([picture(), np.full((40, 60), 255, np.uint8)])
    pixels[:, :30, 3] = 0
    image = decode(encode(pixels, "PNG"), max_pixels=LIMIT)
    assert not image[:, :30].any()
    assert np.array_equal(image[:, 30:], picture()[:, 30:])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_gray_uses_its_full_range_or_its_own(format: str) -> None:
    gray = (np.arange(2400, dtype=np.uint16) + 100).reshape(40, 60)
    data = encode(gray, format)
    full = decode(data, max_pixels=LIMIT, intensity="full_range")
    own = decode(data, max_pixels=LIMIT, intensity="min_max")
    assert np.array_equal(full[:, :, 0], np.rint(gray / 257.0))
    assert (own.min(), own.max()) == (0, 255)
    assert np.array_equal(full[:, :, 0], full[:, :, 2])


def test_sixteen_bit_colour_png_and_tiff_keep_channel_order() -> None:
    import cv2

    deep = picture().astype(np.uint16) * 257
    png = cv2.imencode(".png", deep[:, :, ::-1])[1].tobytes()
    for data in (
        png,
        encode_tiff(deep),
        encode_tiff(np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate"),
    ):
        assert np.array_equal(decode(data, max_pixels=LIMIT), picture())


def test_float_images_need_min_max() -> None:
    data = encode_tiff(picture()[:, :, 0].astype(np.float32) / 255)
    with pytest.raises(ImageError, match="intensity: min_max"):
        decode(data, max_pixels=LIMIT)
    gray = picture()[:, :, 0].astype(float)
    expected = np.rint(gray / gray.max() * 255)
    assert np.array_equal(decode(data, max_pixels=LIMIT, intensity="min_max")[:, :, 0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured_as_pillow_does(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), "JPEG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data, max_pixels=LIMIT), expected)


def test_a_truncated_jpeg_is_an_error() -> None:
    data = encode(picture(200, 300), "JPEG")
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) // 2], max_pixels=LIMIT)
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_truncated_png_is_an_error_of_the_image(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(100, 100, 3), dtype=np.uint8)
    data = encode(noise, "PNG", mode)
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) // 2], max_pixels=LIMIT)
    assert caught.value.kind == "truncated"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("data", [b"not an image", b"II*\x00broken", b"\x89PNG\r\n\x1a\n"])
def test_garbage_is_unreadable(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=LIMIT)
    assert caught.value.kind == "unreadable"


def test_a_header_with_too_many_pixels_is_refused_before_decoding() -> None:
    small = encode(picture(), "PNG")
    bomb = small[:16] + (100_000).to_bytes(4, "big") * 2 + small[24:]
    bomb = bomb[:29] + __import__("zlib").crc32(bomb[12:29]).to_bytes(4, "big") + bomb[33:]
    for data in (bomb, small, encode_tiff(picture().astype(np.uint16))):
        with pytest.raises(ImageError, match="max_pixels") as caught:
            decode(data, max_pixels=2000)
        assert caught.value.kind == "oversized"


def test_border_box_finds_the_disc_with_its_pad() -> None:
    image = np.full((100, 200, 3), 3, np.uint8)
    yy, xx = np.mgrid[:100, :200]
    image[np.hypot(xx - 90, yy - 50) < 40] = 120
    image[2, 2] = 255
    x0, y0, x1, y1 = border_box(image)
    assert abs(x0 - 46) <= 2
    assert abs(x1 - 135) <= 2
    assert abs(y0 - 6) <= 2
    assert abs(y1 - 95) <= 2


@pytest.mark.parametrize("side", [(100, 100), (37, 211), (200, 1)])
def test_border_box_counts_rows_and_columns_of_more_than_one_per_cent(side: tuple[int, int]) -> None:
    """At the limit: 1 pixel in 100 is not enough, 2 are."""
    generator = np.random.default_rng(0)
    for density in (0.002, 0.008, 0.012, 0.03, 0.5):
        image = np.where(generator.random((*side, 3)) < density, 200, 10).astype(np.uint8)
        bright = image.max(axis=2) > 10
        columns = [x for x in range(side[1]) if bright[:, x].mean() > 0.01]
        rows = [y for y in range(side[0]) if bright[y].mean() > 0.01]
        expected = (
            (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if columns and rows else (0, 0, side[1], side[0])
        )
        assert border_box(image, pad=0.0) == expected


def test_a_black_image_keeps_its_frame() -> None:
    assert border_box(np.zeros((20, 30, 3), np.uint8)) == (0, 0, 30, 20)


def test_points_follow_the_image_through_crop_and_resize() -> None:
    """A bright spot lies in the cached image where its source coordinates map to."""
    image = np.zeros((300, 420, 3), np.uint8)
    image[97:104, 197:204] = 255
    box = np.array([60, 20, 360, 280])
    cached = resize(image[20:280, 60:360], size=96)[:, :, 0].astype(float)
    yy, xx = np.mgrid[:96, :96]
    centre = np.array([(xx * cached).sum(), (yy * cached).sum()]) / cached.sum()
    assert np.allclose(to_cached_pixels(np.array([[200, 100]]), box=box, size=96)[0], centre, atol=0.1)


def test_clahe_raises_local_contrast_and_keeps_shape() -> None:
    dull = (picture() // 8 + 100).astype(np.uint8)
    equalized = equalize(dull, clip=3.0)
    assert equalized.shape == dull.shape
    assert equalized.std() > dull.std()


# --- the cache


def write_images(folder: Path, n: int = 9) -> dict[str, Any]:
    """Image files and the arguments of build_cache for them."""
    folder.mkdir(exist_ok=True)
    names = [f"{index}.png" for index in range(n)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(encode(np.roll(picture(), 3 * index, axis=1), "PNG"))
    sha256s = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    return {
        "root": folder,
        "case_ids": [f"case{index}" for index in range(n)],
        "images": names,
        "sha256s": sha256s,
        "preprocessing": Preprocessing(size=32, clahe=2.0),
        "max_pixels": LIMIT,
        "threads": 2,
        "code": "x",
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_cache_holds_what_preprocessing_gives(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data")
    cache = open_cache(build_cache(cache_dir=tmp_path / "cache", **arguments))
    assert cache.images.shape == (9, 32, 32, 3)
    assert cache.clahe is not None
    for index in cache.rows(["case4", "case0"]).tolist():
        image = np.roll(picture(), 3 * index, axis=1)
        x0, y0, x1, y1 = border_box(image)
        assert cache.geometry[index].tolist() == [x0, y0, x1, y1]
        assert np.array_equal(cache.images[index], resize(image[y0:y1, x0:x1], size=32))
        assert np.array_equal(cache.clahe[index], equalize(cache.images[index], clip=2.0))


def test_a_gray_cache_holds_one_channel(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data", n=2)
    arguments["preprocessing"] = Preprocessing(size=32, clahe=2.0, channels="gray")
    cache = open_cache(build_cache(cache_dir=tmp_path / "cache", **arguments))
    assert cache.images.shape == (2, 32, 32, 1) and cache.clahe is not None and cache.clahe.shape == (2, 32, 32, 1)
    colour = open_cache(build_cache(cache_dir=tmp_path / "cache", **write_images(tmp_path / "data", n=2)))
    luminance = colour.images[0].astype(float) @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.abs(cache.images[0, :, :, 0] - luminance).max() <= 1


def test_settings_content_and_code_name_the_cache(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data", n=2)
    changes: list[dict[str, Any]] = [
        {},
        {"preprocessing": Preprocessing(size=48)},
        {"preprocessing": Preprocessing(size=32, crop_border=False, clahe=2.0)},
        {"code": "y"},
    ]
    folders = [build_cache(cache_dir=tmp_path / "cache", **{**arguments, **change}) for change in changes]
    assert len(set(folders)) == 4
    assert build_cache(cache_dir=tmp_path / "cache", **arguments) == folders[0]


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = write_images(tmp_path / "data")
    whole = build_cache(cache_dir=tmp_path / "whole", **arguments)
    monkeypatch.setattr(cache_folder, "CHECKPOINT_ROWS", 2)
    real = image_cache._maker
    made: list[int] = []

    def interrupted(*args: Any) -> Any:
        make = real(*args)

        def make_until(index: int) -> Any:
            if index == 5 and not made.count(-1):
                made.append(-1)
                raise KeyboardInterrupt
            made.append(index)
            return make(index)

        return make_until

    monkeypatch.setattr(image_cache, "_maker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_cache(cache_dir=tmp_path / "cache", **arguments)
    folder = tmp_path / "cache" / whole.name
    assert not folder.exists()
    made_before = set(made) - {-1}
    made[:] = [-1]
    assert build_cache(cache_dir=tmp_path / "cache", **arguments) == folder
    assert set(made) - {-1} == set(range(4, 9))
    assert {0, 1, 2, 3} <= made_before
    assert contents(folder) == contents(whole)


def test_a_damaged_unfinished_build_starts_over(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data")
    whole = build_cache(cache_dir=tmp_path / "whole", **arguments)
    partial = tmp_path / "cache" / f"{whole.name}.partial"
    partial.mkdir(parents=True)
    (partial / "images.npy").write_bytes(b"half a header")
    assert contents(build_cache(cache_dir=tmp_path / "cache", **arguments)) == contents(whole)


def _build(arguments: dict[str, Any], cache_dir: Path, results: Any) -> None:
    results.put(str(build_cache(cache_dir=cache_dir, **arguments)))


def test_two_processes_build_one_cache(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data", n=40)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    jobs = [context.Process(target=_build, args=(arguments, tmp_path / "cache", results)) for _ in range(2)]
    for job in jobs:
        job.start()
    folders = {results.get(timeout=60) for _ in jobs}
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    assert len(folders) == 1
    alone = build_cache(cache_dir=tmp_path / "alone", **arguments)
    assert contents(Path(folders.pop())) == contents(alone)


def test_a_file_that_changed_since_the_audit_is_refused_by_name(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data")
    (tmp_path / "data" / "3.png").write_bytes(encode(picture(), "PNG", "L"))
    with pytest.raises(ArtifactError, match=r"3\.png has changed"):
        build_cache(cache_dir=tmp_path / "cache", **arguments)


def test_an_unreadable_image_names_its_file(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data")
    broken = b"broken"
    (tmp_path / "data" / "3.png").write_bytes(broken)
    arguments["sha256s"][3] = hashlib.sha256(broken).hexdigest()
    with pytest.raises(ArtifactError, match=r"3\.png: not a PNG"):
        build_cache(cache_dir=tmp_path / "cache", **arguments)


def test_a_cache_that_is_gone_or_damaged_gives_the_remedy(tmp_path: Path) -> None:
    arguments = write_images(tmp_path / "data")
    folder = build_cache(cache_dir=tmp_path / "cache", **arguments)
    pointer = tmp_path / "images-x.json"
    write_json(pointer, {"path": folder})
    assert open_cache(pointer).size == 32
    with pytest.raises(ArtifactError, match="'stranger'"):
        open_cache(pointer).rows(["stranger"])
    index = json.loads((folder / "index.json").read_text())
    write_json(folder / "index.json", {**index, "case_ids": index["case_ids"][1:]})
    with pytest.raises(ArtifactError, match="its index says"):
        open_cache(pointer)
    (folder / "index.json").unlink()
    with pytest.raises(ArtifactError, match=r"gone or incomplete: delete .*images-x\.json and run snakemake again"):
        open_cache(pointer)


def test_a_disk_that_is_too_small_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = write_images(tmp_path / "data", n=2)
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(ArtifactError, match="make room"):
        build_cache(cache_dir=tmp_path / "cache", **arguments)
