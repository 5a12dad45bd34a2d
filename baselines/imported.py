"""Pictures that another program has made, as a method beside the others."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image

from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.imba.build import RENAMED
from cpam_bench.imba.common.hashes import digest
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pictures import SUFFIXES, read_picture, to_rgb
from cpam_bench.imba.sample import Sample

NAMING = "<sample id>.png, or <image>-<target text with _ for spaces>.png as TEdBench names Imagic's results"


@dataclass(frozen=True)
class Imported:
    """A folder of ready-made pictures, fitted to the backbone's resolution and else as they are.

    It is asked for as ``NAME=FOLDER``, and its label is NAME: where a folder is on somebody's disk stands in no table.
    What the method can do and what an edit cost it is not known.

    Raises:
        UserError: the folder does not exist or holds no pictures.
    """

    name: ClassVar[str] = "imported"
    title: ClassVar[str] = "Imported pictures"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "pictures made elsewhere"
    capabilities: ClassVar[Capabilities] = Capabilities()

    called: str = parameter("imported", "how the method is called", "--import")
    folder: str = parameter(".", "where its pictures are", "--import", recorded=False)
    panel: Literal["whole", "last"] = parameter(
        "whole",
        "what of a picture is the edit: all of it, or the last of panels side by side",
        "--import-panel",
        later=True,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", f"{self.called} (imported)")
        if not Path(self.folder).is_dir():
            raise UserError(f"--import {self.called}: folder {self.folder} does not exist")
        if not self.pictures:
            raise UserError(f"--import {self.called}: folder {self.folder} holds no pictures ({', '.join(SUFFIXES)})")

    @cached_property
    def pictures(self) -> dict[str, list[Path]]:
        """The folder's pictures by what their names say."""
        found: dict[str, list[Path]] = {}
        for path in sorted(Path(self.folder).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                found.setdefault(_key(path.stem), []).append(path)
        return found

    def picture(self, sample: Sample) -> Path | None:
        """The picture of a sample, or None if there is none.

        Raises:
            UserError: there are several that differ.
        """
        keys = [_key(sample.id)]
        image = sample.image.name if isinstance(sample.image, Path) else sample.file_name
        if image:
            stem = Path(image).stem
            # TEdBench's names keep the image's extension, which is not always that of the benchmark's copy.
            names = [image, stem, *(f"{stem}{suffix}" for suffix in SUFFIXES)]
            names += [f"{RENAMED[stem]}{suffix}" for suffix in ("", *SUFFIXES) if stem in RENAMED]
            keys += [_key(f"{name}-{sample.target_prompt}") for name in names]
        found = next((self.pictures[key] for key in keys if key in self.pictures), [])
        if len(found) > 1 and len({digest(path) for path in found}) > 1:
            raise UserError(
                f"sample {sample.id}: several pictures of {self.folder} may be meant"
                f" ({', '.join(path.name for path in found)}); leave one there"
            )
        return found[0] if found else None

    def shape(self, sample: Sample, path: Path, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """What of a picture is the edit: left, top, right, bottom.

        A picture has the aspect of its source, or is the square that models edit; a strip of such panels is one only
        where that is said.

        Args:
            sample: whose it is.
            path: of the picture.
            size: its width and height.

        Raises:
            UserError: it has another aspect.
        """
        width, height = size
        source = sample.find_frame().size
        aspects = (source[0] / source[1], 1.0)
        if self.panel == "last":
            for aspect in aspects:
                panels = round(width / height / aspect)
                if panels > 1 and _alike(width / height, panels * aspect):
                    return width - round(width / panels), 0, width, height
        if any(_alike(width / height, aspect) for aspect in aspects):
            return 0, 0, width, height
        raise UserError(
            f"sample {sample.id}: {path} is {width} x {height} pixels, and its source {source[0]} x {source[1]}: it is"
            " no picture of that aspect. Give the edit alone; of a strip of panels --import-panel last takes the last"
        )

    def inputs(self, sample: Sample) -> dict[str, str]:
        """The file that an edit is read from, and its hash."""
        path = self.picture(sample)
        return {"file": path.name, "file_sha256": str(digest(path))} if path else {}

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        path = self.picture(sample)
        if path is None:
            raise UserError(f"sample {sample.id}: {self.called} has no picture of it; name it {NAMING}")
        stored = read_picture(path, f"sample {sample.id}: imported picture")
        picture = to_rgb(stored.crop(self.shape(sample, path, stored.size)))
        if picture.getbbox() is None:
            raise UserError(
                f"sample {sample.id}: the imported picture {path} is black all over, as a safety checker leaves it or"
                " NaN latents become; make it again without"
            )
        frame = sample.find_frame()
        if _alike(picture.width / picture.height, frame.size[0] / frame.size[1]):
            picture = frame.of(picture.size).take(picture)
        return source.backbone.fit(picture)


def _key(name: str) -> str:
    """What a file name says, whatever its case, its normal form of Unicode, and however its words are joined."""
    return re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", name).casefold()).strip("-")


def _alike(one: float, other: float) -> bool:
    return abs(one / other - 1) < 0.02  # sizes are rounded to eights of pixels
