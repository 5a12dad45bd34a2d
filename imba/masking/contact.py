"""All our masks at a glance: ``python -m cpam_bench.imba.masking.contact IMAGES docs/pictures/masks.jpg``."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.masking import recipes
from cpam_bench.imba.pictures import overlay, read_picture

COLUMNS = 8
EDGE = 224
LINE = 18


def contact_sheet(images: Path, masks: Path = recipes.MASKS) -> Image.Image:
    """Every photograph with its mask and the mask's name, ``COLUMNS`` in a row.

    Args:
        images: folder of IMBA's photographs.
        masks: folder of drawings and their masks.

    Raises:
        UserError: a photograph, a drawing or a mask is missing or damaged.
    """
    drawings = [(path, recipes.read(path)) for path in sorted(masks.glob("*.json"))]
    rows = -(-len(drawings) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (EDGE + 4) + 4, rows * (EDGE + LINE + 4) + 4), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for index, (path, drawing) in enumerate(drawings):
        left, top = 4 + index % COLUMNS * (EDGE + 4), 4 + index // COLUMNS * (EDGE + LINE + 4)
        picture = read_picture(images / drawing.images[0], "photograph").convert("RGB")
        mask = read_picture(path.with_suffix(".png"), "mask").convert("L")
        scale = EDGE / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        small = np.asarray(mask.resize(size, Image.Resampling.BOX)) > 127
        sheet.paste(overlay(picture.resize(size, Image.Resampling.LANCZOS), small, 0.25), (left, top))
        draw.text((left, top + EDGE + 2), path.stem, fill="black", font=font)
    return sheet


def main() -> None:
    """Write the contact sheet of our masks as a JPEG file."""
    parser = argparse.ArgumentParser(prog="python -m cpam_bench.imba.masking.contact", description=main.__doc__)
    parser.add_argument("images", type=Path, help="folder of IMBA's photographs")
    parser.add_argument("out", type=Path, help="the file to write")
    given = parser.parse_args()
    buffer = io.BytesIO()
    contact_sheet(given.images).save(buffer, "JPEG", quality=88, optimize=True)
    write_atomic(given.out, buffer.getvalue())


if __name__ == "__main__":
    main()
