"""One editing task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, get_args, runtime_checkable

import numpy as np
from PIL import Image

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.fit import Frame, find
from cpam_bench.imba.kinds import Altered, Fit, Kind
from cpam_bench.imba.masking.made import Origin
from cpam_bench.imba.pictures import MaskFile, decoded, read_picture, to_rgb

__all__ = ["Altered", "Kind", "Region", "Sample", "read_picture"]


@runtime_checkable
class Region(Protocol):
    """Where a sample's alteration mask is, and how its layout reads it."""

    def read(self, what: str) -> np.ndarray:
        """The alteration mask M_s: bool (H, W), True where the picture is to change.

        Args:
            what: whose mask it is, for messages (``sample dog: mask``).

        Raises:
            UserError: it is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """An image, what to alter in it, and what to make of it (Section 5.2).

    Attributes:
        id: stable, unique in its data set, and safe as a file name.
        image: the picture to edit, as a file or in memory.
        region: the alteration mask M_s: a bool array (H, W), a file whose white is to change, what a layout reads it
            by, or None if there is none.
        target_prompt: the prompt P_t.
        object_prompt: the words of P_t that name the edited object.
        altered: what the release's field ``object`` says; ``background`` where the background is to change.
        retain_object: whether the object's identity is to be kept (Eq. 2).
        kind: the kind of edit.
        source_prompt: a caption of the source, where the data set has one.
        several_objects: whether the image shows several objects of which one is edited.
        truth: the picture that the edit should have led to, as a file or in memory; only a rendered data set knows it.
        caption_by: the captioner that wrote ``source_prompt``, or None if the data set has it.
        file_name: of the image where it has been read into memory, else empty.
        mask_origin: how the mask was made, where the data set says so.
        edited_words: a word of ``source_prompt`` and one of ``target_prompt`` that name what is edited, where the data
            set annotates them (PIE-Bench's ``blended_word``).
        tags: what else the data set says of it, each ``NAME`` or ``NAME=VALUE``; ``--slice NAME`` slices by them.
        fit: how a picture that is not square becomes the square that is edited; what is read is fitted.
        frame: of a sample whose pictures in memory are fitted already: what of the whole picture they are.
    """

    id: str
    image: Path | Image.Image
    region: Path | np.ndarray | Region | None
    target_prompt: str
    object_prompt: str = ""
    altered: Altered = "foreground"
    retain_object: bool = False
    kind: Kind = "replace"
    source_prompt: str | None = None
    several_objects: bool = False
    truth: Path | Image.Image | None = None
    caption_by: str | None = None
    file_name: str = ""
    mask_origin: Origin | None = None
    edited_words: tuple[str, str] | None = None
    tags: tuple[str, ...] = ()
    fit: Fit = "squash"
    frame: Frame | None = None

    def __post_init__(self) -> None:
        for name, known in (("kind", Kind), ("altered", Altered), ("fit", Fit)):
            if (value := getattr(self, name)) not in get_args(known):
                raise UserError(
                    f"sample {self.id}: {name} is {value!r}, and must be one of {', '.join(get_args(known))}"
                )

    @property
    def region_file(self) -> Path | None:
        """The file that the region is read from, if it is one."""
        path = self.region if isinstance(self.region, Path) else getattr(self.region, "path", None)
        return path if isinstance(path, Path) else None

    def read_image(self) -> Image.Image:
        """The picture as RGB, in its own size or as :attr:`fit` has it; an alpha channel is dropped, as in the release.

        The format is told from the content, not from the extension, and an EXIF rotation is not applied (the release
        applies none, and the masks are drawn on the pixels as stored).

        Raises:
            UserError: the file is missing, damaged or cut short, or a crop would lose the region.
        """
        return self._fitted(to_rgb(self.open_image()))

    def open_image(self) -> Image.Image:
        """The picture as it is stored; see :meth:`read_image`."""
        what = f"sample {self.id}: image"
        return decoded(self.image, what) if isinstance(self.image, Image.Image) else read_picture(self.image, what)

    def find_frame(self) -> Frame:
        """What of the stored picture is edited.

        Raises:
            UserError: a file is missing or damaged, or a crop would lose what is marked: the object, which for a
                changed background is what stays.
        """
        if self.frame is not None:
            return self.frame
        marked = None if self.region is None or self.fit == "squash" else self._stored_mask()
        if marked is not None and self.altered == "background":
            marked = ~marked
        return find(self.open_image().size, self.fit, marked, f"sample {self.id}")

    def _fitted(self, picture: Image.Image) -> Image.Image:
        return picture if self.fit == "squash" else self.find_frame().of(picture.size).take(picture)

    def read_mask(self) -> np.ndarray:
        """The alteration mask M_s: bool (H, W), True where the picture is to change; the background is its complement.

        Raises:
            UserError: there is no mask, or its file is missing or damaged, or a crop would lose the region.
        """
        mask = self._stored_mask()
        return mask if self.fit == "squash" else self.find_frame().take_mask(mask)

    def _stored_mask(self) -> np.ndarray:
        if self.region is None:
            raise UserError(
                f"sample {self.id} has no mask. Draw one: a PNG of the image's size, white on what is marked."
            )
        if isinstance(self.region, np.ndarray):
            if self.region.ndim != 2:
                raise UserError(
                    f"sample {self.id}: a mask is an array (H, W), and this one has shape {self.region.shape}."
                )
            return self.region.astype(bool)
        region = MaskFile(self.region) if isinstance(self.region, Path) else self.region
        return region.read(f"sample {self.id}: mask")

    def read_truth(self) -> Image.Image | None:
        """The picture that the edit should have led to as RGB, or None where it is not known.

        Raises:
            UserError: the file is missing, damaged or cut short.
        """
        if self.truth is None:
            return None
        if isinstance(self.truth, Image.Image):
            return self._fitted(to_rgb(self.truth))
        return self._fitted(to_rgb(read_picture(self.truth, f"sample {self.id}: truth")))

    def loaded(self) -> Sample:
        """The same sample with its pictures in memory, fitted: it can go to a machine that does not have the files.

        Raises:
            UserError: one of its files is missing, damaged or cut short, or a crop would lose the region.
        """
        region = None if self.region is None else self.read_mask()
        name = self.image.name if isinstance(self.image, Path) else self.file_name
        frame = self.frame if self.fit == "squash" else self.find_frame()
        image, truth = self.read_image(), self.read_truth()
        return replace(self, image=image, region=region, truth=truth, file_name=name, fit="squash", frame=frame)
