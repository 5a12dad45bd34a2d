from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from cpam_bench.imba.common.labels import build, canonical, describe, split
from cpam_bench.imba.errors import UserError


@dataclass(frozen=True)
class Tuned:
    """Every type of parameter that an editor may have."""

    flag: bool = True
    count: int = 3
    scale: float = 7.5
    name: str = "plain"
    limit: float | None = None
    preset: Literal["paper", "release"] = "paper"
    when: int | str = 4

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count must not be negative")


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("flag=false", "flag", False),
        ("flag=No", "flag", False),
        ("count=5", "count", 5),
        ("scale=5", "scale", 5.0),
        ("scale=1e-3", "scale", 0.001),
        ("name=true", "name", "true"),
        ("limit=2", "limit", 2.0),
        ("limit=none", "limit", None),
        ("preset=release", "preset", "release"),
        ("when=7", "when", 7),
        ("when=late", "when", "late"),
    ],
)
def test_values_by_type(text, field, value):
    found = getattr(build(Tuned, "method 'tuned'", text), field)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flag=maybe", "takes true or false"),
        ("count=1.5", "takes a whole number"),
        ("scale=nan", "takes a number"),
        ("preset=papre", "takes paper or release"),
        ("limit=some", "takes a number or none"),
        ("skale=3", "did you mean scale"),
        ("scale", "not key=value"),
        ("scale=1,scale=2", "given twice"),
        ("count=-1", "must not be negative"),
    ],
)
def test_bad_values_are_told(text, words):
    with pytest.raises(UserError, match=words):
        build(Tuned, "method 'tuned'", text)


def test_canonical_labels_name_what_differs_and_read_back():
    assert canonical("tuned", Tuned()) == "tuned"
    assert canonical("tuned", build(Tuned, "method 'tuned'", "scale=7.50,flag=yes")) == "tuned"
    editor = build(Tuned, "method 'tuned'", "scale=0.1,preset=release,limit=3,flag=0")
    label = canonical("tuned", editor)
    assert label == "tuned:flag=false,limit=3,preset=release,scale=0.1"
    assert build(Tuned, "method 'tuned'", label.partition(":")[2]) == editor
    third = Tuned(scale=1 / 3)
    assert build(Tuned, "method 'tuned'", canonical("tuned", third).partition(":")[2]) == third


def test_lists_of_labels():
    assert split("cpam,masactrl") == ["cpam", "masactrl"]
    assert split(" cpam:a=1,b=2 , masactrl:c=3,pnp,") == ["cpam:a=1,b=2", "masactrl:c=3", "pnp"]


def test_parameters_are_described():
    described = {parameter.name: parameter for parameter in describe(Tuned)}
    assert described["limit"].takes == "a number or none" and described["limit"].default == "none"
    assert described["preset"].takes == "paper or release"


@dataclass(frozen=True)
class Preset:
    presets: ClassVar = {"paper": {"count": 10, "rate": 0.5, "name": "b"}, "code": {"count": 3}}

    count: int = 3
    rate: float = 0.1
    name: str = "a"


def test_presets_are_settings_under_a_name():
    paper = Preset(10, 0.5, "b")
    assert build(Preset, "method 'it'", "preset=paper") == paper
    assert build(Preset, "method 'it'", "preset=paper,rate=0.1") == build(
        Preset, "method 'it'", "rate=0.1,preset=paper"
    )
    assert build(Preset, "method 'it'", "preset=paper,rate=0.1").rate == 0.1
    assert build(Preset, "method 'it'", "preset=code") == Preset()
    with pytest.raises(UserError, match="no preset 'papre'; it has: paper, code"):
        build(Preset, "method 'it'", "preset=papre")
    with pytest.raises(UserError, match="two presets"):
        build(Preset, "method 'it'", "preset=paper,preset=code")
    with pytest.raises(UserError, match="no parameter 'preset'"):
        build(dataclass(type("Bare", (), {})), "it", "preset=paper")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("preset=paper", "it:preset=paper"),
        ("count=10,rate=0.5,name=b", "it:preset=paper"),
        ("count=10,rate=0.5", "it:count=10,rate=0.5"),
        ("preset=paper,count=11", "it:count=11,preset=paper"),
        ("preset=paper,count=3,rate=0.1", "it:name=b"),
        ("preset=code", "it"),
    ],
)
def test_a_configuration_has_one_label_with_presets_too(text, label):
    editor = build(Preset, "method 'it'", text)
    assert canonical("it", editor) == label
    assert build(Preset, "method 'it'", label.partition(":")[2]) == editor


def test_presets_are_described():
    first = describe(Preset)[0]
    assert (first.name, first.takes, first.default) == ("preset", "paper or code", "none")
    assert "paper (count=10, rate=0.5, name=b); code (count=3)" in first.help
