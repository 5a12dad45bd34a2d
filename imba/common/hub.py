"""The hub that weights come from: what of it is on this machine, whether it answers, and one line when it does not."""

from __future__ import annotations

import functools
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cpam_bench.imba.errors import UserError

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that the hub has to answer."""


def endpoint() -> str:
    """Address of the hub; ``HF_ENDPOINT`` sets another."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


@functools.cache
def trouble() -> str | None:
    """Why nothing can be fetched from the hub, or None where it answers; asked once a process, for :data:`PATIENCE`."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    found = [f"no answer within {PATIENCE:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint(), method="HEAD"), timeout=PATIENCE).close()
        except urllib.error.HTTPError:
            pass  # an answer, of whatever kind
        except (OSError, ValueError) as error:
            found[0] = str(getattr(error, "reason", error)) or type(error).__name__
            return
        found.clear()

    asking = threading.Thread(target=ask, daemon=True)  # a name server may take longer than any timeout
    asking.start()
    asking.join(PATIENCE)
    return found[0] if found else None


def load(place: str, loader: Callable[[bool], T]) -> T:
    """What a loader makes of weights: of those on this machine, else of those that it fetches.

    What is here is taken without asking the hub.  The loader's own errors are left to the caller.

    Args:
        place: a folder, or a repository's name on the hub.
        loader: is told whether to look at files of this machine alone.

    Raises:
        UserError: what is not here cannot be fetched: no network, no such repository, or one that wants a login.
    """
    try:
        return loader(True)
    except (OSError, ValueError):  # not whole on this machine, or not there at all
        if is_local(place):
            raise
        require(place)
    try:
        return loader(False)
    except (OSError, ValueError) as error:
        if refused := refusal(place, error):
            raise UserError(refused) from error
        raise


@contextmanager
def offline() -> Iterator[None]:
    """Inside, libraries that know no ``local_files_only`` take what is on this machine and ask nobody."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_local(place: str) -> bool:
    """Whether there is a file or folder of that name; what is too long for a name is none."""
    try:
        return Path(place).exists()
    except (OSError, ValueError):
        return False


def require(place: str) -> None:
    """Make sure that a repository can be asked for.

    Raises:
        UserError: its name cannot be one, or the hub does not answer.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(place)
    except HFValidationError as error:
        short = place if len(place) <= 80 else f"{place[:80]} ... ({len(place)} characters)"
        raise UserError(f"there is no folder {short!r}, and it cannot be the name of a repository") from error
    if why := trouble():
        raise UserError(f"{place} is not on this machine, and {endpoint()} cannot be reached: {why}")


def refusal(place: str, error: BaseException) -> str | None:
    """What to do where the hub has refused a repository, or None where the error is of another kind."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    for one in _chain(error):
        if isinstance(one, GatedRepoError):
            return (
                f"{place} wants its terms accepted: do so on {endpoint()}/{place}, then log in by: hf auth login"
                " (or set HF_TOKEN)"
            )
        if isinstance(one, RepositoryNotFoundError):
            return (
                f"{endpoint()} has no repository {place}, or it is private; if it is yours, log in by: hf auth login"
                " (or set HF_TOKEN)"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def snapshot(repository: str) -> Path | None:
    """The folder of a repository's files on this machine, or None where there are none with weights among them.

    A pipeline counts where every network that it is edited with has its weights, and every tokenizer its words.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, cache_dir=cache(), local_files_only=True))
    except (OSError, ValueError):
        return None
    index = folder / "model_index.json"
    if not index.is_file():
        return folder if _weights(folder) else None
    try:
        named = {name for name, part in json.loads(index.read_text(encoding="utf-8")).items() if part != [None, None]}
    except (OSError, ValueError, AttributeError):  # damaged, or no object
        return None
    networks = {"unet", "vae", "text_encoder"} | (named & {"text_encoder_2"})
    tokenizers = {name for name in named if name.startswith("tokenizer")}
    whole = all(_weights(folder / name) for name in networks)
    return folder if whole and all(any((folder / name).glob("*.json")) for name in tokenizers) else None


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pt") and path.is_file()]


def cache() -> Path:
    """The folder that weights are fetched into."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
