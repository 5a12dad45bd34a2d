"""The words of IMBA's records; apart from samples, so that a command's help needs no pictures."""

from __future__ import annotations

from typing import Literal

Kind = Literal["replace", "pose", "background", "remove", "add"]
"""The kinds of edit of section 4.4: replace an object, change its pose or view, alter the background, remove an object,
modify a region or add an item."""

Altered = Literal["foreground", "object", "background"]
"""What the release's field ``object`` says is altered."""

Fit = Literal["squash", "crop", "pad"]
"""How a picture that is not square becomes the square that a model edits: squash the whole picture to one, as the
release does; crop one out of it; or pad it to one."""
