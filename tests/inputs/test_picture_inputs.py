"""Pictures as people have them: what is read, and what is said."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_data import box, noise, record, release
from PIL import Image

from cpam_bench.imba import pictures
from cpam_bench.imba.dataset import load, require_complete, summarize, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import packed_picture
from cpam_bench.imba.masking.drawn import from_file
from cpam_bench.imba.pictures import read_picture, to_rgb, upright
from cpam_bench.imba.sample import Sample

RAMP = np.arange(256, dtype=np.float64)[None].repeat(4, 0) / 255
"""All grey values from black to white."""


def said(root: Path) -> list[str]:
    """What is wrong with a data set, a line each."""
    return summarize(validate(load(root)), 2)


# ---------------------------------------------------------------------------------------------------- depth


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grey16.png", (RAMP * 65535).astype(np.uint16)),
        ("grey16.tiff", (RAMP * 65535).astype(np.uint16)),
        ("float1.tiff", RAMP.astype(np.float32)),
        ("float255.tiff", (RAMP * 255).astype(np.float32)),
        ("int32.tiff", (RAMP * 65535).astype(np.int32)),
    ],
)
def test_more_than_eight_bits_are_scaled_by_their_range(tmp_path: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / name)
    picture = Sample("s", tmp_path / name, None, "p").read_image()
    assert picture.mode == "RGB"
    levels = np.asarray(picture)[0, :, 0].astype(int)
    assert len(set(levels.tolist())) == 256 and np.abs(levels - np.arange(256)).max() <= 1


def test_values_that_are_no_numbers_are_black(tmp_path: Path) -> None:
    values = np.array([[0.5, np.nan, np.inf, -np.inf, -1, 1]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert np.asarray(to_rgb(Image.open(tmp_path / "a.tiff")))[0, :, 0].tolist() == [128, 0, 255, 0, 0, 255]


# ---------------------------------------------------------------------------------------------------- orientation

TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""EXIF orientation -> how the stored pixels (H, W, 3) are shown."""


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_all_orientations_are_turned_as_viewers_do(tmp_path: Path, format: str, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    path = tmp_path / f"a.{format.lower()}"
    options = {"lossless": True} if format == "WEBP" else {}
    noise((24, 16)).save(path, format, exif=exif, **options)
    picture = read_picture(path, "picture")
    stored = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(upright(picture).convert("RGB")), TURNS.get(value, TURNS[1])(stored))
    # A data set's pictures stay as they are stored, as the release's do.
    np.testing.assert_array_equal(np.asarray(Sample("s", path, None, "p").read_image()), stored)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("value", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_tiff_which_pillow_turns_by_itself_is_no_exception(tmp_path: Path, value: int, compression: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    stored = np.asarray(noise((24, 16)))
    noise((24, 16)).save(tmp_path / "a.tiff", exif=exif, compression=compression)
    picture = read_picture(tmp_path / "a.tiff", "picture")
    np.testing.assert_array_equal(np.asarray(upright(picture)), TURNS[value](stored))
    in_a_table = Sample("s", Image.open(tmp_path / "a.tiff"), None, "p")
    for sample in (Sample("s", tmp_path / "a.tiff", None, "p"), in_a_table, in_a_table):  # also when read again
        np.testing.assert_array_equal(np.asarray(sample.read_image()), stored)
        assert pictures.orientation(sample.open_image()) == value


def damaged_exif(path: Path) -> None:
    noise((20, 16)).save(path, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 3)


def test_a_damaged_exif_block_is_none(tmp_path: Path) -> None:
    release(tmp_path, record("dog.jpg"))
    damaged_exif(tmp_path / "images" / "dog.jpg")
    assert not [line for line in said(tmp_path) if "damaged" in line]
    assert len(require_complete(load(tmp_path))) <= 1
    picture = read_picture(tmp_path / "images" / "dog.jpg", "picture")
    assert pictures.orientation(picture) == 1 and upright(picture).size == (20, 16)


def test_a_mask_of_the_turned_size_is_not_to_be_resized(tmp_path: Path) -> None:
    release(tmp_path, record("dog.jpg"), size=(16, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((20, 16)).save(tmp_path / "images" / "dog.jpg", exif=exif)
    (line,) = [line for line in said(tmp_path) if "mask" in line.partition("(")[0]]
    assert "16 x 20 pixels, as its image is when it is turned upright" in line
    assert "Save both upright" in line and "do not resize" in line


def test_a_mask_that_lies_on_its_side_is_not_to_be_resized(tmp_path: Path) -> None:
    release(tmp_path)
    Image.fromarray(box().T).save(tmp_path / "masks" / "dog.png")
    (line,) = said(tmp_path)
    assert "the mask is 16 x 20 pixels, and its image the other way round" in line and "do not resize" in line
    with pytest.raises(UserError, match="16 x 20 pixels and its picture, upright, 20 x 16; turn .* do not resize"):
        from_file(tmp_path / "masks" / "dog.png", (20, 16))


# ---------------------------------------------------------------------------------------------------- what was taken


def _cmyk(path: Path) -> None:
    noise().convert("CMYK").save(path, "JPEG")


def _palette(path: Path) -> None:
    noise().quantize(16).save(path, "PNG")


def _animated(path: Path) -> None:
    noise().save(path, "GIF", save_all=True, append_images=[noise(seed=1)])


def _transparent(path: Path) -> None:
    picture = noise().convert("RGBA")
    picture.putalpha(Image.fromarray(np.tile(np.array([0, 255] * 10, np.uint8), (16, 1))))
    picture.save(path, "PNG")


def _deep(path: Path) -> None:
    Image.fromarray(np.full((16, 20), 30000, np.uint16)).save(path, "PNG")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_cmyk, "is CMYK: it is turned into RGB"),
        (_palette, "has a palette: its colours are taken"),
        (_animated, "is animated, or holds several pictures: the first is taken"),
        (_transparent, "is transparent in places: the colours stored there are taken"),
        (_deep, "has more than 8 bits: it is scaled by its range"),
    ],
)
def test_one_line_says_what_was_taken(tmp_path: Path, make, words: str) -> None:  # type: ignore[no-untyped-def]
    release(tmp_path)
    make(tmp_path / "images" / "dog.png")
    (warning,) = require_complete(load(tmp_path))
    assert words in warning.what
    assert load(tmp_path).samples[0].read_image().mode == "RGB"


# ---------------------------------------------------------------------------------------------------- no pictures


def test_heic_is_told_by_its_brand_and_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()  # now, or its formats would be lost with the list that is put in the place of this one
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # what pillow-heif adds
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    release(tmp_path)
    (tmp_path / "images" / "dog.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (line,) = said(tmp_path)
    assert "HEIC" in line and "pip install pillow-heif" in line and "damaged" not in line and "Fetch" not in line
    with pytest.raises(ValueError, match="the image in the table is HEIC.*pip install pillow-heif"):
        packed_picture({"bytes": (tmp_path / "images" / "dog.png").read_bytes()})


@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 48)), (6, (48, 64)), (8, (48, 64))])
def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    stored = Image.new("RGB", (64, 48), (20, 200, 40))
    stored.paste((250, 10, 10), (0, 0, 32, 24))  # the corner that is first in the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    pillow_heif.from_pillow(stored).save(tmp_path / "phone.heic", quality=95, exif=exif.tobytes())
    picture = to_rgb(upright(read_picture(tmp_path / "phone.heic", "picture")))
    assert picture.size == size
    corners = {1: (4, 4), 6: (size[0] - 4, 4), 8: (4, size[1] - 4)}
    red, green, _ = picture.getpixel(corners[orientation])
    assert red > 200 and green < 60
    (tmp_path / "phone.heic").write_bytes((tmp_path / "phone.heic").read_bytes()[:300])
    with pytest.raises(UserError, match="damaged, cut short"):
        read_picture(tmp_path / "phone.heic", "picture")


def test_heic_in_a_data_set_is_upright_and_a_line_says_so(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    release(tmp_path, size=(48, 64))  # the mask is drawn on the picture as it is shown
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(noise((64, 48))).save(tmp_path / "images" / "dog.png", exif=exif.tobytes())
    (warning,) = require_complete(load(tmp_path))
    assert "is HEIC: it is taken turned upright, as viewers show it" in warning.what
    assert load(tmp_path).samples[0].read_image().size == (48, 64)
    Image.fromarray(box((64, 48))).save(tmp_path / "masks" / "dog.png")
    assert any("the other way round" in line and "do not resize" in line for line in said(tmp_path))


def bomb(path: Path, edge: int) -> None:
    """A PNG of edge x edge black pixels in a few bytes a row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(64))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("edge", "size"), [(9000, "9000 x 9000 pixels"), (20000, "400000000 pixels")])
def test_a_bomb_is_told_with_its_size_and_the_limit(tmp_path: Path, edge: int, size: str) -> None:
    bomb(tmp_path / "a.png", edge)
    with pytest.raises(UserError, match=rf"picture .*a\.png has {size}, more than the 64,000,000 that are read"):
        read_picture(tmp_path / "a.png", "picture")
    with pytest.raises(ValueError, match=r"the image in the table (has 9000 x 9000 pixels, more|is damaged)"):
        packed_picture((tmp_path / "a.png").read_bytes())


@pytest.mark.parametrize(
    "format", ["AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "WEBP"]
)
def test_damage_of_any_kind_is_an_error_or_a_picture(tmp_path: Path, format: str) -> None:
    noise((32, 32)).save(tmp_path / "whole", format)
    whole = (tmp_path / "whole").read_bytes()
    random = np.random.default_rng(0)
    told = 0
    for number in range(90):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[random.integers(len(data)) :]
        for place in random.integers(0, (len(data), 200)[number % 2] or 1, 6 if number % 3 else 0):
            data[place % len(data)] ^= 1 << random.integers(8)
        (tmp_path / "damaged").write_bytes(data)
        try:
            picture = read_picture(tmp_path / "damaged", "picture")
        except UserError as error:
            told += str(tmp_path / "damaged") in str(error)
        else:
            pictures.taken(picture)
            assert to_rgb(upright(picture)).mode == "RGB"
    assert told > 10


@pytest.mark.parametrize("kind", ["image", "mask", "records"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    release(tmp_path)
    name = {"image": "images/dog.png", "mask": "masks/dog.png", "records": "data.json"}[kind]
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    if kind == "records":
        with pytest.raises(UserError, match="no regular file"):
            load(tmp_path)
        return
    (problem,) = load(tmp_path).problems
    assert problem.what == f"the {kind} is no regular file" and problem.file == name
    with pytest.raises(UserError, match="no regular file"):
        read_picture(tmp_path / name, "picture")


def test_bad_pictures_cost_no_others(tmp_path: Path) -> None:
    names = ["empty.png", "text.png", "cut.png", "folder.png"]
    release(tmp_path, record("good.png"), *(record(name) for name in names))
    (tmp_path / "images" / "empty.png").write_bytes(b"")
    (tmp_path / "images" / "text.png").write_text("<html>404</html>")
    whole = (tmp_path / "images" / "cut.png").read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(whole[:200])
    (tmp_path / "images" / "folder.png").unlink()
    (tmp_path / "images" / "folder.png").mkdir()
    data = load(tmp_path)
    kept, errors = data.complete(validate(data))
    assert [sample.id for sample in kept] == ["good-a-photo-of-a-cat"]
    assert sorted(str(problem.file) for problem in errors) == sorted(f"images/{name}" for name in names)


def test_what_pillow_says_of_metadata_is_kept_from_the_terminal(tmp_path: Path) -> None:
    damaged_exif(tmp_path / "a.jpg")
    noise().quantize(8).save(tmp_path / "b.png", transparency=bytes(8))
    noise().save(tmp_path / "c.tiff")
    data = bytearray((tmp_path / "c.tiff").read_bytes())
    place = data.index(struct.pack("<HHI", 277, 3, 1))  # samples a pixel: Pillow logs that these are too many
    data[place + 8 : place + 10] = struct.pack("<H", 2051)
    (tmp_path / "c.tiff").write_bytes(data)
    # In a process of its own, for the tests show every warning.
    code = "import sys; from pathlib import Path; from cpam_bench.imba import pictures as p\n"
    code += "import logging\nlogging.basicConfig(level=logging.WARNING)\n"  # as the command line does
    code += "for name in sys.argv[1:]:\n try: x = p.read_picture(Path(name), 'x')\n except p.UserError: continue\n"
    code += " p.orientation(x); p.taken(x); p.to_rgb(x)"
    command = [sys.executable, "-c", code, tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "c.tiff"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_picture_in_a_table_is_told_like_a_file() -> None:
    buffer = io.BytesIO()
    noise((40, 40)).save(buffer, "PNG")
    cut = Image.open(io.BytesIO(buffer.getvalue()[:400]))
    with pytest.raises(UserError, match="sample s: image is damaged or cut short"):
        Sample("s", cut, None, "p").read_image()


# ---------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "BMP"])
def test_a_picture_is_what_it_holds_and_not_what_it_is_called(tmp_path: Path, kind: str) -> None:
    release(tmp_path, record("dog.png"))
    with Image.open(tmp_path / "images" / "dog.png") as file:
        picture = file.convert("RGB")
    lossless = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "WEBP": {"lossless": True}}
    picture.save(tmp_path / "images" / "dog.png", kind, **lossless.get(kind, {}))
    data = load(tmp_path)
    require_complete(data)
    read = np.asarray(data.samples[0].read_image()).astype(int)
    # Noise is the hardest for AVIF, which loses a little.
    assert np.abs(read - np.asarray(picture)).mean() < (4 if kind == "AVIF" else 1e-9)
