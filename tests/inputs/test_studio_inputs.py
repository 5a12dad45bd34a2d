"""What is sent to the studio that no tab of its own would send, and pictures without end."""

from __future__ import annotations

import os
import stat
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from paths import POCKET
from PIL import Image
from ports import free_port

pytest.importorskip("gradio", reason="the extra 'studio' is not installed")

from cpam_bench.eval.studio import serve, session
from cpam_bench.eval.studio.page import annotation_page
from cpam_bench.eval.studio.session import Session, Studio, make_editor, open_file
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.segmenters import GrabCut

APPLE = POCKET / "images" / "replace-apple-to-orange.png"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Path, Any]]:
    """A real server: its address, its folder of uploads, and its page."""
    port = free_port()
    with serve.uploads() as folder:
        page = annotation_page(Studio(None, GrabCut(), POCKET))
        serve.launch(page, port)
        yield f"http://127.0.0.1:{port}", folder, page
        page.close()
    assert not folder.exists()
    assert os.environ.get("GRADIO_TEMP_DIR") != str(folder)


def post(base: str, content: bytes = b"a", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{base}/gradio_api/upload", files={"files": ("a.png", content)}, headers=named, timeout=60)


def test_uploads_are_private(served: tuple[str, Path, Any]) -> None:
    base, folder, _ = served
    for origin in ({}, {"Origin": base}):
        (name,) = post(base, APPLE.read_bytes(), **origin).json()
        assert Path(name).is_relative_to(folder.resolve()) and Path(name).read_bytes() == APPLE.read_bytes()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}]
)
def test_another_page_cannot_send_anything(served: tuple[str, Path, Any], headers: dict[str, str]) -> None:
    base, folder, _ = served
    before = sorted(folder.rglob("*"))
    assert post(base, b"other", **headers).status_code == 403
    assert httpx.post(f"{base}/gradio_api/queue/join", json={}, headers=headers).status_code == 403
    assert sorted(folder.rglob("*")) == before


def test_another_host_is_not_answered(served: tuple[str, Path, Any]) -> None:
    base, _, _ = served
    assert post(base, Host="evil.example", Origin="http://evil.example").status_code == 400
    assert httpx.get(base, headers={"Host": "evil.example"}).status_code == 400


def test_a_request_is_counted_as_it_comes(served: tuple[str, Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    base, folder, _ = served
    monkeypatch.setattr(serve, "BODY", 100_000)
    before = [path for path in folder.rglob("*") if path.is_file()]
    assert post(base, b"x" * 200_000).status_code == 413
    form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"x" * 200_000
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    pieces = (form[start : start + 9999] for start in range(0, len(form), 9999))
    chunked = httpx.post(f"{base}/gradio_api/upload", content=pieces, headers=kind)
    assert chunked.status_code == 413
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path not in before) <= 100_000


def test_the_oldest_uploads_go_first(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").write_bytes(bytes(100))
        os.utime(tmp_path / str(number) / "a.png", (number, number))
    serve.trim(tmp_path, 250)
    assert sorted(path.parent.name for path in tmp_path.rglob("a.png")) == ["3", "4"]


def test_new_tabs_do_not_push_out_an_open_one(served: tuple[str, Path, Any]) -> None:
    _, _, page = served
    tabs = page.server_app.state_holder
    mine = tabs["mine"]
    for number in range(70):
        _ = tabs[f"tab {number}"]
    assert tabs["mine"] is mine


def test_pictures_of_all_tabs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "OPEN", weakref.WeakSet())
    monkeypatch.setattr(session, "PIXELS", 250)
    first, second = Session(), Session()
    first.open(Image.new("RGB", (10, 20)))
    with pytest.raises(UserError, match="close tabs"):
        second.open(Image.new("RGB", (10, 10)))
    assert second.picture is None and first.picture is not None
    first.open(Image.new("RGB", (10, 10)))  # another in its place
    second.open(Image.new("RGB", (10, 15)))
    del first
    second.open(Image.new("RGB", (25, 10)))


def test_a_small_file_of_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size < 30_000
    began = time.monotonic()
    with pytest.raises(UserError, match="12000 x 12000 pixels, more than the 64,000,000"):
        open_file(Session(), str(tmp_path / "large.png"))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("label", ["x=/etc", " x=/nowhere", "my edits=/etc", "pix2pix-zero:bank=/etc/passwd"])
def test_a_label_that_would_have_files_read_is_refused(label: str) -> None:
    with pytest.raises(UserError, match="cpam-bench (run|edit)"):
        make_editor(label)
    assert make_editor("pnp:negative_prompt=blurry")[0] == "pnp:negative_prompt=blurry"
