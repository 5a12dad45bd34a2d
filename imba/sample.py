"""One editing task of IMBA."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.kinds import Altered, Kind
from cpam_bench.imba.masking.made import Origin

__all__ = ["Altered", "Kind", "Sample", "read_picture"]


@dataclass(frozen=True)
class Sample:
    """An image, what to alter in it, and what to make of it (Section 5.2).

    Attributes:
        id: stable, unique in its data set, and safe as a file name.
        image: the picture to edit, as a file or in memory.
        mask: the *object's* mask as the data set stores it, as a file or a bool array (H, W), or None if missing;
            :meth:`read_mask` gives the region to alter.
        target_prompt: the prompt P_t.
        object_prompt: the words of P_t that name the edited object.
        altered: the release's field ``object``.
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
    """

    id: str
    image: Path | Image.Image
    mask: Path | np.ndarray | None
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

    def read_image(self) -> Image.Image:
        """The picture as RGB, in its own size; an alpha channel is dropped, as the release does.

        The format is told from the content, not from the extension, and an EXIF rotation is not applied (the release
        applies none, and the masks are drawn on the pixels as stored).

        Raises:
            UserError: the file is missing, damaged or cut short.
        """
        if isinstance(self.image, Image.Image):
            return self.image.convert("RGB")
        return read_picture(self.image, f"sample {self.id}: image").convert("RGB")

    def read_mask(self) -> np.ndarray:
        """The alteration mask M_s: bool (H, W), True where the picture is to change; the background is its complement.

        The layout's rule: the object is where the stored mask is not zero, in the green channel if it has more than
        three channels, else in the first.  For ``background`` samples M_s is the complement of the object.

        Raises:
            UserError: there is no mask, or its file is missing or damaged.
        """
        values = self._mask_values()
        if values.ndim == 3:
            values = values[..., 1 if values.shape[2] > 3 else 0]
        if values.ndim != 2:
            raise UserError(f"sample {self.id}: a mask is an array (H, W), and this one has shape {values.shape}.")
        inside: np.ndarray = values != 0
        return ~inside if self.altered == "background" else inside

    def _mask_values(self) -> np.ndarray:
        if self.mask is None:
            raise UserError(f"sample {self.id} has no mask. Draw one: a PNG of the image's size, white on the object.")
        if not isinstance(self.mask, Path):
            return np.asarray(self.mask)
        stored = read_picture(self.mask, f"sample {self.id}: mask")
        # A palette's indices say nothing about its colours.
        return np.asarray(stored.convert("RGB") if stored.mode == "P" else stored)

    def read_truth(self) -> Image.Image | None:
        """The picture that the edit should have led to as RGB, or None where it is not known.

        Raises:
            UserError: the file is missing, damaged or cut short.
        """
        if self.truth is None or isinstance(self.truth, Image.Image):
            return self.truth and self.truth.convert("RGB")
        return read_picture(self.truth, f"sample {self.id}: truth").convert("RGB")

    def loaded(self) -> Sample:
        """The same sample with its pictures in memory: it can be sent to a machine that does not have the files.

        Raises:
            UserError: one of its files is missing, damaged or cut short.
        """
        mask = None if self.mask is None else self._mask_values()
        name = self.image.name if isinstance(self.image, Path) else self.file_name
        return replace(self, image=self.read_image(), mask=mask, truth=self.read_truth(), file_name=name)


# Pillow raises any of these on damage, depending on the format and on where the file breaks off.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


def read_picture(path: Path, what: str) -> Image.Image:
    """Decode a picture wholly, so that damage is found here and not later.

    Args:
        path: the file.
        what: whose picture it is, for the message (``sample dog: image``).

    Raises:
        UserError: the file is missing, not a picture, damaged or cut short.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return file.copy()
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist. Put the file there.") from None
    except _DAMAGE as error:
        raise UserError(
            f"{what} {path} cannot be read: it is damaged, cut short or not a picture ({error}). Fetch it again."
        ) from error
