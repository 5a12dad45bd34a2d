"""TEdBench (Kawar et al. 2023) as it is published: 100 pictures with a target text each, without masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cpam_bench.imba.common.labels import parameter
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import Content, Files, Recognition, Refused, field_text, find, make_id
from cpam_bench.imba.layouts.release import read_records
from cpam_bench.imba.pictures import MaskFile
from cpam_bench.imba.problems import Problem
from cpam_bench.imba.sample import Sample

LISTED = "input_list.json"


@dataclass(frozen=True)
class TEdBench:
    """TEdBench: ``input_list.json`` (``img_name``, ``target_text``) and ``originals/``.

    Methods that need a mask leave it out, unless masks are given: ``<image's stem>.png`` or ``<sample's id>.png``, of
    what is to change.
    """

    name: ClassVar[str] = "tedbench"
    title: ClassVar[str] = "TEdBench: input_list.json and originals/, without masks"
    reference: ClassVar[str] = "Kawar et al. 2023, Imagic"

    masks: str = parameter("masks", "folder of masks inside the data set, if there are some", "ours")

    def recognises(self, root: Path) -> Recognition | None:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        listed, originals = (root / LISTED).exists(), (root / "originals").is_dir()
        if listed and originals:
            return Recognition(f"{LISTED} and originals/ are here")
        if listed:
            return Recognition(f"{LISTED} is here", "originals/, the folder of pictures, is not; put it there")
        if originals:
            return Recognition("originals/ is here", f"{LISTED}, the list of texts, is not; put it there")
        return None

    def read(self, root: Path) -> Content:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        raw = read_records(root / LISTED, root)
        if not (root / "originals").is_dir():
            raise UserError(f"{root} has {LISTED} and no folder originals/. Put TEdBench's pictures there.")
        files = Files(root, LISTED)
        samples: list[Sample] = []
        indices: list[int] = []
        taken: dict[str, tuple[str, str]] = {}
        for index, item in enumerate(raw):
            try:
                if not isinstance(item, dict):
                    raise ValueError(f"the record is a {type(item).__name__}, not an object")
                name, text = field_text(item, "img_name"), field_text(item, "target_text")
                if not name or not text:
                    raise ValueError("the record has no img_name or no target_text")
                id = make_id(name, text, taken)
                image = files.locate("originals", name, "image", "Put it there", record=index, sample=id)
                mask = self._mask(files, name, id, index)
            except ValueError as error:
                files.problems.append(Problem("error", str(error), "Mend the record", record=index, listed=LISTED))
                continue
            except Refused as refused:
                files.problems.append(refused.problem)
                continue
            indices.append(index)
            samples.append(Sample(id=id, image=image or root / "originals" / name, region=mask, target_prompt=text))
        return Content(samples, files.problems, raw, len(raw), indices)

    def _mask(self, files: Files, name: str, id: str, index: int) -> MaskFile | None:
        for stem in (id, Path(name).stem):
            path = files.root / self.masks / f"{stem}.png"
            if path.exists() or find(path.parent, path.name):
                found = files.locate(self.masks, path.name, "mask", "", record=index, sample=id)
                return MaskFile(found) if found else None
        return None
