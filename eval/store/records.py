"""What a run notes of itself, as small frozen records, and how they are read back from JSON.

Bytes on disk are the records' fields in their order.  What a later version has added to a record is kept when the
record is written again, and said once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
import typing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from cpam_bench.imba.common.hashes import are_pocket
from cpam_bench.imba.common.names import cleared, distinct, shown, without_places
from cpam_bench.imba.common.places import get
from cpam_bench.imba.kinds import Altered, Kind

log = logging.getLogger(__name__)

T = TypeVar("T")
Inversion = Literal["", "computed", "shared", "cached"]
READY_MADE = "imported"
"""What is called the method of pictures that were made elsewhere."""


@dataclass(frozen=True)
class DataSet:
    """The data set of a run.

    Attributes:
        name: of its folder.
        fingerprint: sha256 over its records and files, the masks among them.
        pocket: whether it is the embedded one.
        records: how many records it has, of which the run may edit some; None where that was not noted.
        left_out: sample or record -> why it could not be edited, where such are skipped.
        masks: whose the masks are, in words; None where there is nothing to say or it was not noted.
        annotations: sha256 over its records alone, whatever their spacing; it tells a benchmark by what it asks for.
    """

    name: str
    fingerprint: str = ""
    pocket: bool = False
    records: int | None = field(default=None, metadata={"optional": True})
    left_out: dict[str, str] = field(default_factory=dict, metadata={"optional": True})
    masks: str | None = field(default=None, metadata={"optional": True})
    annotations: str | None = field(default=None, metadata={"optional": True})
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneFacts:
    """The backbone of a run: its name, component -> sha256 of its weights, edge in pixels, whether the embedded one."""

    name: str
    weights: dict[str, str]
    resolution: int
    pocket: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ValueError(f"resolution is {self.resolution}, and must be 1 at least")


@dataclass(frozen=True)
class Method:
    """A method of a run.

    Attributes:
        method: its name, without parameters.
        title: as the paper's tables call it.
        edits: whether it is a method of editing; a reference row only bounds the scale.
        parameters: every one with its value.
        reference: where it is published.
        package: that it comes from, with its version; empty if it is not known.
    """

    method: str
    title: str
    edits: bool
    parameters: dict[str, Any]
    reference: str = ""
    package: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def called(self) -> str | None:
        """The name of pictures that were made elsewhere; None of a method.

        Runs of early versions have the folder of such pictures in label and parameters; it is nobody else's business.
        """
        ready_made = self.method == READY_MADE or self.parameters.keys() == {"called", "folder"}
        return str(self.parameters.get("called", self.method)) if ready_made else None

    def after(self, old: Method) -> Method:
        """The same in a run that has it already: parameters that came later have their defaults in its edits."""
        kept = {key: value for key, value in self.parameters.items() if key in old.parameters}
        return replace(self, parameters=kept, more=old.more)

    def shared(self) -> Method:
        """The same without what says where something is on this machine."""
        if self.called is None:
            return replace(self, parameters=cleared(self.parameters))
        kept = {key: value for key, value in self.parameters.items() if key != "folder"}
        return replace(self, method=READY_MADE, parameters=cleared(kept))


@dataclass(frozen=True)
class Protocol:
    """How a metric was measured: in words, by which model, and in ``more`` whatever else decides its values."""

    protocol: str = ""
    scorer: str | None = field(default=None, metadata={"optional": True})
    weights_sha256: str | None = field(default=None, metadata={"optional": True})
    more: dict[str, Any] = field(default_factory=dict)

    def shared(self) -> Protocol:
        """The same without what says where something is on this machine."""
        scorer = self.scorer and shown(self.scorer, self.weights_sha256)
        return replace(self, protocol=without_places(self.protocol), scorer=scorer, more=cleared(self.more))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was scored and how: the contents of ``scores.json``.

    Attributes:
        inputs: hash over everything that was measured; empty where it was not noted.
        resolution: of the pictures; None where it was not noted.
        background: what counts as background, in words.
        metrics: name -> protocol.
        versions: of the packages that matter.
    """

    inputs: str = ""
    resolution: int | None = None
    background: str = ""
    metrics: dict[str, Protocol]
    versions: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def shared(self) -> Measured:
        """The same without what says where something is on this machine."""
        names = distinct(self.metrics)
        return replace(self, metrics={names[label]: metric.shared() for label, metric in self.metrics.items()})


@dataclass(frozen=True)
class Run:
    """How a run is made: the contents of ``run.json``.

    Attributes:
        arguments: of the command, as given.
        dataset, backbone: what they are.
        steps: of the inversion and of the editing.
        seed: of the run; each edit's own is derived from it.
        dtype, device: of the networks; device is its kind, ``cpu`` or ``cuda``.
        protocol: how pictures and masks are prepared, in words.
        methods: label -> what it is.
        samples: ids, in the data set's order.
        versions: of the packages that matter.
        machine: what it ran on.
        created: when, ISO 8601, UTC.
        threads: of torch in each worker, on which sums on the CPU depend; None where they do not matter or are unknown.
        batch: how many samples are edited together, on which the last bits depend.
        lockstep: labels of the methods that are edited together, on which the last bits depend too.
    """

    arguments: dict[str, Any]
    dataset: DataSet
    backbone: BackboneFacts
    steps: int
    seed: int
    dtype: str
    device: str
    protocol: dict[str, str]
    methods: dict[str, Method]
    samples: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    threads: int | None = None
    batch: int = 1
    lockstep: list[str] = field(default_factory=list, metadata={"optional": True})
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, and must be 1 at least")

    @property
    def is_pocket(self) -> bool:
        """Whether data or backbone are the small embedded ones, not to be set beside the paper's numbers.

        Runs of early versions have noted that by the name alone; the hashes also tell it of copies.
        """
        hashes = [self.dataset.fingerprint, *self.backbone.weights.values()]
        return self.dataset.pocket or self.backbone.pocket or are_pocket(hashes)

    def differences(self, new: Run) -> list[str]:
        """What would make edits come out otherwise, as ``key: old -> new``; methods and samples may be added freely."""
        old_keys, new_keys = _decisive(self), _decisive(new)
        shared = [key for key in old_keys if key in new_keys or not key.startswith(_MAY_LACK)]
        added = [key for key in new_keys if key not in old_keys and not key.startswith(_MAY_LACK)]
        return [
            f"{key}: {_short(old_keys.get(key))} -> {_short(new_keys.get(key))}"
            for key in [*shared, *added]
            if old_keys.get(key) != new_keys.get(key)
        ]

    def shared(self) -> Run:
        """The same without what says where something is on this machine, as are the command's arguments."""
        names = distinct(method.called or label for label, method in self.methods.items())
        weights = self.backbone.weights
        return replace(
            self,
            arguments={},
            dataset=replace(self.dataset, name=shown(self.dataset.name, self.dataset.fingerprint)),
            backbone=replace(
                self.backbone, name=shown(self.backbone.name, weights.get("unet", next(iter(weights.values()), None)))
            ),
            methods={names[method.called or label]: method.shared() for label, method in self.methods.items()},
        )

    def extended(self, new: Run) -> Run:
        """This run with the methods and samples of another one added."""
        known = set(self.samples)
        samples = [*self.samples, *(sample for sample in new.samples if sample not in known)]
        methods = {
            label: method.after(self.methods[label]) if label in self.methods else method
            for label, method in new.methods.items()
        }
        left_out = {
            name: why
            for name, why in {**self.dataset.left_out, **new.dataset.left_out}.items()
            if name not in set(samples)
        }
        dataset = replace(self.dataset, records=new.dataset.records, left_out=left_out, masks=new.dataset.masks)
        return replace(self, dataset=dataset, methods={**self.methods, **methods}, samples=samples)


_MAY_LACK = ("methods.", "threads")
"""What decides edits where both runs have it: methods may be added, and early runs did not note their threads."""


def _decisive(run: Run) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "dataset.fingerprint": run.dataset.fingerprint,
        "backbone.resolution": run.backbone.resolution,
        "steps": run.steps,
        "seed": run.seed,
        "dtype": run.dtype,
        "device": run.device,
        "batch": run.batch,
        "lockstep": ", ".join(run.lockstep),
    }
    if run.threads is not None:
        keys["threads"] = run.threads
    keys |= {f"backbone.weights.{part}": digest for part, digest in run.backbone.weights.items()}
    # How costs are measured decides no picture.
    keys |= {f"protocol.{key}": run.protocol[key] for key in ("images", "masks")}
    for label, method in run.methods.items():
        keys |= {f"methods.{label}.{key}": value for key, value in method.parameters.items()}
    return keys


def _short(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return "nothing" if value is None else str(value)


@dataclass(frozen=True)
class Edit:
    """The record of one edit.

    Attributes:
        method: canonical label.
        sample: id.
        status: ``ok`` or ``failed``.
        params: every parameter of the method, and what its ``inputs`` says of files that it read.
        seed: that the editor was given.
        seconds: wall time of the edit, without the inversion that the methods of a sample share.
        inversion_seconds: wall time of that inversion if this method used it, else 0; from the cache: when it was made.
        inversion: whether it was ``computed`` for this edit, ``shared`` with one before it, ``cached``, or not used.
        peak_memory_mib: highest memory during the edit, or None where it cannot be measured.
        error, traceback: of a failed edit.
        image_sha256: of the PNG file.
        versions: of the packages that made it.
        processor: name of the processor or graphics card that made it.
        mask_read: whether the editor has read the sample's mask; None where that was not noted.
    """

    method: str
    sample: str
    status: Literal["ok", "failed"]
    params: dict[str, Any]
    seed: int
    seconds: float = 0.0
    inversion_seconds: float = 0.0
    inversion: Inversion = ""
    peak_memory_mib: float | None = None
    error: str | None = None
    traceback: str | None = None
    image_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    processor: str = ""
    mask_read: bool | None = field(default=None, metadata={"optional": True})
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What the metrics, tables and pages need to know of a sample; ``sources/<id>.json``.

    ``caption_by`` is the captioner that wrote ``source_prompt``, or None if the data set has it; ``tags`` are the data
    set's own, each ``NAME`` or ``NAME=VALUE``; ``edited_words`` are a word of each prompt, where the data set has them.
    """

    id: str
    target_prompt: str
    object_prompt: str = ""
    altered: Altered = "foreground"
    retain_object: bool = False
    kind: Kind = "replace"
    source_prompt: str | None = None
    caption_by: str | None = None
    several_objects: bool = False
    image_sha256: str = ""
    mask_sha256: str | None = None
    truth_sha256: str | None = None
    tags: list[str] = field(default_factory=list, metadata={"optional": True})
    edited_words: list[str] | None = field(default=None, metadata={"optional": True})
    more: dict[str, Any] = field(default_factory=dict)


# to and from JSON ----------------------------------------------------------------------------------------------------


def plain(record: Any) -> dict[str, Any]:
    """A record as JSON has it: its fields in their order, then what it does not know."""
    data = {
        one.name: _plain(getattr(record, one.name))
        for one in fields(record)
        if one.name != "more" and not (one.metadata.get("optional") and getattr(record, one.name) in (None, [], {}))
    }
    return {**data, **record.more}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def load(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(get(path).decode(), parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")  # nor is it JSON, but Python reads and writes it


def parse(kind: type[T], data: Any, path: Path) -> T:
    """A record from what JSON holds; keys that this version does not know are kept in ``more``, and said.

    Raises:
        ValueError: what is wrong and where in the record, whatever the data are; it does not name the file.
    """
    record, later = _parse(kind, data, "")
    if later:
        _say(path.parent if kind.__name__ in ("Edit", "Task") else path, ", ".join(sorted(later)))
    return record


def _parse(kind: type[T], data: Any, where: str) -> tuple[T, set[str]]:
    if not isinstance(data, dict):
        raise ValueError(f"{where.rstrip('.') or 'the record'} is {_brief(data)}, not an object")
    hints = _hints(typing.cast("Any", kind))
    later: set[str] = set()
    known: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for key, value in data.items():
        if key in hints:
            known[key] = _value(hints[key], value, where + key, later)
        else:
            more[key] = value
            # A metric says whatever decides its values.
            if kind is not Protocol:
                later.add(where + key)
    if missing := [one.name for one in fields(kind) if _is_required(one) and one.name not in known]:  # type: ignore[arg-type]
        raise ValueError(f"{where}{missing[0]} is missing")
    return typing.cast("Any", kind)(**known, more=more), later


def _value(hint: Any, value: Any, where: str, later: set[str]) -> Any:
    inner = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        made, found = _parse(typing.cast("type[Any]", hint), value, f"{where}.")
        later |= found
        return made
    if typing.get_origin(hint) is dict and dataclasses.is_dataclass(inner[1]):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {_brief(value)}, not an object")
        return {str(key): _value(inner[1], part, f"{where}.{key}", later) for key, part in value.items()}
    try:
        return _adapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        raise ValueError(f"{place} is {_brief(first['input'])}; {first['msg'].lower()}") from None


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return {key: hint for key, hint in typing.get_type_hints(kind).items() if key != "more"}


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _is_required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]} ..."


@functools.cache
def _say(where: Path, keys: str) -> None:
    log.warning("%s says more than this version knows (%s): kept as it is", where, keys)
