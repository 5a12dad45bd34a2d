"""Which editors there are, and how a label on the command line becomes one.

``NAME=FOLDER`` asks for pictures that were made elsewhere, whose label is NAME; any other label is ``NAME:KEY=VALUE``
(:mod:`cpam_bench.imba.common.labels`) of an installed editor.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from cpam_bench.imba.common.labels import split
from cpam_bench.imba.common.plugins import Group
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cpam_bench.baselines.imported import Imported
    from cpam_bench.cpam.editing import Editor
    from cpam_bench.imba.sample import Sample


def _capabilities(editor: type[Editor]) -> str:
    from cpam_bench.cpam.editing import Capabilities

    found = editor.capabilities
    return "" if isinstance(found, Capabilities) else f"its capabilities must be Capabilities, and are {found!r:.80}"


EDITORS: Group[Editor] = Group(
    "cpam_bench.editors",
    "method",
    facts={"name": str, "title": str, "capabilities": object, "reference": str, "edits": bool},
    methods=("edit",),
    check=_capabilities,
)
"""Editing methods; :class:`cpam_bench.cpam.editing.Editor` says what one is."""

REFERENCES = ("identity", "reconstruction", "ddim", "ddim-paste")
"""Methods that bound the scale; a run shows them beside the ones asked for."""

Panel = Literal["whole", "last"]
"""What of a ready-made picture is the edit."""

_IMPORTED = re.compile(r"(\w[\w .+-]*)=(.+)")
"""``NAME=FOLDER``; a label with parameters has a colon before its first equals sign."""


def load_all() -> tuple[dict[str, type[Editor]], dict[str, str]]:
    """All editors that load, reference rows last, and for those that do not: name -> what is wrong."""
    editors, broken = EDITORS.load_all()
    return dict(sorted(editors.items(), key=lambda item: not item[1].edits)), broken


def choose(methods: str) -> tuple[dict[str, Editor], list[str]]:
    """Canonical label -> editor of a comma-separated list, and what is wrong with installed editors that cannot load.

    ``all`` stands for every installed editor that edits; one that the list also names itself is only taken as named.

    Raises:
        UserError: unknown method or parameter, or a value that does not fit.
    """
    labels = split(methods)
    problems: list[str] = []
    if "all" in labels:
        installed, broken = load_all()
        problems = list(broken.values())
        named = {label.partition(":")[0] for label in labels}
        rest = [name for name, editor in installed.items() if editor.edits and name not in named]
        place = labels.index("all")
        labels = [label for label in [*labels[:place], *rest, *labels[place:]] if label != "all"]
    for label in labels:
        if is_imported(label):
            raise UserError(
                f"unknown method {label!r}; parameters are set as in cpam:guidance=5,"
                f" and ready-made pictures join with --import {label}"
            )
    return dict(make(label) for label in labels), problems


def needs_mask(editor: Any) -> bool:
    """Whether an editor cannot edit without a mask: its class says so, or its switch ``masked`` is on."""
    return bool(getattr(editor, "needs_mask", getattr(editor, "masked", False)))


def refusal(editor: Any, family: str) -> str:
    """Why an editor does not run on a family of backbones; empty if it does."""
    return str(getattr(editor, "refuses", {}).get(family, ""))


def leave_out_refused(editors: dict[str, Editor], backbone: str, family: str) -> list[str]:
    """Take out the methods that do not run on a backbone; returns what to say of each.

    Raises:
        UserError: no method is left that edits.
    """
    gone = {label: reason for label, editor in editors.items() if (reason := refusal(editor, family))}
    for label in gone:
        del editors[label]
    told = [f"left out: {label} does not run on {backbone}: {reason}" for label, reason in gone.items()]
    if gone and not any(editor.edits for editor in editors.values()):
        raise UserError("\n".join([*told, "no method is left; name others"]))
    return told


def leave_out_without_masks(editors: dict[str, Editor], samples: Sequence[Sample]) -> list[str]:
    """Take out the methods that need a mask where samples have none; returns what to say of each.

    Raises:
        UserError: no method is left that edits.
    """
    bare = [sample.id for sample in samples if sample.region is None]
    gone = [label for label, editor in editors.items() if bare and needs_mask(editor)]
    for label in gone:
        del editors[label]
    if gone and not any(editor.edits for editor in editors.values()):
        raise UserError(
            f"{', '.join(gone)} need a mask, and {len(bare)} of {len(samples)} samples have none ({bare[0]} first);"
            " give the data set masks, or name other methods"
        )
    lack = f"{len(bare)} of {len(samples)} samples have none ({bare[0]} first)" if bare else ""
    return [f"left out: {label} needs a mask, and {lack}" for label in gone]


def imported(label: str, panel: Panel = "whole") -> Imported:
    """The editor that hands out ready-made pictures, of ``NAME=FOLDER``; of strips, their last panel.

    Raises:
        UserError: it is something else, the name is an installed method's, or the folder holds no pictures.
    """
    from cpam_bench.baselines.imported import Imported

    match = _IMPORTED.fullmatch(label)
    if not match:
        raise UserError(f"{label!r} is not NAME=FOLDER; a name has letters, digits, spaces, '.', '_', '+' and '-'")
    name, folder = match.groups()
    if name.lower() in {installed.lower() for installed in EDITORS.entry_points()}:
        raise UserError(f"--import {label}: {name} is an installed method; choose another name")
    return Imported(name, folder, panel)


def is_imported(label: str) -> bool:
    """Whether a label asks for ready-made pictures."""
    return _IMPORTED.fullmatch(label.strip()) is not None


def make(label: str, panel: Panel = "whole") -> tuple[str, Editor]:
    """The canonical label and the editor that a label describes; ``panel`` is of ready-made pictures.

    Raises:
        UserError: unknown method or parameter, or a value that does not fit; the message lists what there is.
    """
    if is_imported(label):
        ready_made = imported(label.strip(), panel)
        return ready_made.called, ready_made
    return EDITORS.make(label)


def inputs(editor: Any, sample: Sample) -> dict[str, Any]:
    """What an edit is made from besides its sample and parameters: files and their hashes, where an editor says so."""
    from cpam_bench.cpam.editing import ReadsFiles
    from cpam_bench.eval.methods import from_file

    file = from_file.of(editor)
    own = {"method_file": file.name, "method_file_sha256": file.sha256} if file else {}
    return own | (dict(editor.inputs(sample)) if isinstance(editor, ReadsFiles) else {})
