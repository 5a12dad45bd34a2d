"""The studio's pages, in Gradio."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Before Gradio is imported: it would tell its makers of every start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import numpy as np
from PIL import Image

from cpam_bench.eval.methods import registry
from cpam_bench.eval.studio.picture import NEARLY_ALL
from cpam_bench.eval.studio.session import Session, Studio, open_file
from cpam_bench.imba import collect
from cpam_bench.imba.dataset import load
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking import operations
from cpam_bench.imba.problems import printable

MODES = [("on the object", "object"), ("beside it", "beside"), ("two corners of a box", "box")]
KINDS = ["replace", "pose", "background", "add", "remove"]
FITS = [("squashed to one", "squash"), ("cropped around what is marked", "crop"), ("padded", "pad")]
BRUSH = "#e62840"
SESSION_SECONDS = 3600  # how long a closed tab's picture is kept


@dataclass
class MaskPanel:
    """The components with which a mask is made, and those that show it."""

    session: gr.State
    clicked: gr.Image
    canvas: gr.ImageEditor
    status: gr.Markdown

    @property
    def outputs(self) -> list[Any]:
        """What changes with another picture: session, view to click on, canvas to draw on, what is said."""
        return [self.session, self.clicked, self.canvas, self.status]

    @property
    def shown(self) -> list[Any]:
        """What changes with the mask: session, view, what is said."""
        return [self.session, self.clicked, self.status]


def said(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a user can cause is shown as a message; the rest is an error of ours."""
    import functools

    @functools.wraps(function)
    def wrapped(*arguments: Any, **more: Any) -> Any:
        try:
            return function(*arguments, **more)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped


def describe(session: Session) -> str:
    """The line under the picture."""
    if session.picture is None:
        return "Open a picture."
    size = f"{session.picture.width} x {session.picture.height} pixels"
    if session.expectation:
        size += f" ({session.expectation})"
    if session.made is None:
        return f"{size}. Nothing is marked yet."
    origin = session.made.origin
    steps = f", then {', '.join(origin.operations)}" if origin.operations else ""
    note = f" ({origin.note})" if origin.note else ""
    share = session.made.mask.mean()
    much = " That is nearly the whole picture: is it what you mean?" if share >= NEARLY_ALL else ""
    return f"{size}, {share:.1%} marked by {origin.tool}{steps}{note}.{much}"


def fresh(session: Session) -> tuple[Any, ...]:
    """Values of :attr:`MaskPanel.outputs` for a picture that was just opened."""
    view = session.view()
    return session, session.marked(), {"background": view, "layers": [], "composite": None}, describe(session)


def changed(session: Session) -> tuple[Any, ...]:
    """Values of :attr:`MaskPanel.shown`."""
    return session, session.marked(), describe(session)


def painted(value: dict[str, Any] | None) -> np.ndarray | None:
    """What is painted on a canvas, bool (h, w), or None."""
    layers = [layer for layer in (value or {}).get("layers") or [] if layer is not None]
    if not layers:
        return None
    alphas = [np.asarray(layer.convert("RGBA"))[..., 3] > 0 for layer in layers if isinstance(layer, Image.Image)]
    return np.logical_or.reduce(alphas) if alphas else None


def mask_panel(studio: Studio, words: bool) -> MaskPanel:
    """Picture, ways to mark something in it, and operations on the mask."""
    session = gr.State(Session(), time_to_live=SESSION_SECONDS)
    with gr.Tab("Click"):
        clicked = gr.Image(
            label="Click to mark",
            type="pil",
            format="png",
            interactive=False,
            elem_id="clicked",
            buttons=["fullscreen"],
        )
        mode = gr.Radio(MODES, value="object", label="A click is", elem_id="mode")
        with gr.Row():
            undo = gr.Button("Undo click", size="sm")
            clear = gr.Button("Clear", size="sm", elem_id="clear")
    with gr.Tab("Draw"):
        canvas = gr.ImageEditor(
            label="Paint over what to edit",
            type="pil",
            format="png",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=24, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"),
            elem_id="canvas",
        )
    if words:
        with gr.Tab("Name"):
            named = gr.Textbox(label="What to mark", placeholder="a dog", elem_id="named")
            find = gr.Button("Find it", size="sm")
    with gr.Row():
        buttons = {
            title: gr.Button(title, size="sm", min_width=60)
            for title in ("Grow", "Shrink", "Fill holes", "Hull", "Largest part")
        }
    status = gr.Markdown("Open a picture.", elem_id="status")
    panel = MaskPanel(session, clicked, canvas, status)

    @said
    def on_click(session: Session, mode: str, event: gr.SelectData) -> Any:
        studio.click(session, (float(event.index[0]), float(event.index[1])), mode)
        return changed(session)

    @said
    def on_undo(session: Session) -> Any:
        session.need_picture()
        studio.undo(session)
        return changed(session)

    @said
    def on_clear(session: Session) -> Any:
        session.need_picture()
        session.on, session.off, session.corners, session.made = [], [], [], None
        return fresh(session)

    @said
    def on_paint(session: Session, value: dict[str, Any] | None) -> Any:
        if session.picture is None:
            return session, None, describe(session)
        mask = painted(value)
        if mask is not None and mask.any():  # a canvas that was just filled with a picture changes nothing
            session.draw(mask)
        return changed(session)

    clicked.select(on_click, [session, mode], panel.shown, show_progress="hidden")
    undo.click(on_undo, session, panel.shown)
    clear.click(on_clear, session, panel.outputs)
    canvas.input(on_paint, [session, canvas], panel.shown, show_progress="hidden")
    if words:

        @said
        def on_find(session: Session, text: str) -> Any:
            studio.find(session, text)
            return changed(session)

        gr.on([find.click, named.submit], on_find, [session, named], panel.shown)
    for title, button in buttons.items():
        button.click(_operation(title), session, panel.shown)
    return panel


def _operation(title: str) -> Callable[..., Any]:
    @said
    def operate(session: Session) -> Any:
        pixels = max(1, round(max(session.need_picture().size) / 100))
        name = {"Fill holes": "fill", "Largest part": "largest"}.get(title, title.lower())
        session.operate(f"{name}={pixels}" if name in ("grow", "shrink") else name)
        operations.parse(session.need_mask().origin.operations[-1])
        return changed(session)

    return operate


def studio_page(studio: Studio) -> gr.Blocks:
    """The page of ``cpam-bench studio``."""
    if studio.backbone is None:
        raise ValueError("the studio edits with a backbone")
    editors, _ = registry.load_all()
    known = [name for name, editor in editors.items() if editor.edits]
    default = editors["cpam"]() if "cpam" in editors else None
    with gr.Blocks(title="cpam-bench studio", analytics_enabled=False) as page:
        gr.Markdown(f"### cpam-bench studio · {studio.backbone.name} backbone, {studio.backbone.resolution} px")
        with gr.Row():
            with gr.Column(scale=5):
                upload = gr.UploadButton("Open a picture", file_types=["image"], elem_id="upload", variant="primary")
                panel = mask_panel(studio, words=True)
                with gr.Accordion(f"Data set {studio.collect.name}", open=True):
                    with gr.Row():
                        save = gr.Button("Save as a sample", elem_id="save")
                        again = gr.Dropdown([], label="Open a sample", elem_id="samples", filterable=True)
                    saved = gr.Markdown(elem_id="saved")
            with gr.Column(scale=5):
                prompt = gr.Textbox(label="What the edited picture shows", elem_id="prompt")
                with gr.Row():
                    object_prompt = gr.Textbox(label="Its words for the object", elem_id="object_prompt")
                    kind = gr.Dropdown(
                        KINDS,
                        value="replace",
                        label="Kind of edit",
                        info="background: mark the object that stays",
                        elem_id="kind",
                    )
                    retain = gr.Checkbox(label="Keep the object's identity")
                methods = gr.Dropdown(
                    known,
                    value=["cpam"] if "cpam" in known else known[:1],
                    multiselect=True,
                    allow_custom_value=True,
                    label="Methods",
                    info="also with parameters: cpam:localization=false",
                    elem_id="methods",
                )
                with gr.Accordion("Settings", open=False, elem_id="settings"):
                    guidance = gr.Slider(1, 20, value=getattr(default, "guidance", 7.5), step=0.5, label="Guidance")
                    with gr.Row():
                        start_step = gr.Number(
                            getattr(default, "start_step", 3), precision=0, minimum=0, label="T, first step from 0"
                        )
                        start_layer = gr.Number(
                            getattr(default, "start_layer", 8), precision=0, minimum=0, label="L, first layer from 0"
                        )
                        refine = gr.Checkbox(getattr(default, "refine", False), label="M_t follows cross-attention")
                    with gr.Row():
                        fit = gr.Radio(
                            FITS, value="squash", label="A picture that is not square is", elem_id="fit", scale=2
                        )
                        raw = gr.Checkbox(label="Show the model's square, nothing put back", elem_id="raw")
                    with gr.Row():
                        steps = gr.Slider(1, 100, value=50, step=1, label="Steps", elem_id="steps")
                        seed = gr.Number(0, precision=0, label="Seed")
                run = gr.Button("Edit", variant="primary", elem_id="run")
                slider = gr.ImageSlider(label="Before and after", type="pil", format="png", elem_id="slider")
                which = gr.Radio([], label="Shown", elem_id="which", visible=False)
                sheet = gr.Image(
                    label="Side by side",
                    type="pil",
                    format="png",
                    interactive=False,
                    elem_id="sheet",
                    buttons=["download", "fullscreen"],
                )

        @said
        def on_upload(session: Session, path: str | None) -> Any:
            open_file(session, path)
            studio.expect(session)
            return *fresh(session), None, None

        @said
        def on_run(
            session: Session,
            prompt: str,
            object_prompt: str,
            kind: Any,
            retain: bool,
            methods: list[str],
            guidance: float,
            start_step: float | None,
            start_layer: float | None,
            refine: bool,
            steps: float,
            seed: float | None,
            fit: Any,
            raw: bool,
            progress: gr.Progress = gr.Progress(),
        ) -> Any:
            settings = {"guidance": float(guidance), "refine": refine}
            settings |= {"start_step": int(start_step or 0), "start_layer": int(start_layer or 0)}
            done = studio.run(
                session,
                methods,
                prompt,
                kind=kind,
                object_prompt=object_prompt,
                retain=retain,
                settings=settings,
                steps=int(steps),
                seed=int(seed or 0),
                fit=fit,
                raw=raw,
                progress=lambda what, share: progress(share, desc=what),
            )
            if not done:
                raise UserError("another picture was opened meanwhile; the edit of the one before is dropped")
            labels = list(session.results)
            chosen = gr.Radio(labels, value=labels[0], visible=len(labels) > 1)
            return session, (session.before, session.after(labels[0])), chosen, session.sheet

        @said
        def on_which(session: Session, label: str | None) -> Any:
            return (session.before, session.after(label)) if label in session.results else gr.skip()

        @said
        def on_save(session: Session, prompt: str, object_prompt: str, kind: Any, retain: bool) -> Any:
            id = studio.save(session, prompt, kind=kind, object_prompt=object_prompt, retain=retain)
            return f"Saved as {id}.", gr.Dropdown(studio.samples(), value=None)

        @said
        def on_again(session: Session, id: str | None) -> Any:
            if not id:
                return [gr.skip()] * 10
            sample = studio.reopen(session, id)
            values = (sample.target_prompt, sample.object_prompt, sample.kind, sample.retain_object)
            return *fresh(session), None, None, *values

        upload.upload(on_upload, [panel.session, upload], [*panel.outputs, slider, sheet])
        task = [prompt, object_prompt, kind, retain]
        inputs = [panel.session, *task, methods, guidance, start_step, start_layer, refine, steps, seed, fit, raw]
        # Edits wait in one queue, whoever asks: there is one backbone.
        run.click(on_run, inputs, [panel.session, slider, which, sheet], concurrency_limit=1, concurrency_id="backbone")
        which.input(on_which, [panel.session, which], slider)
        save.click(on_save, [panel.session, *task], [saved, again])
        again.input(on_again, [panel.session, again], [*panel.outputs, slider, sheet, *task])
        page.load(lambda: gr.Dropdown(studio.samples()), None, again)
    return page


def as_text(text: str) -> str:
    """A text of others as Markdown that shows it letter by letter, on one line."""
    return re.sub(r"([^\w\s])", r"\\\1", printable(" ".join(text.split())), flags=re.ASCII)


def annotation_page(studio: Studio) -> gr.Blocks:
    """The page of ``cpam-bench data annotate``: the samples without a mask, one after the other."""
    with gr.Blocks(title="cpam-bench: draw masks", analytics_enabled=False) as page:
        task = gr.Markdown(elem_id="task")
        panel = mask_panel(studio, words=studio.backbone is not None)
        skipped = gr.State([])
        own = gr.Checkbox(label="A mask for this sample alone", visible=False, elem_id="own")
        with gr.Row():
            accept = gr.Button("Accept, next", variant="primary", elem_id="accept")
            skip = gr.Button("Skip for now", elem_id="skip")

        def following(session: Session, skipped: list[str]) -> Any:
            """The next sample that lacks a mask; those skipped come last."""
            lacking = collect.without_mask(studio.collect)
            waiting = [id for id in lacking if id not in skipped] or lacking
            data = load(studio.collect)
            sample, damaged = studio.reopen_first(session, waiting)
            passed = [f"Passed over, for it cannot be opened: {as_text(why)}" for why in damaged]
            if sample is None:
                session.__init__()  # type: ignore[misc]
                done = f"### Done: all {len(data)} samples have masks."
                left = f"### {len(damaged)} of {len(data)} samples are left, and cannot be opened."
                words = "\n\n".join([left if damaged else done, *passed])
                return session, None, None, "", words, gr.Checkbox(visible=False)
            id = sample.id
            same = [other.id for other in data if other.image == sample.image and other.id != id]
            what = "the object that stays" if sample.altered == "background" else "what is to change"
            lines = [
                f"### {id} · {len(data) - len(lacking)} of {len(data)} samples have a mask",
                f"Mark **{what}** for “{as_text(sample.target_prompt)}” ({sample.kind}; object:"
                f" “{as_text(sample.object_prompt)}”).",
                *passed,
            ]
            if same:
                lines.append(f"The mask also serves {', '.join(same)}, unless it is to be for this sample alone.")
            return *fresh(session), "\n\n".join(lines), gr.Checkbox(value=False, visible=bool(same))

        @said
        def on_accept(session: Session, skipped: list[str], own: bool) -> Any:
            if session.sample is None:
                raise UserError("no sample is open")
            collect.add_mask(studio.collect, session.sample, session.need_mask(), own=own, seen=session.seen)
            return following(session, skipped)

        @said
        def on_skip(session: Session, skipped: list[str]) -> Any:
            if session.sample:
                skipped = [id for id in skipped if id != session.sample] + [session.sample]
            lacking = collect.without_mask(studio.collect)
            if set(lacking) <= set(skipped):  # around again, in the order in which they were skipped
                skipped = skipped[-1:]
            return skipped, *following(session, skipped)

        outputs = [*panel.outputs, task, own]
        page.load(said(following), [panel.session, skipped], outputs)
        accept.click(on_accept, [panel.session, skipped, own], outputs)
        skip.click(on_skip, [panel.session, skipped], [skipped, *outputs])
    return page
