"""Ready-made pictures in a run: which are missing, which are of no sample, and which have changed since."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from cpam_bench.baselines.imported import NAMING, Imported
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.pictures import DAMAGE, is_regular
from cpam_bench.imba.sample import Sample


def survey(label: str, editor: Imported, known: Sequence[Sample], wanted: Sequence[Sample]) -> list[str]:
    """What to say of a folder before editing.

    Args:
        label: of the method.
        editor: hands out the folder's pictures.
        known: all samples of the data set, to tell pictures that are of none.
        wanted: those to be edited.

    Raises:
        UserError: none of the wanted samples has a picture, it cannot be told which of several is meant, or one has
            another aspect than its source.
    """
    used = [path for sample in known if (path := editor.picture(sample))]
    missing = [sample.id for sample in wanted if editor.picture(sample) is None]
    if len(missing) == len(wanted):
        raise UserError(f"{label}: no picture is of one of the samples; name them {NAMING}")
    for sample in wanted:
        if path := editor.picture(sample):
            require_shape(editor, sample, path)
    lines = []
    if missing:
        lines.append(
            f"{label}: no picture of {len(missing)} of {len(wanted)} samples ({_some(missing)});"
            f" these edits will fail. Name pictures {NAMING}"
        )
    if stray := [path.name for paths in editor.pictures.values() if not set(paths) & set(used) for path in paths]:
        lines.append(f"{label}: {len(stray)} pictures are of no sample ({_some(stray)})")
    return lines


def require_shape(editor: Imported, sample: Sample, path: Path) -> None:
    """Make sure that a picture has the aspect of its source; one that is damaged, or no file, fails as an edit.

    Raises:
        UserError: it has another.
    """
    if not is_regular(path):  # a pipe would be waited for
        return
    with suppress(*DAMAGE), Image.open(path) as picture:
        editor.shape(sample, path, picture.size)


def require_unchanged(store: Store, label: str, editor: Imported, samples: Sequence[Sample]) -> None:
    """Make sure that the pictures which a run has taken over are those that are in the folder now.

    Raises:
        UserError: with the first that is not.
    """
    for sample in samples:
        edit = None
        with suppress(Damaged):  # made anew in any case
            edit = store.read_edit(label, sample.id)
        now = editor.inputs(sample)
        if edit and edit.status == "ok" and now and now["file_sha256"] != edit.params.get("file_sha256"):
            raise UserError(
                f"{label}: {now['file']} is not the picture that {store.folder} has taken over for {sample.id};"
                f" delete {store.edit_path(label, sample.id).parent} to take all pictures anew, or give another --out"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
