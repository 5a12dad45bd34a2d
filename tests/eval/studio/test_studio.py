"""What a tab of the studio holds and does, without its page."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import TINY
from PIL import Image

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.eval.studio.session import Session, Studio, open_file
from cpam_bench.imba.dataset import POCKET, load, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.segmenters import GrabCut
from cpam_bench.imba.pocket.clicks import iou

APPLE = POCKET / "images" / "replace-apple-to-orange.png"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


@pytest.fixture
def studio(backbone: Backbone, tmp_path: Path) -> Studio:
    return Studio(backbone, GrabCut(), tmp_path / "set")


@pytest.fixture
def session() -> Session:
    session = Session()
    open_file(session, str(APPLE))
    return session


def at(x: float, y: float) -> tuple[float, float]:
    """A point of a pocket picture on its view, which is four times as large."""
    return 4 * x, 4 * y


def run(studio: Studio, session: Session, *methods: str, **changes: Any) -> bool:
    values = {"prompt": "a photo of an orange on a beach", "kind": "replace", "steps": 2} | changes
    return studio.run(session, methods or ("cpam",), **values)  # type: ignore[arg-type]


def test_clicks_make_a_mask_and_can_be_taken_back(studio: Studio, session: Session) -> None:
    exact = np.asarray(Image.open(POCKET / "masks" / APPLE.name)) > 0
    studio.click(session, at(25, 40), "box")
    assert session.made is None and len(session.corners) == 1
    studio.click(session, at(105, 118), "box")
    studio.click(session, at(64, 80), "object")
    assert session.made is not None and iou(session.made.mask, exact) > 0.8
    assert session.made.origin.inputs["box"] == [25, 40, 105, 118]
    assert not np.array_equal(np.asarray(session.marked()), np.asarray(session.view()))
    session.operate("grow=3")
    assert session.made.origin.operations == ["grow=3"]
    studio.undo(session)
    assert session.on == [] and session.made is not None
    studio.undo(session)
    assert session.made is None  # one corner is no box
    with pytest.raises(UserError, match="mark something"):
        session.operate("fill")


def test_a_click_that_finds_nothing_is_not_kept(studio: Studio, session: Session) -> None:
    studio.click(session, at(64, 80), "object")
    studio.click(session, at(9, 9), "box")
    before = session.made
    with pytest.raises(UserError, match="marks nothing"):
        studio.click(session, at(9, 9), "box")
    assert session.on == [(64, 80)] and len(session.corners) == 1 and session.made is before


def test_large_pictures_are_shown_small_and_masked_at_their_own_size(studio: Studio) -> None:
    session = Session()
    session.open(Image.open(APPLE).convert("RGB").resize((3000, 2000)))
    assert session.view().size == (768, 512)
    studio.click(session, (384, 320), "object")
    assert session.made is not None and session.made.mask.shape == (2000, 3000)
    assert session.on[0] == pytest.approx((1500, 1250), abs=2)
    painted = np.zeros((512, 768), bool)
    painted[100:200, 300:400] = True
    session.draw(painted)
    assert session.made.mask.shape == (2000, 3000) and session.on == []
    assert session.made.mask.mean() == pytest.approx(painted.mean(), rel=0.02)
    assert session.made.origin.tool == "strokes"


def test_edits_follow_settings_and_labels(studio: Studio, session: Session) -> None:
    studio.click(session, at(64, 80), "object")
    told: list[tuple[str, float]] = []
    settings = {"guidance": 3.0, "refine": True, "start_step": 2}
    methods = ("cpam", "cpam:guidance=9", "masactrl")
    assert run(studio, session, *methods, settings=settings, progress=lambda *now: told.append(now))
    wanted = [
        "cpam:guidance=3,refine=true,start_step=2",
        "cpam:guidance=9,refine=true,start_step=2",
        "masactrl:guidance=3",
    ]
    assert list(session.results) == wanted
    assert session.before is not None and session.sheet is not None
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1
    assert {what for what, _ in told} == {"inversion", *wanted}
    first = session.results[wanted[0]].image
    assert run(studio, session, "cpam", settings=settings)
    assert np.array_equal(np.asarray(session.results[wanted[0]].image), np.asarray(first))


def test_an_edit_of_a_picture_that_was_replaced_meanwhile_is_dropped(studio: Studio, session: Session) -> None:
    studio.click(session, at(64, 80), "object")
    assert not run(studio, session, progress=lambda *_: session.open(Image.new("RGB", (50, 40))))
    assert session.results == {} and session.sheet is None and session.made is None


def test_what_is_missing_is_said(studio: Studio, session: Session) -> None:
    with pytest.raises(UserError, match="needs to know what to alter"):
        run(studio, session)
    with pytest.raises(UserError, match="did you mean cpam"):
        run(studio, session, "cpan")
    with pytest.raises(UserError, match="give a prompt"):
        run(studio, session, prompt=" ")
    with pytest.raises(UserError, match="open a picture"):
        run(studio, Session())
    with pytest.raises(UserError, match="mark what to edit"):
        studio.save(session, "a", kind="add")
    assert not studio.lock.locked()


def test_samples_are_saved_and_opened_again(studio: Studio, session: Session) -> None:
    assert studio.samples() == []
    studio.click(session, at(64, 80), "object")
    assert session.made is not None
    id = studio.save(session, "a photo of an orange", kind="replace", object_prompt="an orange")
    other = studio.save(session, "a beach", kind="background")
    assert studio.samples() == [id, other] and validate(load(studio.collect)) == []
    again = Session()
    assert studio.reopen(again, other).kind == "background"
    assert again.made is not None and np.array_equal(again.made.mask, session.made.mask)
    assert again.made.origin == session.made.origin
    with pytest.raises(UserError, match="any more"):
        studio.reopen(again, "gone")


def test_two_tabs_share_nothing_but_the_models(studio: Studio, session: Session) -> None:
    other = copy.deepcopy(Session())
    other.open(Image.open(POCKET / "images" / "replace-car-to-bus.png"))
    studio.click(session, at(64, 80), "object")
    assert other.made is None and other.on == []
    threads = [
        threading.Thread(target=run, args=(studio, one, "ddim"), kwargs={"prompt": "a photo of a dog"})
        for one in (session, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pictures = [np.asarray(one.results["ddim"].image) for one in (session, other)]
    run(studio, session, "ddim", prompt="a photo of a dog")
    assert np.array_equal(np.asarray(session.results["ddim"].image), pictures[0])
    assert not np.array_equal(*pictures)


def test_results_have_the_pictures_size_or_are_the_models_square(studio: Studio) -> None:
    session = Session()
    shown = Image.open(APPLE).convert("RGB").resize((200, 120))
    session.open(shown)
    marked = np.pad(np.ones((60, 60), bool), ((30, 30), (70, 70)))
    session.draw(np.asarray(Image.fromarray(marked).resize(session.view().size)))
    assert session.made is not None
    outside = ~session.made.mask
    assert run(studio, session, fit="crop")
    made = np.asarray(session.after("cpam"))
    assert session.before == shown and np.array_equal(made[outside], np.asarray(shown)[outside])
    assert session.sheet is not None
    assert run(studio, session, raw=True)
    assert session.before.size == session.after("cpam").size == (128, 128)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="steps must be between 1 and 999"):
        run(studio, session, steps=0)


def test_the_pocket_backbone_says_what_it_does_not_know(session: Session, tmp_path: Path) -> None:
    """The picture of noise stands for a photograph; the apple is in the embedded benchmark."""
    studio = Studio(Backbone.load("pocket"), GrabCut(), tmp_path / "set")
    studio.expect(session)
    assert session.expectation == ""
    with pytest.raises(UserError, match="the pocket backbone finds no “a zebra”.*it knows dog, cat, "):
        studio.find(session, "a zebra")
    photograph = Session()
    photograph.open(Image.effect_noise((300, 200), 60).convert("RGB"))
    studio.expect(photograph)
    assert "12 drawn objects and no photographs" in photograph.expectation
    with pytest.raises(UserError, match="finds no “a cat”"):
        studio.find(photograph, "a cat")


def test_words_mark_through_the_backbone(studio: Studio, session: Session) -> None:
    studio.find(session, "an apple")
    assert session.made is not None and session.made.origin.tool in ("cross-attention", "clipseg")


def test_what_is_no_picture_is_refused_and_changes_nothing(session: Session, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        open_file(session, str(tmp_path / "text.png"))
    with pytest.raises(UserError, match="no file"):
        open_file(session, None)
    assert session.picture is not None and session.picture.size == (128, 128)
