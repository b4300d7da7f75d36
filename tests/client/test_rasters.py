import numpy as np
import pytest
from PIL import Image

from client.images import check_output, read_image, read_stack, write_result
from client.origin import Kind
from protocols.errors import BadInputError
from tests.client.dicom_files import PROVENANCE, write_untouched


def ramp(dtype, shape=(20, 30)):
    count = int(np.prod(shape))
    values = np.arange(count) * 7919 % count * (np.iinfo(dtype).max - 10) // count + 3
    return values.reshape(shape).astype(dtype)


def save(path, *pages, **options):
    images = [Image.fromarray(page) for page in pages]
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
    images[0].save(path, **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["in.png", "in.tif"])
def test_depth_and_values_come_back(tmp_path, name, dtype):
    values = ramp(dtype)
    path = save(tmp_path / name, values, dpi=(254, 127))
    stack = read_stack(path)
    image = stack.plane(0)
    assert (image.kind, image.bits) == (Kind.PNG if name == "in.png" else Kind.TIFF, np.dtype(dtype).itemsize * 8)
    assert (float(image.pixels.min()), float(image.pixels.max())) == (0.0, 1.0)
    for out in ("out.png", "out.tif", "out.TIFF"):
        with Image.open(write_untouched(tmp_path / out, stack)) as found:
            assert np.array_equal(np.array(found), values)
            assert np.array(found).dtype == dtype
            assert [float(value) for value in found.info["dpi"]] == pytest.approx([254, 127], rel=1e-3)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path, compression):
    values = ramp(np.uint16)
    image = read_image(save(tmp_path / "in.tif", values, compression=compression))
    assert np.array_equal(np.rint(image.origin.to_values(image.pixels)), values)


def test_pages_share_one_range_and_come_back_as_pages(tmp_path):
    pages = [ramp(np.uint16) // 4 + 1000 * number for number in range(3)]
    stack = read_stack(save(tmp_path / "in.tif", *pages))
    assert stack.count == 3
    assert [round(float(image.pixels.min()), 3) for image in stack] != [0.0, 0.0, 0.0]
    with Image.open(write_untouched(tmp_path / "out.tif", stack)) as found:
        assert found.n_frames == 3
        for number, page in enumerate(pages):
            found.seek(number)
            assert np.array_equal(np.array(found), page)
    with pytest.raises(BadInputError, match=r"can be .tif, .tiff, .npy"):
        check_output(tmp_path / "out.png", stack.plane(0).origin, planes=3)


def test_results_are_clipped_to_the_depth(tmp_path):
    image = read_image(save(tmp_path / "in.png", ramp(np.uint16)))
    pixels = image.pixels.clone()
    pixels[0, :2] = image.pixels.new_tensor([-9.0, 9.0])
    write_result(tmp_path / "out.png", pixels, image.origin, PROVENANCE)
    with Image.open(tmp_path / "out.png") as found:
        assert np.array(found)[0, :2].tolist() == [0, 65535]


@pytest.mark.parametrize("name", ["in.png", "in.tif"])
@pytest.mark.parametrize(
    ("mode", "message"),
    [("RGB", "colour .RGB"), ("RGBA", "colour"), ("P", "colour .a pal"), ("LA", "colour"), ("1", "black")],
)
def test_colour_is_refused_with_what_is_supported(tmp_path, name, mode, message):
    Image.new(mode, (20, 20)).save(tmp_path / name)
    with pytest.raises(BadInputError, match=f"is {message}.*; supported is grey of 8 or 16 bits"):
        read_image(tmp_path / name)


def test_signed_and_floating_tiff_are_refused(tmp_path):
    for mode in ("F", "I"):
        Image.new(mode, (20, 20)).save(tmp_path / "in.tif")
        with pytest.raises(BadInputError, match="supported is grey of 8 or 16 bits, unsigned"):
            read_image(tmp_path / "in.tif")


def test_sizes(tmp_path, monkeypatch):
    with pytest.raises(BadInputError, match="7x20"):
        read_image(save(tmp_path / "small.png", ramp(np.uint8, (7, 20))))
    monkeypatch.setattr("client.rasters.MAX_PIXELS", 100)
    with pytest.raises(BadInputError, match="at most 100 in all"):
        read_image(save(tmp_path / "large.png", ramp(np.uint8)))
    monkeypatch.setattr("client.rasters.MAX_STACK_PIXELS", 1000)
    with pytest.raises(BadInputError, match="2 pages of 20x30: at most"):
        read_stack(save(tmp_path / "long.tif", ramp(np.uint8), ramp(np.uint8)))
    monkeypatch.undo()
    with pytest.raises(BadInputError, match="another size or depth"):
        read_stack(save(tmp_path / "mixed.tif", ramp(np.uint8), ramp(np.uint16)))


@pytest.mark.parametrize("name", ["in.png", "in.tif"])
@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path, name, seed):
    raw = bytearray(save(tmp_path / name, ramp(np.uint16)).read_bytes())
    randomness = np.random.default_rng(seed)
    if seed % 2 == 0:
        raw = raw[: randomness.integers(9, len(raw) // 2)]
    for _ in range(8):
        raw[randomness.integers(8, len(raw))] = randomness.integers(256)
    (tmp_path / name).write_bytes(raw)
    try:
        image = read_image(tmp_path / name)
    except BadInputError:
        return  # anything else fails the test
    assert image.pixels.isfinite().all()
