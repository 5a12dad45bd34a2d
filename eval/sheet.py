"""Pictures side by side: a row a sample, a column a method, titles above and a caption under each row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 8


def sheet(titles: Sequence[str], rows: Sequence[tuple[Sequence[Image.Image], str]], edge: int = 256) -> Image.Image:
    """A sheet of pictures, RGB.

    Args:
        titles: of the columns.
        rows: pictures from left to right, and the caption under them; each picture fits a square of ``edge`` pixels.
    """
    font = ImageFont.load_default(size=max(12, edge // 14))
    line = int(font.getbbox("Ag")[3]) + 4
    step, letter = edge + GAP, font.getlength("e") or 1.0
    heads = [textwrap.wrap(title, max(8, int(edge / letter))) or [""] for title in titles]
    width = len(titles) * step + GAP
    captions = [textwrap.wrap(caption, max(20, int(width / letter))) for _, caption in rows]
    top = GAP + line * max(map(len, heads))
    height = top + sum(step + line * len(caption) for caption in captions)
    drawn = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(drawn)
    for column, head in enumerate(heads):
        for i, text in enumerate(head):
            draw.text((GAP + column * step + edge / 2, GAP / 2 + i * line), text, fill="black", font=font, anchor="mt")
    y = top
    for (pictures, _), caption in zip(rows, captions, strict=True):
        for column, picture in enumerate(pictures):
            scale = edge / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            drawn.paste(fitted, (GAP + column * step + (edge - size[0]) // 2, y + (edge - size[1]) // 2))
        y += edge
        for text in caption:
            draw.text((GAP, y + 2), text, fill="black", font=font)
            y += line
        y += GAP
    return drawn
