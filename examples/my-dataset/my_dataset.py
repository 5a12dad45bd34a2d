"""A small layout: beside each picture ``NAME.jpg`` stand its prompt ``NAME.txt`` and its mask ``NAME.mask.png``.

After ``pip install examples/my-dataset``, ``cpam-bench run --dataset FOLDER`` recognises such a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cpam_bench.imba.common.labels import parameter
from cpam_bench.imba.layouts.layout import Content, Recognition
from cpam_bench.imba.pictures import MaskFile
from cpam_bench.imba.problems import Problem
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Sidecar:
    """Pictures with a text and a mask beside each."""

    name: ClassVar[str] = "sidecar"
    title: ClassVar[str] = "Sidecar: NAME.jpg, NAME.txt and NAME.mask.png side by side"
    reference: ClassVar[str] = "an example of cpam-bench"

    suffix: str = parameter(".jpg", "of the pictures", "the example")

    def recognises(self, root: Path) -> Recognition | None:
        texts = list(root.glob("*.txt")) if root.is_dir() else []
        pictures = [text for text in texts if text.with_suffix(self.suffix).is_file()]
        if pictures:
            return Recognition(f"{len(pictures)} of {len(texts)} texts have a picture beside them")
        return None

    def read(self, root: Path) -> Content:
        samples, problems, records = [], [], {}
        texts = sorted(root.glob("*.txt"))
        for text in texts:
            picture, mask = text.with_suffix(self.suffix), text.with_suffix(".mask.png")
            records[text.stem] = prompt = text.read_text(encoding="utf-8").strip()
            if not picture.is_file():
                problems.append(Problem("error", "the image is missing", "Put it there", text.stem, file=picture.name))
            if not mask.is_file():
                problems.append(Problem("error", "the mask is missing", "Draw it", text.stem, file=mask.name))
            samples.append(Sample(text.stem, picture, MaskFile(mask) if mask.is_file() else None, prompt))
        return Content(samples, problems, records, len(texts), list(range(len(texts))))
