"""The folders' own names as import names, in a checkout: ``cpam.editing`` is the module ``cpam_bench.cpam.editing``.

Packages of others and reference checks import those names.  An installed cpam-bench has ``cpam_bench`` alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FOLDERS = ("imba", "cpam", "baselines", "eval")


class _Alias(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in FOLDERS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"cpam_bench.{spec.name}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has noted the alias in the module; it keeps its own name.
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def alias() -> None:
    """Let the folders' names mean the packages of ``cpam_bench``, those imported already included."""
    if not any(isinstance(finder, _Alias) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Alias())
    for name in FOLDERS:
        sys.modules[name] = importlib.import_module(f"cpam_bench.{name}")
