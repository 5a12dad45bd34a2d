"""Benchmark of text-guided editing of real images, around IMBA.

The packages are the folders ``imba``, ``cpam``, ``baselines`` and ``eval`` of the repository, installed under this
name, because a user's own ``eval.py`` must never be taken for ours.
"""

import importlib.metadata

__version__ = importlib.metadata.version("cpam-bench")
