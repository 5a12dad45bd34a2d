"""How the words of two prompts find each other (github.com/google/prompt-to-prompt, seq_aligner.py)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.imba.errors import UserError

Words = Literal["auto", "replace", "refine"]
"""How the words of two prompts find each other; see :func:`align`."""


@dataclass(frozen=True)
class Alignment:
    """Which words of the source prompt the words of the target prompt take their attention from.

    Words are the text encoder's tokens, its start, end and padding included.

    Attributes:
        shares: (words, words); column j has the shares of the source's words in what the target's word j takes.
        taken: (words,); 1 where the target's word takes the source's attention, 0 where it keeps its own.
        source, target: positions in each prompt of the words in which they differ.
    """

    shares: Tensor
    taken: Tensor
    source: list[int]
    target: list[int]

    def edit(self, source: Tensor, target: Tensor) -> Tensor:
        """Attention maps (..., words) under both prompts -> the target's edited ones (Section 3.2)."""
        return source @ self.shares * self.taken + target * (1 - self.taken)


def align(backbone: Backbone, source: str, target: str, edit: Words = "auto") -> Alignment:
    """Align a target prompt with a source prompt.

    - ``replace``: each word takes the attention of the word in its place.  Where the two are of different numbers of
      tokens, each of the target's takes an equal share of all the source's (the reference then shifts the words that
      follow the last such one; here each keeps to its own).
    - ``refine``: tokens of a longest common subsequence take each other's attention, the target's others keep theirs.
    - ``auto``: replace if there are as many words of as many tokens each, else refine.

    Raises:
        UserError: words are to be replaced and the prompts have different numbers of them.
    """
    words = [[backbone.tokens(word) for word in prompt.split()] for prompt in (source, target)]
    if edit == "auto":
        edit = "replace" if [*map(len, words[0])] == [*map(len, words[1])] else "refine"
    elif edit == "replace" and len(words[0]) != len(words[1]):
        raise UserError(
            f"words=replace needs prompts of as many words; “{source}” has {len(words[0])}, “{target}” has"
            f" {len(words[1])}; use words=refine or words=auto"
        )
    size = backbone.length
    ids = [[id for word in prompt for id in word][: size - 2] for prompt in words]
    entries = replacement(*words) if edit == "replace" else refinement(*ids)
    entries = [(i, j, share) for i, j, share in entries if i < len(ids[0]) and j < len(ids[1])]
    alike = [(i, j) for i, j, _ in entries if ids[0][i] == ids[1][j]]

    shares, taken = torch.eye(size), torch.ones(size)  # what follows the prompts is padding in both
    shares[:, : len(ids[1]) + 2] = taken[: len(ids[1]) + 2] = 0
    for i, j, share in [(-1, -1, 1.0), *entries, (len(ids[0]), len(ids[1]), 1.0)]:  # start, words, end
        shares[1 + i, 1 + j], taken[1 + j] = share, 1
    return Alignment(
        shares.to(backbone.device),
        taken.to(backbone.device),
        source=sorted({1 + i for i in range(len(ids[0]))} - {1 + i for i, _ in alike}),
        target=sorted({1 + j for j in range(len(ids[1]))} - {1 + j for _, j in alike}),
    )


def positions(backbone: Backbone, prompt: str, words: Container[str]) -> list[int]:
    """Positions among a prompt's tokens of those of its words, split at spaces, that are among ``words``."""
    found: list[int] = []
    place = 1  # after the start token
    for word in prompt.split():
        tokens = len(backbone.tokens(word))
        if word in words:
            found += range(place, place + tokens)
        place += tokens
    return [position for position in found if position < backbone.length - 1]


def replacement(source: list[list[int]], target: list[list[int]]) -> list[tuple[int, int, float]]:
    """Words of token ids, in their places -> (token of the source, token of the target, share), counted from 0."""
    entries: list[tuple[int, int, float]] = []
    i = j = 0
    for theirs, ours in zip(source, target, strict=True):
        if len(theirs) == len(ours):
            entries += [(i + n, j + n, 1.0) for n in range(len(ours))]
        else:
            entries += [(i + n, j + m, 1 / len(ours)) for n in range(len(theirs)) for m in range(len(ours))]
        i, j = i + len(theirs), j + len(ours)
    return entries


def refinement(source: list[int], target: list[int]) -> list[tuple[int, int, float]]:
    """A longest common subsequence of token ids, in the form of :func:`replacement`; of several, the reference's."""
    length = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, theirs in enumerate(source, 1):
        for j, ours in enumerate(target, 1):
            longer = length[i - 1][j - 1] + 1 if theirs == ours else 0
            length[i][j] = max(longer, length[i - 1][j], length[i][j - 1])
    entries: list[tuple[int, int, float]] = []
    i, j = len(source), len(target)
    while i and j:
        if length[i][j] == length[i][j - 1]:
            j -= 1
        elif length[i][j] == length[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            entries.append((i, j, 1.0))
    return entries[::-1]
