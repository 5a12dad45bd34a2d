"""The ablation: which configurations edit which samples, and what its tables say, on an editor worked out by hand."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from run_helpers import FakeBackbone, samples, write_clip, write_dataset
from typer.testing import CliRunner

from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.eval.analysis import ablation as ablate
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.methods import registry
from cpam_bench.eval.scoring.scored import read_scores
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@dataclass(frozen=True)
class Parts:
    """Brightens by 10 without localization, by 20 without preservation, and by its guidance."""

    name: ClassVar[str] = "cpam"
    title: ClassVar[str] = "CPAM"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "made up"
    capabilities: ClassVar[Capabilities] = Capabilities()
    refined_kinds: ClassVar[tuple[str, ...]] = ("replace", "pose")
    retained_kinds: ClassVar[tuple[str, ...]] = ("replace", "pose", "remove", "add")
    guidance: float = parameter(7.5, "", "")
    preservation: bool = parameter(True, "", "")
    localization: bool = parameter(True, "", "")
    start_step: int = parameter(3, "", "")
    start_layer: int = parameter(8, "", "")

    def edit(self, sample: Any, source: Any, seed: int) -> Image.Image:
        more = self.guidance + 10 * (not self.localization) + 20 * (not self.preservation) + self.start_step
        return Image.fromarray((np.asarray(source.image) + more).clip(0, 255).astype(np.uint8))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpam_bench.cpam.backbone import Backbone

    installed = importlib.metadata.entry_points
    point = importlib.metadata.EntryPoint("cpam", f"{__name__}:Parts", registry.EDITORS.name)

    def entry_points(**chosen: Any) -> Any:
        return [point] if chosen.get("group") == registry.EDITORS.name else installed(**chosen)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(Backbone, "load", lambda name, **_: FakeBackbone())


def test_configurations_are_methods_by_name() -> None:
    plan = ablate.plan(["modules", "T", "L", "guidance"], steps=50)
    assert plan.labels["modules"] == {
        "both": "cpam",
        "no localization": "cpam:localization=false",
        "no preservation": "cpam:preservation=false",
        "neither": "cpam:localization=false,preservation=false",
    }
    assert list(plan.labels["guidance"].values()) == [
        "cpam:guidance=3", "cpam:guidance=5", "cpam", "cpam:guidance=10", "cpam:guidance=12.5", "cpam:guidance=15"
    ]  # fmt: skip
    assert list(plan.labels["T"].values()) == [
        "cpam:start_step=0", "cpam", "cpam:start_step=10", "cpam:start_step=25", "cpam:start_step=50"
    ]  # fmt: skip
    assert all(registry.make(label) == (label, editor) for label, editor in plan.editors.items())
    assert next(iter(plan.editors)) == "cpam"


def test_another_base_and_few_steps() -> None:
    plan = ablate.plan(["L", "T", "normal"], "cpam-release:guidance=5", steps=8)
    assert plan.labels["L"]["L = 7"] == plan.base == "cpam-release:guidance=5"
    assert list(plan.labels["T"]) == ["T = 0", "T = 3", "never"]
    assert plan.labels["T"]["never"] == "cpam-release:guidance=5,start_step=8"
    assert ablate.plan(["guidance"], "cpam:guidance=4").labels["guidance"]["base"] == "cpam:guidance=4"


def test_what_cannot_act_on_a_sample_does_not_edit_it() -> None:
    first, second, third = samples(3)
    kept = replace(second, kind="pose", retain_object=True)
    background = replace(third, kind="background", retain_object=True)
    plan = ablate.plan(["T", "refine", "normal"], steps=4)
    wanted = {id: set(labels) for id, labels in plan.wanted([first, kept, background]).items()}
    changed = {label for label in plan.editors if "start_step" in label}
    refined = {label for label in plan.editors if "refine" in label}
    assert changed and refined
    assert wanted["s0"] == set(plan.editors) - changed
    assert wanted["s1"] == set(plan.editors)
    assert wanted["s2"] == set(plan.editors) - changed - refined


@pytest.mark.parametrize(
    ("groups", "method", "words"),
    [
        (["nothing"], "cpam", "unknown group 'nothing'; there are: modules, T"),
        ([], "cpam", "no groups"),
        (["modules"], "masactrl", "only CPAM can be ablated"),
    ],
)
def test_what_cannot_be_ablated_is_said(groups: list[str], method: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ablate.plan(groups, method)


@pytest.mark.usefixtures("fakes")
@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    records = json.loads((data / "data.json").read_text())
    records[1] |= {"retain_object": True, "kind": "pose"}
    (data / "data.json").write_text(json.dumps(records))
    clip = f"local-dir:{write_clip(tmp_path / 'clip')}"
    arguments = ["ablate", "--groups", "modules,T,guidance", "--dataset", str(data), "--steps", "4", "--clip", clip]
    arguments += ["--out", str(tmp_path / "run"), "--device", "cpu", "--workers", "1"]

    first = CliRunner().invoke(app, [*arguments, "--tables", str(tmp_path / "tables")])
    assert first.exit_code == 0, first.output
    rows = pd.read_csv(tmp_path / "tables" / "ablation.csv")
    assert list(rows.columns) == ablate.COLUMNS and set(rows["slice"]) == {"all"}
    counts = rows[rows["metric"] == "lpips_background"].set_index(["group", "setting"])["n"]
    assert counts["modules", "neither"] == 2 and counts["T", "T = 0"] == counts["T", "T = 3"] == 1

    # What the table says is what the scores say.
    scores = read_scores(tmp_path / "run")
    lpips = scores[scores["metric"] == "lpips_background"].pivot(index="sample", columns="method", values="value")
    cell = rows[(rows["metric"] == "lpips_background") & (rows["method"] == "cpam:preservation=false")].iloc[0]
    assert cell["mean"] == pytest.approx(lpips["cpam:preservation=false"].mean())
    assert cell["difference"] == pytest.approx((lpips["cpam:preservation=false"] - lpips["cpam"]).mean())
    assert cell["difference"] > 0 and not cell["default"]
    base = rows[rows["method"] == "cpam"]
    assert base["default"].all() and (base.loc[base["n"] > 0, "difference"] == 0).all()
    for words in ("Figure 6", "no localization", "over samples whose object is retained", "7.5 (default)"):
        assert words in first.output

    with Image.open(tmp_path / "tables" / "modules.png") as sheet:
        assert sheet.width > 6 * 128 and sheet.height > 2 * 128
    assert (tmp_path / "tables" / "guidance.png").stat().st_size > 5000
    edits = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "edits").rglob("*.png")}
    # 7 of modules and guidance edit both samples, 2 of T only the one whose object is retained.
    assert len(edits) == (4 + 5) * 2 + 2

    # Again: nothing is edited anew; fewer samples and slices are tables of the same edits.
    again = CliRunner().invoke(app, [*arguments, "--samples", "p1-a-red-thing", "--slice", "kind"])
    assert again.exit_code == 0, again.output
    assert edits == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "edits").rglob("*.png")}
    sliced = pd.read_csv(tmp_path / "run" / "ablation.csv")
    assert set(sliced[sliced["n"] > 0]["slice"]) == {"pose"}
    wrong = CliRunner().invoke(app, [*arguments, "--samples", "nobody"])
    assert isinstance(wrong.exception, UserError) and "no sample nobody" in str(wrong.exception)
    assert Store.open(tmp_path / "run").run.samples == ["p0-a-red-thing", "p1-a-red-thing"]


def test_the_release_refines_and_retains_backgrounds_too() -> None:
    background = replace(next(iter(samples(1))), kind="background", retain_object=True)
    for method, acts in (("cpam", False), ("cpam-release", True)):
        groups = ablate.plan(["T", "refine"], method).groups
        assert [group.acts(background) for group in groups.values()] == [acts, acts]
    assert groups["refine"].where == "replacements and changes of pose and backgrounds and additions"
