"""Names in place of paths, in whatever others are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpam_bench.imba.common.names import cleared, distinct, recorded, shown, without_places


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pocket", "pocket"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("ViT-L-14/openai", "ViT-L-14/openai"),
        ("hf-hub:timm/vit", "hf-hub:timm/vit"),
        ("/home/me/sd/", "sd (1a2b3c4d)"),
        ("../sd", "sd (1a2b3c4d)"),
        ("~/sd", "sd (1a2b3c4d)"),
        (r"C:\models\sd", "sd (1a2b3c4d)"),
        (r"\\server\models\sd", "sd (1a2b3c4d)"),
        ("local-dir:clip", "clip (1a2b3c4d)"),
        ("ViT-B-32/weights/mine.pt", "mine.pt (1a2b3c4d)"),
        ("/", "a folder (1a2b3c4d)"),
    ],
)
def test_names_and_places(name: str, expected: str) -> None:
    assert shown(name, "1a2b3c4d5e6f") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Errno 2] No such file: '/tmp/a/b.png'", "[Errno 2] No such file: 'b.png'"),
        (r"C:\Users\me\x.png is gone", "x.png is gone"),
        ("file:///tmp/a/b.png and ~/a/b", "b.png and b"),
        ("https://example.org/a/b says 1/2 and/or 3 / 4", "https://example.org/a/b says 1/2 and/or 3 / 4"),
        ("mine:weights=/home/me/a.pt,steps=2", "mine:weights=a.pt,steps=2"),
    ],
)
def test_paths_inside_texts(text: str, expected: str) -> None:
    assert without_places(text) == expected
    assert cleared({"a": [text, 1, None]}) == {"a": [expected, 1, None]}


def test_labels_that_differ_in_their_folders_alone_stay_apart() -> None:
    found = distinct(["m:w=/a/x.pt", "m:w=/b/x.pt", "cpam"])
    assert len(set(found.values())) == 3 and found["cpam"] == "cpam"
    assert all(name.startswith("m:w=x.pt (") for label, name in found.items() if label != "cpam")


def test_a_folder_that_is_here_is_recorded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "sd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert recorded("models/sd") == str(tmp_path / "models" / "sd") and recorded("org/model") == "org/model"
