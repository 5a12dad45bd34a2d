"""Reading pictures and masks as people have them, and drawing a mask over a picture.

A picture is read wholly, by its content and not by its name; what cannot be read is told as what it is.  Numbers of 16
bits and floating point are scaled by their range, so that grey stays grey.
"""

from __future__ import annotations

import contextlib
import logging
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import binary_dilation, binary_erosion

from cpam_bench.imba.errors import UserError

with contextlib.suppress(ImportError):  # where it is installed, pictures of iPhones are read like others
    from pillow_heif import register_heif_opener

    register_heif_opener()

# Pillow tells Python's own log of odd metadata, which says nothing to a user; its size limit is ours, below.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Extensions under which pictures are looked for."""

MAX_PIXELS = 64_000_000
"""Pixels that a picture may have: 8000 x 8000.  One more costs over a gigabyte before it is made small."""

_ORIENTATION = 0x0112  # EXIF tag

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises of a picture that is damaged, or is none: any of these, depending on the format and the place."""

_SEVERAL = "several pictures"
"""Key of a decoded picture's ``info``: whether its file holds more than one."""

_UPRIGHT = "upright"
"""Key of a decoded picture's ``info``: whether its file is HEIC, which no library gives as it is stored."""

_TURNED = "turned"
"""Key of a decoded TIFF's ``info``: the orientation by which Pillow has turned it."""

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def read_picture(path: Path, what: str) -> Image.Image:
    """Decode a picture wholly, so that damage is found here and not later.

    Args:
        path: the file.
        what: whose picture it is, for the message (``sample dog: image``).

    Raises:
        UserError: the file is missing, not a regular file, not a picture, damaged, cut short, or larger than
            :data:`MAX_PIXELS`.
    """
    try:
        if not is_regular(path):
            there = path.exists()
            raise UserError(
                f"{what} {path} is no regular file. Put a picture there."
                if there
                else f"{what} {path} does not exist. Put the file there."
            )
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise UserError(f"{what} {path} {too_large(f'{file.width} x {file.height} pixels')}. Make it smaller.")
            several = getattr(file, "n_frames", 1) > 1 and file.format != "MPO"  # phones add a preview to a JPEG
            picture = _as_stored(file).copy()
            picture.info[_SEVERAL], picture.info[_UPRIGHT] = several, file.format == "HEIF"
            return picture
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        size = f"{pixels[0] if pixels else 'too many'} pixels"
        raise UserError(f"{what} {path} {too_large(size)}. Make it smaller.") from error
    except DAMAGE as error:
        raise UserError(_unreadable(what, path, error)) from error


def decoded(picture: Image.Image, what: str) -> Image.Image:
    """A picture in memory, decoded wholly; one out of a table is decoded here.

    Raises:
        UserError: it is damaged.
    """
    try:
        return _as_stored(picture)
    except DAMAGE as error:
        raise UserError(f"{what} is damaged or cut short ({error}). Fetch the data set again.") from error


def _as_stored(file: Image.Image) -> Image.Image:
    """A picture's pixels as they are stored, decoded; Pillow turns TIFF files, and no others, by their orientation."""
    turn = file.info.get(_TURNED) or orientation(file)
    file.load()
    if orientation(file) == turn:
        return file
    file.info[_TURNED] = turn
    stored = file.transpose(_TURNS[_BACK.get(turn, turn)])
    exif = Image.Exif()
    exif[_ORIENTATION] = turn
    stored.info = {**file.info, "exif": exif.tobytes()}
    return stored


def too_large(size: str) -> str:
    """What is said of a picture of more than :data:`MAX_PIXELS`."""
    return f"has {size}, more than the {MAX_PIXELS:,} that are read"


def unread_heic(head: bytes) -> str:
    """What is said of a file that begins like HEIC, where that is not read; else nothing."""
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIC or "HEIF" in Image.OPEN:
        return ""
    return "is HEIC, which Pillow alone does not read. Save it as PNG or JPEG, or: pip install pillow-heif"


def _unreadable(what: str, path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{what} {path} cannot be read ({error.strerror}). Check its permissions."
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(16)
        if words := unread_heic(head):
            return f"{what} {path} {words}"
        if not head:
            return f"{what} {path} cannot be read: it is empty. Fetch it again."
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return (
        f"{what} {path} cannot be read: it is damaged, cut short or not a picture ({reason}). Fetch it again, or"
        " save it as PNG."
    )


def is_regular(path: Path) -> bool:
    """Whether a path is a regular file, or a link to one: a pipe would be waited for without end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # not there, a name too long, a loop of links
        return False


def to_rgb(picture: Image.Image) -> Image.Image:
    """A picture as 8-bit RGB; more bits and floating point are scaled by their range, an alpha channel is dropped.

    White is 65535 for 16 bits; for floating point it is the least of 1, 255 and 65535 that holds the values, or else
    the largest; for 32 bits the least of 255, 65535 and 2^31 - 1.  What is below zero or no number is black.
    """
    if not _is_deep(picture):
        return picture.convert("RGB")
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=0.0)
    scaled = (values * (255 / _top(picture, values))).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I")


def _top(picture: Image.Image, values: np.ndarray) -> float:
    """The value that is white."""
    if picture.mode.startswith("I;16"):
        return 65535.0
    finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else 1.0
    steps = (1.0, 255.0, 65535.0, largest) if picture.mode == "F" else (255.0, 65535.0, 2.0**31 - 1)
    return next(step for step in steps if largest <= step)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as every viewer shows it, by its EXIF orientation (all eight, mirrored ones too)."""
    if orientation(picture) == 1:
        return picture
    try:
        return ImageOps.exif_transpose(picture)
    except DAMAGE:  # what else the block holds cannot be written back
        turned = picture.copy()
        turned.info = {}
        method = _TURNS[orientation(picture)]
        return turned.transpose(method)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright."""

_BACK = {6: 8, 8: 6}
"""The orientations that are not undone by themselves, and by what they are."""


def taken(picture: Image.Image) -> str | None:
    """What was taken of a picture that is more than 8-bit RGB or grey, in words; None if there is nothing to say."""
    if picture.info.get(_UPRIGHT):
        return "is HEIC: it is taken turned upright, as viewers show it, whatever is stored"
    if picture.info.get(_SEVERAL):
        return "is animated, or holds several pictures: the first is taken"
    if picture.mode == "CMYK":
        return "is CMYK: it is turned into RGB without its colour profile"
    if _is_deep(picture):
        return "has more than 8 bits: it is scaled by its range to 8 bits"
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if (alpha < 255).any():
            return "is transparent in places: the colours stored there are taken"
    if picture.mode in ("P", "PA"):
        return "has a palette: its colours are taken"
    return None


@dataclass(frozen=True)
class MaskFile:
    """A mask in a picture file: white is inside.

    Attributes:
        path: the file.
        threshold: inside is what lies above it, on the scale 0 to 255; None is :attr:`usual`.
        turn: turn it upright by its EXIF orientation, as its picture is.
    """

    path: Path
    threshold: int | None = None
    turn: bool = False

    usual: ClassVar[int] = 127
    """The threshold where none is given: the middle."""

    def read(self, what: str) -> np.ndarray:
        """The mask: bool (H, W), True inside.

        Args:
            what: whose mask it is, for messages.

        Raises:
            UserError: the file is missing or damaged.
        """
        inside: np.ndarray = self.levels(what) > (self.usual if self.threshold is None else self.threshold)
        return inside

    def levels(self, what: str) -> np.ndarray:
        """The mask's values on the scale 0 to 255: (H, W)."""
        stored = read_picture(self.path, what)
        return self.channel(stored_values(upright(stored) if self.turn else stored))

    def channel(self, values: np.ndarray) -> np.ndarray:
        """The one channel that says what is inside, of stored values (H, W) or (H, W, C): the brightest colour."""
        if values.ndim == 2:
            return values
        colours = values.shape[2] - 1 if values.shape[2] in (2, 4) else values.shape[2]
        return np.asarray(values[..., :colours].max(-1))


def stored_values(picture: Image.Image) -> np.ndarray:
    """A mask's values as stored, on the scale 0 to 255: (H, W) or (H, W, C); one of zeros and ones has 255 for one."""
    # A palette's indices say nothing about its colours.
    values = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    if _is_deep(picture):
        return values * (255 / _top(picture, values.astype(np.float64)))
    if values.dtype == bool or (values.size and values.max() == 1):
        return values.astype(np.uint8) * 255
    return values


OUTLINE: tuple[tuple[int, int, int], tuple[int, int, int]] = ((255, 255, 0), (0, 0, 0))
"""Colours of an outline's inner and outer line: one of them is seen on any ground."""


def outline(mask: np.ndarray, width: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The two lines of a mask's outline, each ``width`` pixels: just inside of it and just outside, bool (H, W)."""
    inner = mask & ~binary_erosion(mask, iterations=width, border_value=1)
    return inner, binary_dilation(mask, iterations=width) & ~mask


def overlay(picture: Image.Image, mask: np.ndarray, share: float = 0.4) -> Image.Image:
    """The picture with the mask, bool (H, W) of any size, in red with an outline in two tones.

    ``share`` is how much of the red covers what is inside.
    """
    inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.NEAREST)
    pixels = np.asarray(picture.convert("RGB")).astype(float)
    marked = np.asarray(inside) > 127
    pixels[marked] = (1 - share) * pixels[marked] + share * np.array([230, 40, 60])
    for line, colour in zip(outline(marked, max(1, round(max(picture.size) / 256))), OUTLINE, strict=True):
        pixels[line] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))


def files_like(path: Path) -> Iterator[Path]:
    """Files beside a missing one that may be meant: the same stem in another case or under another suffix."""
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return
    for other in beside:
        if other.stem.casefold() == path.stem.casefold() and is_regular(other):
            yield other
