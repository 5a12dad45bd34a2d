"""The pocket tokenizer: CLIP's byte-pair encoding, learned from the captions of the scenes."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer

from cpam_bench.eval.pocket.training import example
from cpam_bench.imba.pocket.world import sample_caption

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 32
"""Tokens of a text, start and end included."""


def build(captions: int = 20_000) -> CLIPTokenizer:
    """Words of the scenes become single tokens; any other word falls into smaller pieces, down to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    # CLIP's own splitting (github.com/openai/CLIP, simple_tokenizer.py): words, single digits, runs of the rest.
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(_captions(captions), trainer)
    # A byte at the end of a word needs a symbol of its own, else unseen words would lose their last letter.
    vocabulary = tokenizer.get_vocab()
    ordered = sorted(vocabulary, key=lambda token: vocabulary[token])
    ordered += [f"{byte}</w>" for byte in alphabet if f"{byte}</w>" not in vocabulary]
    merges = _merges(tokenizer)
    # The end token has the highest id: open_clip's text tower pools at the largest id of a text.
    ids = {token: i for i, token in enumerate([*ordered, START, END])}
    tokenizer.model = models.BPE(vocab=ids, merges=merges, unk_token=END, end_of_word_suffix="</w>")
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.RobertaProcessing((END, ids[END]), (START, ids[START]), False, False)
    return CLIPTokenizer(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
    )


def _captions(count: int) -> Iterator[str]:
    for seed in range(count):
        yield sample_caption(example(seed), random.Random(seed))


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]
