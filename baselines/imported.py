"""Pictures that another program has made, as a method beside the others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image

from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.imba.build import RENAMED
from cpam_bench.imba.common.hashes import digest
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pictures import SUFFIXES, read_picture
from cpam_bench.imba.sample import Sample

NAMING = "<sample id>.png, or <image>-<target text with _ for spaces>.png as TEdBench names Imagic's results"


@dataclass(frozen=True)
class Imported:
    """A folder of ready-made pictures, fitted to the backbone's resolution and else as they are.

    Its label is ``NAME=FOLDER``.  What the method can do and what an edit cost it is not known.

    Raises:
        UserError: the folder does not exist or holds no pictures.
    """

    name: ClassVar[str] = "imported"
    title: ClassVar[str] = "Imported pictures"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "pictures made elsewhere"
    capabilities: ClassVar[Capabilities] = Capabilities()

    called: str = parameter("imported", "how the method is called", "--import")
    folder: str = parameter(".", "where its pictures are", "--import")

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

    def inputs(self, sample: Sample) -> dict[str, str]:
        """The file that an edit is read from, and its hash."""
        path = self.picture(sample)
        return {"file": path.name, "file_sha256": str(digest(path))} if path else {}

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        path = self.picture(sample)
        if path is None:
            raise UserError(f"sample {sample.id}: {self.folder} has no picture of it; name it {NAMING}")
        picture = read_picture(path, f"sample {sample.id}: imported picture")
        if not picture.convert("RGB").getbbox():
            raise UserError(
                f"sample {sample.id}: the imported picture {path} is black all over, as a safety checker leaves it or"
                " NaN latents become; make it again without"
            )
        return source.backbone.fit(picture)


def _key(name: str) -> str:
    """What a file name says, whatever its case and however its words are joined."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")
