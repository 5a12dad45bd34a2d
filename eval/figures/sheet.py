"""Pictures side by side: a row a sample, a column a method, titles above and a caption under each row."""

from __future__ import annotations

import re
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
    heads = [_wrap(title, font, edge) for title in titles]
    width = len(titles) * (edge + GAP) + GAP
    letters = max(20, int(width / (font.getlength("e") or 1)))
    captions = [textwrap.wrap(caption, letters) for _, caption in rows]
    top = GAP + line * max(map(len, heads))
    height = top + sum(edge + line * len(caption) + GAP for caption in captions)
    drawn = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(drawn)
    for column, head in enumerate(heads):
        for row, text in enumerate(head, start=-len(head)):  # the last line is next to the pictures
            place = (GAP + column * (edge + GAP) + edge / 2, top + row * line)
            draw.text(place, text, fill="black", font=font, anchor="ma")
    y = top
    for (pictures, _), caption in zip(rows, captions, strict=True):
        for column, picture in enumerate(pictures):
            scale = edge / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            drawn.paste(fitted, (GAP + column * (edge + GAP) + (edge - size[0]) // 2, y + (edge - size[1]) // 2))
        y += edge
        for text in caption:
            draw.text((GAP, y + 2), text, fill="black", font=font)
            y += line
        y += GAP
    return drawn


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The lines of a column's head; a label breaks after its commas and its colon."""
    lines = [""]
    for word in re.findall(r"[^\s,:]+[,:]?\s*", text) or [text]:
        if lines[-1] and font.getlength((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]
