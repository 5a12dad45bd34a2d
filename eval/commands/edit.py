"""``cpam-bench edit``: one picture from the shell; ``cpam-bench studio``: in the browser."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpam_bench.eval.commands.options import (
    Device,
    Dtype,
    FitBy,
    MethodFile,
    Model,
    ResizeBy,
    Seed,
    Steps,
    Threads,
    finite,
)
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.kinds import Kind

if TYPE_CHECKING:
    from PIL import Image

    from cpam_bench.imba.masking.made import MadeMask

Numbers = list[float]


def edit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture.")],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What the edited picture shows.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE|DIR", help="A .png or .jpg (its sheet goes beside it), or a folder for all.")
    ],
    mask: Annotated[Path | None, typer.Option(metavar="FILE", help="Mask: not black where the object is.")] = None,
    click: Annotated[list[str] | None, typer.Option(metavar="X,Y", help="A point on the object; repeat.")] = None,
    click_off: Annotated[list[str] | None, typer.Option(metavar="X,Y", help="A point beside it; repeat.")] = None,
    box: Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="A box around the object.")] = None,
    polygon: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,X,Y,...", help="Corners around the object; repeat.")
    ] = None,
    stroke: Annotated[list[str] | None, typer.Option(metavar="X,Y,X,Y,...", help="A brush's path; repeat.")] = None,
    brush: Annotated[
        float, typer.Option(callback=finite, metavar="PIXELS", min=1, help="Width of the brush of --stroke.")
    ] = 20,
    select: Annotated[str | None, typer.Option(metavar="WORDS", help="Words that name the object.")] = None,
    mask_with: Annotated[
        str,
        typer.Option(
            metavar="auto|grabcut|HUB_ID|PATH",
            help="SAM for --click and --box, or CLIPSeg for --select; auto takes what is here and downloads nothing.",
        ),
    ] = "auto",
    mask_ops: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Then: grow=, shrink= or smooth=PIXELS, fill, hull, largest, invert."),
    ] = "",
    kind: Annotated[
        Kind | None,
        typer.Option(
            help="Kind of edit; for background the mask is of the object that stays.",
            show_default="pose with --retain, else replace",
        ),
    ] = None,
    retain: Annotated[bool, typer.Option("--retain", help="Keep the object's identity.")] = False,
    object_prompt: Annotated[str, typer.Option(metavar="WORDS", help="The prompt's words for the object.")] = "",
    source_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A caption of the picture, for methods that need one.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]", help="The method.", show_default="that of --method-file, else cpam"
        ),
    ] = None,
    method_file: MethodFile = None,
    compare: Annotated[str, typer.Option(metavar="A,B,...", help="More methods, for the sheet.")] = "",
    show_target_mask: Annotated[bool, typer.Option("--show-target-mask", help="Draw the last M_t too.")] = False,
    backbone: Model = "pocket",
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    resize: ResizeBy = "bicubic",
    fit: FitBy = "squash",
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="Write the squares that the model makes, and not the picture with the edit put back into it."
        ),
    ] = False,
    spill: Annotated[
        bool | None,
        typer.Option(
            "--spill/--no-spill",
            help="Let the edit show in M_t too, a little around the mask; else every pixel outside the mask is kept.",
            show_default="spill for pose",
        ),
    ] = None,
    large_mask: Annotated[
        bool, typer.Option("--large-mask", help="Take a mask of nearly the whole picture without asking.")
    ] = False,
    original_size: Annotated[bool, typer.Option("--original-size", hidden=True)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Edit one picture, and draw the result beside its source and mask.

    The result has the picture's size, and what is outside of the mask keeps its own pixels. Say what to alter in one
    way: --mask, --click and --box, --polygon, --stroke, or --select. Coordinates are pixels of the picture, x to the
    right and y down.
    """
    from cpam_bench.eval.methods import from_file as method_files
    from cpam_bench.eval.methods import registry
    from cpam_bench.imba.checks import words
    from cpam_bench.imba.common.labels import split
    from cpam_bench.imba.masking import operations
    from cpam_bench.imba.pictures import read_picture, taken, to_rgb, upright
    from cpam_bench.imba.problems import shown

    # Everything that can be wrong without a model comes first.
    given = [method_files.give(text) for text in method_file or []]
    wanted = [*([method] if method else given[:1] or ["cpam"]), *split(compare)]
    editors = dict(registry.make(label) for label in wanted)
    names = operations.split(mask_ops)
    clicks = _clicks(click, click_off, box)
    ways = [mask is not None, clicks is not None, bool(polygon), bool(stroke), select is not None]
    if sum(ways) > 1:
        raise UserError("give one of --mask, --click with --box, --polygon, --stroke and --select, not several")
    if raw and original_size:
        raise UserError("--raw is the model's square, and --original-size the picture's size: give one of them")
    polygons = [_points(text, "--polygon") for text in polygon or ()]
    strokes = [_points(text, "--stroke") for text in stroke or ()]
    stored = read_picture(image, "picture")
    picture = to_rgb(upright(stored))
    targets = _targets(out, editors)
    if not overwrite and (there := [path for path in targets.values() if path.exists()]):
        raise UserError(f"{there[0]} is there already; give another --out, or --overwrite")
    if not prompt.strip():
        raise UserError("--prompt is empty; say what the edited picture shows")
    if not any(ways) and (needing := [label for label, editor in editors.items() if registry.needs_mask(editor)]):
        raise UserError(
            f"{needing[0]} needs to know what to alter, and no mask is given. Give one of --mask FILE, --click X,Y or"
            " --box X0,Y0,X1,Y1, --polygon X,Y,X,Y,..., --stroke X,Y,X,Y,..., and --select WORDS"
        )

    from cpam_bench.cpam.backbone import Backbone
    from cpam_bench.eval.run.describe import describe_editor, versions
    from cpam_bench.eval.run.settings import choose_device, quiet, use_threads
    from cpam_bench.eval.store.records import plain
    from cpam_bench.eval.studio import picture as pictures
    from cpam_bench.imba.common.files import write_json
    from cpam_bench.imba.masking.drawn import from_file, from_polygons, from_strokes
    from cpam_bench.imba.masking.segmenters import for_clicks

    quiet()
    place = choose_device(device)

    def finished(made: MadeMask) -> MadeMask:
        made = made.then(names)
        _say_mask(made)
        if not large_mask:
            _ask_about(made)
        return made

    made: MadeMask | None = None
    if mask is not None:
        made = from_file(mask, picture.size)
    elif polygons:
        made = from_polygons(polygons, picture.size)
    elif strokes:
        made = from_strokes(strokes, brush, picture.size)
    elif clicks is not None:
        made = for_clicks(mask_with, place).segment(picture, clicks)
    made = made and finished(made)
    model = Backbone.load(backbone, place, dtype, resize)
    model.schedule(steps)
    used = use_threads(threads, model)
    if select is not None:
        made = finished(pictures.select_words(model, picture, select, mask_with, place))
    sample = pictures.make_sample(
        picture,
        None if made is None else made.mask,
        prompt,
        kind=kind,
        object_prompt=object_prompt,
        retain=retain,
        source_prompt=source_prompt,
        fit=fit,
    )
    if line := taken(stored):
        typer.echo(f"the picture {line}", err=True)
    for problem in words(sample):
        typer.echo(f"{problem.what}. {problem.mend}", err=True)
    if line := pictures.expectation(model, picture):
        typer.echo(line, err=True)
    if (rest := model.truncated(prompt)) is not None:
        typer.echo(f"the prompt is longer than the text encoder reads; it is cut before: “{shown(rest)}”", err=True)
    source, results = pictures.edit(sample, model, editors, steps, seed, spill=spill)
    sheet = pictures.side_by_side(sample, source, results, show_target_mask, raw)
    frame = sample.find_frame()
    record = {
        "picture": image.name,
        "prompt": prompt,
        "kind": sample.kind,
        "object_prompt": object_prompt,
        "retain_object": retain,
        "mask": None if made is None else made.origin.model_dump(exclude_none=True),
        "backbone": {"name": model.name, "weights": model.fingerprint, "resize": model.resize},
        "size": list(picture.size),
        "fit": fit,
        "frame": [frame.left, frame.top, frame.right, frame.bottom],
        "raw": raw,
        "spill": spill,
        "steps": steps,
        "seed": seed,
        "device": place,
        "threads": used if place == "cpu" else None,
        "dtype": dtype,
        "methods": {
            label: plain(describe_editor(label, editors[label])) | {"seed": result.seed, "seconds": result.seconds}
            for label, result in results.items()
        },
        "versions": versions(),
    }
    for name, path in targets.items():
        if name == "sheet":
            _save(sheet, path)
        elif name == "source":
            _save(source.image if raw else picture, path)
        elif name == "mask":
            if made is not None:
                _save(_black_and_white(made.mask), path)
        elif name == "record":
            write_json(path, record)
        else:
            result = results[name.removeprefix("edit ")]
            _save(result.image if raw else result.whole, path)
        if path.exists():
            typer.echo(f"{path}")


def studio(
    backbone: Model = "pocket",
    collect: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Data set that samples may be saved into; made if needed.")
    ] = None,
    segmenter: Annotated[
        str, typer.Option(metavar="auto|grabcut|HUB_ID|PATH", help="What turns clicks into masks.")
    ] = "auto",
    port: Annotated[int, typer.Option(help="Of the page, on this machine alone.")] = 7860,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Edit pictures in the browser: draw or click the mask, compare methods, save samples into a data set."""
    from cpam_bench.cpam.backbone import Backbone
    from cpam_bench.eval.run.settings import choose_device, quiet, use_threads
    from cpam_bench.eval.studio.serve import serve_studio

    quiet()
    place = choose_device(device)
    model = Backbone.load(backbone, place, dtype)
    use_threads(threads, model)
    serve_studio(model, collect, segmenter, port, browse)


def _say_mask(made: MadeMask) -> None:
    origin = made.origin
    note = f"; it {origin.note}" if origin.note else ""
    typer.echo(f"mask by {origin.tool}: {made.mask.mean():.1%} of the picture{note}", err=True)


def _ask_about(made: MadeMask) -> None:
    """Ask whether a mask of nearly the whole picture is meant.

    Raises:
        UserError: it is not, or there is nobody to ask.
    """
    from cpam_bench.eval.studio.picture import NEARLY_ALL

    share = made.mask.mean()
    if share < NEARLY_ALL:
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"the mask by {made.origin.tool} marks {share:.1%} of the picture, nearly all of it. Mark the object alone,"
            " or give --large-mask if that is what you mean"
        )
    if not typer.confirm("It marks nearly the whole picture. Is that what you mean?", err=True):
        raise UserError("nothing is edited; mark the object alone")


def _numbers(text: str, option: str, count: int | None = None) -> Numbers:
    try:
        values = [float(part) for part in re.split(r"[\s,]+", text.strip())]
    except ValueError:
        values = []
    finite = all(abs(value) < 1e9 for value in values)
    if not values or not finite or (count is not None and len(values) != count) or (count is None and len(values) % 2):
        expected = {2: "X,Y", 4: "X0,Y0,X1,Y1", None: "X,Y,X,Y,..."}[count]
        raise UserError(f"{option} {text!r} is not {expected}, in pixels")
    return values


def _points(text: str, option: str) -> list[tuple[float, float]]:
    values = _numbers(text, option)
    return list(zip(values[::2], values[1::2], strict=True))


def _clicks(on: list[str] | None, off: list[str] | None, box: str | None) -> Any:
    from cpam_bench.imba.masking.segmenters import Clicks

    if not on and not off and box is None:
        return None
    edges = None if box is None else _numbers(box, "--box", 4)
    pairs = {
        name: tuple((x, y) for x, y in (_numbers(text, name, 2) for text in texts or ()))
        for name, texts in (("--click", on), ("--click-off", off))
    }
    whole = None if edges is None else (edges[0], edges[1], edges[2], edges[3])
    return Clicks(pairs["--click"], pairs["--click-off"], whole)


def _targets(out: Path, editors: dict[str, Any]) -> dict[str, Path]:
    """What is written where."""
    from cpam_bench.eval.store.store import slug

    first = next(iter(editors))
    if out.suffix.lower() in (".png", ".jpg", ".jpeg") and not out.is_dir():
        return {f"edit {first}": out, "sheet": out.with_name(f"{out.stem}-sheet.png")}
    if out.is_file() or out.suffix.lower() in (".webp", ".gif", ".tif", ".tiff", ".bmp", ".pdf"):
        raise UserError(f"--out {out}: give a .png, a .jpg, or a folder")
    edits = {f"edit {label}": out / f"{slug(label)}.png" for label in editors}
    fixed = {name: out / f"{name}.png" for name in ("source", "mask", "sheet")}
    return edits | fixed | {"record": out / "edit.json"}


def _save(image: Image.Image, path: Path) -> None:
    import io

    from cpam_bench.imba.common.files import write_atomic

    buffer = io.BytesIO()
    if path.suffix.lower() == ".png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=95)
    write_atomic(path, buffer.getvalue())


def _black_and_white(mask: Any) -> Image.Image:
    import numpy as np
    from PIL import Image

    return Image.fromarray(mask.astype(np.uint8) * 255)
