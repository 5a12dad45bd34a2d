"""What MkDocs does besides: pages show what lies in ``results/`` and ``examples/``.

In the repository a page links to ``../results/pocket/edits.png``.  The site has no place above its pages, so that these
folders become folders of the site, and the links lose one step up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = {"results": {".png", ".csv", ".json", ".md"}, "examples": {".py", ".toml", ".ipynb"}}
"""What of these folders becomes part of the site."""

_UP = re.compile(r"(\]\()((?:\.\./)+)(results/|examples/)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages show; runs, which are not committed, stay out."""
    for folder, suffixes in SHOWN.items():
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix not in suffixes or name.startswith("results/runs/"):
                continue
            if path.suffix != ".md" or path.name == "README.md":  # other Markdown is a table, not a page
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to these folders as the site has them."""
    return _UP.sub(lambda match: match[1] + match[2].removesuffix("../") + match[3], markdown)
