"""What samples and runs share: edits in batches, one inversion a sample, and trajectories kept on disk."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_helpers import Brighten, FakeBackbone, described, editors, run_all, samples, write_dataset
from test_executors import TINY, contents

import cpam_bench.imba.dataset
from cpam_bench.baselines.fpe import FPE
from cpam_bench.baselines.masactrl import MasaCtrl
from cpam_bench.baselines.null_text import invert_null_text
from cpam_bench.baselines.p2p import P2P
from cpam_bench.baselines.pnp import PnP
from cpam_bench.baselines.reference import DDIM
from cpam_bench.cpam import inversion
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import BesideSource
from cpam_bench.cpam.editor import CPAM
from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.sampling import Branch, reconstruct, sample_together
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.cache import TrajectoryCache
from cpam_bench.eval.run.describe import describe_run
from cpam_bench.eval.run.executor import Executor, Serial
from cpam_bench.eval.run.inversion import halving
from cpam_bench.eval.run.messages import Made, Note, Unit
from cpam_bench.eval.run.processes import Processes
from cpam_bench.eval.run.worker import Recipe
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.sample import Sample

STEPS = 4
NULL_TEXT_EPSILON = 0.0095
"""With which null-text inversion stops after 2 and 4 of at most 4 optimisation steps of its first level."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> cpam_bench.imba.dataset.Dataset:
    return cpam_bench.imba.dataset.load(str(write_dataset(tmp_path_factory.mktemp("data") / "set", count=3)))


@pytest.fixture(scope="module")
def sources(backbone: Backbone, data: cpam_bench.imba.dataset.Dataset) -> list[Source]:
    return [Source(sample, backbone, STEPS) for sample in data]


# batches --------------------------------------------------------------------------------------------------------------


def close(together: torch.Tensor, alone: Sequence[torch.Tensor]) -> None:
    for one, other in zip(together.split(1), alone, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


def test_inversion_and_reconstruction_together_are_those_of_each(backbone: Backbone, sources: list[Source]) -> None:
    both = invert(backbone, torch.cat([source.latents for source in sources]), STEPS)
    for level in range(STEPS + 1):
        close(both.latents[level], [source.trajectory.latents[level] for source in sources])
    assert [len(one.latents) for one in both.split()] == [STEPS + 1] * 3
    again = Trajectory.together(both.split())
    assert all(torch.equal(a, b) for a, b in zip(again.latents, both.latents, strict=True))
    close(reconstruct(backbone, both), [reconstruct(backbone, source.trajectory) for source in sources])


BESIDE: dict[str, BesideSource] = {
    "cpam": CPAM(),
    "refined": CPAM(refine=True, normal_layers=0.5),
    "masactrl": MasaCtrl(step=1),
    "on its own": MasaCtrl(step=1, trajectory=False),
    "fpe": FPE(),
    "pnp": PnP(inversion_steps=0),
    "pnp, captioned": PnP(inversion_steps=8, caption=True, trajectory=False),
    "p2p": P2P(inner_steps=2),
    "negative prompt": P2P(inversion="negative-prompt", guidance=3.0),
    "ddim": DDIM(guidance=5.0),
}


@pytest.fixture(scope="module")
def tasks(data: cpam_bench.imba.dataset.Dataset) -> list[Sample]:
    """Two, each with prompts of its own."""
    both = data.samples[:2]
    return [replace(s, target_prompt=f"a blue thing {i}", source_prompt=f"thing {i}") for i, s in enumerate(both)]


@pytest.fixture(scope="module")
def alone(backbone: Backbone, tasks: list[Sample], sources: list[Source]) -> dict[str, list[torch.Tensor]]:
    return {
        name: [
            sample_together(backbone, editor.branches([sample], [source], [i]))[0]
            for i, (sample, source) in enumerate(zip(tasks, sources, strict=False))
        ]
        for name, editor in BESIDE.items()
    }


@pytest.mark.parametrize("name", BESIDE)
def test_edits_together_are_those_of_each(
    name: str, backbone: Backbone, tasks: list[Sample], sources: list[Source], alone: dict[str, list[torch.Tensor]]
) -> None:
    together = sample_together(backbone, BESIDE[name].branches(tasks, sources[:2], [0, 1]))
    close(torch.cat(together), alone[name])
    assert not torch.allclose(together[0], together[1], rtol=0.1)  # so that a mix-up would show


def test_methods_beside_one_source_share_its_lane(
    backbone: Backbone, tasks: list[Sample], sources: list[Source], alone: dict[str, list[torch.Tensor]]
) -> None:
    branches = [branch for editor in BESIDE.values() for branch in editor.branches(tasks, sources[:2], [0, 1])]
    before = backbone.evaluations
    together = sample_together(backbone, branches)
    # Of each sample the trajectory itself (five methods), it denoised on its own, those of PnP, of null-text inversion
    # and of the negative prompt; and two lanes of every target.
    assert backbone.evaluations - before == STEPS * 2 * (5 + 2 * len(BESIDE))
    for index, name in enumerate(BESIDE):
        close(torch.cat(together[2 * index : 2 * index + 2]), alone[name])


def test_null_text_stops_for_each_sample_by_itself(
    backbone: Backbone, tasks: list[Sample], sources: list[Source]
) -> None:
    prompts = [sample.source_prompt or "" for sample in tasks]
    pivots = [invert(backbone, s.latents, STEPS, prompt) for s, prompt in zip(sources, prompts, strict=False)]
    counts = []
    for some in ([0], [1], [0, 1]):
        before = backbone.evaluations
        invert_null_text(
            backbone, [pivots[i] for i in some], [prompts[i] for i in some], inner_steps=4, epsilon=NULL_TEXT_EPSILON
        )
        counts.append(backbone.evaluations - before)
    assert counts[2] == counts[0] + counts[1]
    assert counts[0] != counts[1]  # so that stopping together would show


def test_targets_together_need_one_schedule(backbone: Backbone, sources: list[Source]) -> None:
    short = invert(backbone, sources[0].latents, 2)
    with pytest.raises(ValueError, match="one schedule"):
        sample_together(backbone, [Branch(sources[0].trajectory, "a dog"), Branch(short, "a dog")])


class Tiny:
    labels = ("identity", "reconstruction", "ddim", "masactrl:step=1", "cpam")

    def __init__(
        self,
        data: cpam_bench.imba.dataset.Dataset,
        backbone: Backbone,
        cache: TrajectoryCache | None = None,
        lockstep: tuple[str, ...] = (),
    ):
        self.data, self.backbone = data, backbone
        self.editors = dict(registry.make(label) for label in self.labels)
        load = functools.partial(Backbone.load, str(TINY))
        self.recipe = Recipe(self.editors, load, backbone.fingerprint, 3, 0, threads=1, cache=cache, lockstep=lockstep)

    def run(self, folder: Path, executor: Executor | None = None, batch: int = 2) -> Store:
        run = describe_run({}, self.data, self.data.samples, self.backbone, self.editors, steps=3, seed=0)
        run = replace(run, batch=batch, lockstep=list(self.recipe.lockstep))
        executor = executor or Serial(self.recipe.with_backbone(self.backbone), 1)
        with locked(folder):
            store = Store.create_or_resume(folder, run)
            assert (
                runner.run(store, self.data.samples, self.editors, self.backbone, executor=executor, progress=False)
                == []
            )
        return store


def test_batches_have_the_same_bits_wherever_and_whenever_they_are_made(
    tmp_path: Path, data: cpam_bench.imba.dataset.Dataset, backbone: Backbone
) -> None:
    tiny = Tiny(data, backbone)
    whole = tiny.run(tmp_path / "whole")
    expected = contents(whole.folder)
    assert contents(tiny.run(tmp_path / "processes", Processes(tiny.recipe, 2)).folder) == expected
    ids = [sample.id for sample in data]
    for label, id in (("cpam", ids[0]), ("ddim", ids[1]), ("masactrl:step=1", ids[2])):
        whole.edit_path(label, id).unlink()
    assert contents(tiny.run(whole.folder).folder) == expected


LOCKSTEP = ("ddim", "masactrl:step=1", "cpam")


def test_methods_in_lockstep_are_what_they_are_alone(
    tmp_path: Path, data: cpam_bench.imba.dataset.Dataset, backbone: Backbone
) -> None:
    locked = Tiny(data, backbone, lockstep=LOCKSTEP)
    before = backbone.evaluations
    store = locked.run(tmp_path / "locked")
    # A sample's lanes at each of 3 steps: inverted, reconstructed, its source once, two of each target.
    assert backbone.evaluations - before == 3 * 3 * (1 + 1 + 1 + 2 * len(LOCKSTEP))
    alone = Tiny(data, backbone).run(tmp_path / "alone")
    there = {(edit.method, edit.sample): edit for edit in store.edits()[0]}
    for edit in alone.edits()[0]:
        now = there[edit.method, edit.sample]
        off = np.asarray(store.read_picture(now)).astype(int) - np.asarray(alone.read_picture(edit))
        assert abs(off).max() <= 1
        assert (now.inversion, now.mask_read, now.params) == (edit.inversion, edit.mask_read, edit.params)
        assert now.seconds > 0 or edit.method == "identity"
    # The methods that go in lockstep decide the bits, and not what is pending.
    expected = contents(store.folder)
    store.edit_path("masactrl:step=1", data.samples[1].id).unlink()
    assert contents(locked.run(store.folder).folder) == expected


def test_a_method_that_fails_in_lockstep_leaves_the_others(
    tmp_path: Path, data: cpam_bench.imba.dataset.Dataset, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = Tiny(data, backbone, lockstep=LOCKSTEP)
    samples = [replace(data.samples[0], region=None)]
    run = describe_run({}, data, samples, backbone, tiny.editors, steps=3, seed=0, lockstep=LOCKSTEP)
    store = Store.create_or_resume(tmp_path, run)
    executor = Serial(tiny.recipe.with_backbone(backbone), 1)
    failures = runner.run(store, samples, tiny.editors, backbone, executor=executor, progress=False)
    assert [failure.method for failure in failures] == ["cpam"]
    assert "cpam in lockstep: UserError: sample p0-a-red-thing: no mask" in capsys.readouterr().err
    assert sum(edit.status == "ok" for edit in store.edits()[0]) == len(tiny.labels) - 1


def test_too_little_memory_halves_what_goes_in_lockstep(
    tmp_path: Path,
    data: cpam_bench.imba.dataset.Dataset,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    widths = []

    def small(backbone: Backbone, branches: Sequence[Branch]) -> list[torch.Tensor]:
        widths.append(len(branches))
        if len(branches) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample_together(backbone, branches)

    monkeypatch.setattr("cpam_bench.eval.run.worker.sample_together", small)
    worker = Tiny(data, backbone, lockstep=LOCKSTEP).recipe.with_backbone(backbone)
    unit = Unit((data.samples[0],), dict.fromkeys(LOCKSTEP, (data.samples[0].id,)))
    messages = list(worker.work(unit))
    assert widths == [3, 1, 2]
    assert [one.edit.status for one in messages if isinstance(one, Made)] == ["ok"] * 3
    assert Note("out of memory sampling 3 edits together: going on with 1 at a time") in messages


def test_each_sample_is_inverted_once(
    tmp_path: Path, data: cpam_bench.imba.dataset.Dataset, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverted = []
    real = inversion.invert

    def counting(backbone: Any, latents: torch.Tensor, *more: Any) -> Trajectory:
        inverted.append(len(latents))
        return real(backbone, latents, *more)

    monkeypatch.setattr("cpam_bench.eval.run.inversion.invert", counting)
    monkeypatch.setattr("cpam_bench.cpam.source.invert", counting)
    store = Tiny(data, backbone).run(tmp_path / "run")
    assert inverted == [2, 1]
    how = [(edit.sample, edit.inversion) for edit in store.edits()[0]]
    assert [[kind for id, kind in how if id == sample.id] for sample in data] == [
        ["", "computed", "shared", "shared", "shared"]
    ] * 3


@dataclass(frozen=True)
class Hungry(Brighten):
    """Has room for ``room`` samples at a time."""

    room: int = 2
    poisoned: bool = False

    def edit_many(self, samples: list[Sample], sources: list[Any], seeds: list[int]) -> list[Image.Image]:
        if len(samples) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.poisoned:
            raise RuntimeError("one of them is bad")
        return [self.edit(*each) for each in zip(samples, sources, seeds, strict=True)]


def test_too_little_memory_halves_the_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = run_all(tmp_path / "alone", editors(Hungry()), samples(5))
    assert alone == []
    assert run_all(tmp_path / "batch", editors(Hungry()), samples(5), batch=5) == []
    said = capsys.readouterr().err
    assert "out of memory editing by brighten 5 samples together: going on with 2 at a time" in said
    assert "3 samples together: going on with 1 at a time" in said
    assert contents(tmp_path / "alone") == contents(tmp_path / "batch")


def test_no_room_for_one_is_an_error() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    notes: list[str] = []
    with pytest.raises(torch.OutOfMemoryError):
        halving([1, 2, 3, 4], work, notes.append, "editing")
    assert len(notes) == 2


def test_what_fails_together_is_made_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = editors(Hungry(poisoned=True))
    assert run_all(tmp_path, chosen, samples(2), batch=2) == []
    assert "s0, s1 together: RuntimeError: one of them is bad; going on one by one" in capsys.readouterr().err
    assert sum(edit.status == "ok" for edit in Store.open(tmp_path).edits()[0]) == 2


def test_another_batch_is_refused() -> None:
    one, two = (described(editors(Brighten()), samples(1), batch=batch) for batch in (1, 2))
    assert one.differences(two) == ["batch: 1 -> 2"]
    assert FakeBackbone.resolution == one.backbone.resolution


def test_the_filter_of_pictures_is_recorded_and_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = described(editors(Brighten()), samples(1))
    monkeypatch.setattr(FakeBackbone, "resize", "nearest")
    other = described(editors(Brighten()), samples(1))
    assert "bicubic" in usual.protocol["images"] and "nearest neighbour" in other.protocol["images"]
    assert [difference.partition(":")[0] for difference in usual.differences(other)] == ["protocol.images"]


# the cache ------------------------------------------------------------------------------------------------------------


def latents(seed: int) -> list[torch.Tensor]:
    return list(torch.randn(5, 1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).unbind())


CPU = torch.device("cpu")


def test_the_cache_gives_back_the_bits(tmp_path: Path) -> None:
    cache = TrajectoryCache(tmp_path, 10**9)
    assert cache.get({"image": "a"}, 4, CPU) is None
    cache.put({"image": "a"}, latents(0), 1.25)
    found, seconds = cache.get({"image": "a"}, 4, CPU) or ([], 0)
    assert seconds == 1.25 and all(torch.equal(a, b) for a, b in zip(found, latents(0), strict=True))
    assert cache.get({"image": "b"}, 4, CPU) is None
    assert (cache.hits, cache.misses) == (1, 2)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = TrajectoryCache(tmp_path, 10**9)
    cache.put({}, latents(0), 1.0)
    (path,) = tmp_path.glob("*/*.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes({"cut": data[:200], "flip": data, "empty": b"", "other": b"a picture, say" * 9}[damage])
    assert cache.get({}, 4, CPU) is None
    assert "is damaged" in caplog.text
    cache.put({}, latents(0), 1.0)
    assert cache.get({}, 4, CPU) is not None


def test_the_cache_stays_within_its_size(tmp_path: Path) -> None:
    size = 4 * 5 * 4 * 8 * 8
    cache = TrajectoryCache(tmp_path, 3 * size + 3000)
    for i in range(3):
        cache.put({"i": i}, latents(i), 1.0)
        time_of(tmp_path, i)
    assert cache.get({"i": 0}, 4, CPU) is not None  # now used last
    cache.put({"i": 3}, latents(3), 1.0)
    assert [cache.get({"i": i}, 4, CPU) is not None for i in range(4)] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= cache.limit


def time_of(folder: Path, age: int) -> None:
    """Make the newest entry look as if it had been used a while ago."""
    import os

    newest = max(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    os.utime(newest, (1000 + age, 1000 + age))


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    TrajectoryCache(tmp_path / "file", 10**9).put({}, latents(0), 1.0)
    assert "cannot be written" in caplog.text


def test_a_run_out_of_the_cache_is_the_same_run(
    tmp_path: Path, data: cpam_bench.imba.dataset.Dataset, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = TrajectoryCache(tmp_path / "cache", 10**9)
    tiny = Tiny(data, backbone, cache)
    first = tiny.run(tmp_path / "first")
    assert (cache.hits, cache.misses) == (0, 3)
    second = tiny.run(tmp_path / "second")
    assert cache.hits == 3
    assert "inversions: 3 from the cache, 0 computed" in capsys.readouterr().err
    assert contents(first.folder) == contents(second.folder)
    kinds = {edit.inversion for edit in second.edits()[0]}
    assert kinds == {"", "cached", "shared"}
    assert all(edit.inversion_seconds > 0 for edit in second.edits()[0] if edit.inversion)
    # What decides the bits, decides the entry.
    tiny.run(tmp_path / "alone", batch=1)
    assert (cache.hits, cache.misses) == (4, 5)  # the third sample was alone before, too
