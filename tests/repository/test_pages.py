"""The front page and the manual: links lead somewhere, commands and imports exist, files are where pages say."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from paths import ROOT

from cpam_bench.eval.commands.main import app

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND: Any = typer.main.get_command(app)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"(?:imba|cpam|baselines|eval|tests|docs|examples|results)/(?!community)[\w./-]*\w")
MADE = ("results/runs", "imba/layouts/NAME", "baselines/NAME", "docs/methods/NAME")
"""What pages speak of and the repository does not hold: runs, and names to be filled in."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as MkDocs and GitHub make them of plain words."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode().lower()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


def calls(page: Path) -> Iterator[list[str]]:
    """The words of every call of cpam-bench on a page that is more than the command's name."""
    shell = blocks(page, "sh") + blocks(page, "")
    lines = [line for text in shell for line in text.replace("\\\n", " ").splitlines()]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]
    for line in lines:
        for part in line.split("&&"):
            if part.strip().startswith("cpam-bench "):
                yield shlex.split(part, comments=True)[1:]


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link} has no such heading"


@pages
def test_files_are_where_the_page_says(page: Path) -> None:
    for span in re.findall(r"`([^`]+)`", prose(page)):
        for name in FILE.findall(span):
            if FILE.match(span.split(" ")[0]) or span.startswith(("pytest ", "python ")):
                assert (ROOT / name).exists() or name.startswith(MADE), f"{page.name}: {name}"


@pages
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in calls(page):
        command, rest = COMMAND, list(words)
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"{page.name}: cpam-bench {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
        for word in rest:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in options, f"{page.name}: cpam-bench {' '.join(words)}: {word}"


@pages
def test_python_is_python_and_imports_what_there_is(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cpam_bench"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {node.module} has no {alias.name}"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cpam_bench":
                assert hasattr(importlib.import_module("cpam_bench"), node.attr), f"{page.name}: cpam_bench.{node.attr}"


def test_the_editor_of_the_page_about_extending_edits() -> None:
    from paths import TINY

    from cpam_bench.cpam.backbone import Backbone
    from cpam_bench.cpam.source import Source
    from cpam_bench.imba.dataset import load

    [text] = blocks(ROOT / "docs" / "extending.md", "python")
    names: dict[str, object] = {}
    exec(compile(text, "extending.md", "exec"), names)
    sample = load("pocket").samples[0]
    source = Source(sample, Backbone.load(str(TINY)), steps=2)
    mine = names["Mine"]
    weak, strong = (mine(strength=strength).edit(sample, source, 0) for strength in (0.0, 1.0))  # type: ignore[operator]
    assert weak.size == source.image.size and weak.tobytes() != strong.tobytes()
