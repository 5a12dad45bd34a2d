"""What MkDocs does besides: pages show what lies in ``results/``, and their links work in the repository too.

In the repository a page links to ``../results/pocket/edits.png``.  The site has no place above its pages, so that
``results/`` becomes a folder of the site, and the links lose one step up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = {".png", ".csv", ".json", ".md"}
"""What of ``results/`` becomes part of the site."""

_UP = re.compile(r"(\]\()((?:\.\./)+)(results/)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages show of ``results/``; runs, which are not committed, stay out."""
    for path in sorted((ROOT / "results").rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        page = path.suffix == ".md"
        if path.suffix in SHOWN and not name.startswith("results/runs/") and (not page or path.name == "README.md"):
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to ``results/`` as the site has it."""
    return _UP.sub(lambda match: match[1] + match[2].removesuffix("../") + match[3], markdown)
