"""Where the tests' files are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
REFERENCE = DATA / "reference"
TINY = REFERENCE / "tiny-sd"
PUBLISHED = ROOT / "results" / "paper"
POCKET = ROOT / "imba" / "data" / "pocket"
