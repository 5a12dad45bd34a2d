"""The smallest layout that is of use: each picture with its prompt in a text file and its mask beside it.

``dog.png``, ``dog.txt`` and ``dog.mask.png``, white on what is to change, are a sample.  After ``pip install
examples/my-dataset``, ``cpam-bench run --dataset FOLDER`` knows such a folder by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cpam_bench.imba.common.labels import parameter
from cpam_bench.imba.layouts.layout import Content, Recognition
from cpam_bench.imba.problems import Problem
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Pairs:
    """Pictures with a text file each."""

    name: ClassVar[str] = "pairs"
    title: ClassVar[str] = "pictures, each with its prompt in a .txt and its mask in a .mask.png"
    reference: ClassVar[str] = "an example"

    suffix: str = parameter(".png", "of the pictures", "an example")

    def recognises(self, root: Path) -> Recognition | None:
        if not root.is_dir():
            return None
        texts = sorted(root.glob("*.txt"))
        pictures = [path for path in texts if path.with_suffix(self.suffix).is_file()]
        return Recognition(f"{pictures[0].stem}{self.suffix} has its prompt beside it") if pictures else None

    def read(self, root: Path) -> Content:
        samples: list[Sample] = []
        problems: list[Problem] = []
        records: dict[str, str] = {}
        for index, text in enumerate(sorted(root.glob("*.txt"))):
            image, mask = text.with_suffix(self.suffix), text.with_suffix(".mask.png")
            records[text.stem] = text.read_text(encoding="utf-8").strip()
            for path, what in ((image, "image"), (mask, "mask")):
                if not path.is_file():
                    missing = f"{path.name}, its {what}, is not there"
                    problems.append(Problem("error", missing, "Put it there", record=index, sample=text.stem))
            region = mask if mask.is_file() else None
            samples.append(Sample(id=text.stem, image=image, region=region, target_prompt=records[text.stem]))
        return Content(samples, problems, records, len(records), list(range(len(records))))
