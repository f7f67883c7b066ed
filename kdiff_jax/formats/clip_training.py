"""Training of a tokenizer of CLIP's kind: byte-pair merges of the words of texts.

Own code, as the trainer of the package `tokenizers` breaks ties in the order of a hash
table, which is another in each process.
"""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from kdiff_jax.errors import ConfigError
from kdiff_jax.files import write_atomically
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.formats.clip_tokenizer import DEFAULTS, END, START, WORD_END, Tokenizer

Pair = tuple[str, str]


class Trained(NamedTuple):
    """The parts of a tokenizer.

    Attributes:
        vocab: {token: id}; start and end are the last, as in CLIP's.
        merges: Pairs of tokens, the first to be merged first.
        length: Tokens of a prompt, with start and end.
    """

    vocab: dict[str, int]
    merges: list[Pair]
    length: int

    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return Tokenizer(self.vocab, self.merges, DEFAULTS, {}, self.length)

    def write(self, folder: pathlib.Path) -> None:
        """Writes tokenizer/ in a folder, as CLIP's files are."""
        target = folder / clip_tokenizer.PART
        target.mkdir(parents=True, exist_ok=True)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        config = DEFAULTS | dict(
            tokenizer_class="CLIPTokenizer",
            model_max_length=self.length,
            do_lower_case=True,
            errors="replace",
        )
        write_atomically(target / clip_tokenizer.MERGES, "\n".join(lines) + "\n")
        write_atomically(target / clip_tokenizer.CONFIG, _json(config))
        write_atomically(target / clip_tokenizer.SPECIAL, _json(DEFAULTS))
        # Last: a folder without it has no tokenizer.
        write_atomically(target / clip_tokenizer.VOCAB, _json(self.vocab))


def train(texts: Sequence[str], *, vocab_size: int, length: int) -> Trained:
    """A tokenizer in which frequent words are few tokens; any text has tokens.

    The most frequent pair is merged first, of several the first by its letters.

    Args:
        texts: Texts such as it will read.
        vocab_size: The most tokens that it may have.
        length: Tokens of a prompt, with start and end.

    Raises:
        ConfigError: If there is no room for the bytes.

    Source: Sennrich et al. 2016, arXiv:1508.07909, algorithm 1.
    """
    letters = clip_tokenizer.letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters)]
    room = vocab_size - len(tokens) - 2
    if room < 0:
        raise ConfigError(
            f"vocab_size={vocab_size}: bytes, bytes that end a word, start and end are"
            f" {len(tokens) + 2} tokens; give as many or more"
        )
    bare = Trained(_numbered(tokens), [], length).tokenizer()
    counts = collections.Counter(w for text in texts for w in bare.words(text))
    parts = {word: (*word[:-1], word[-1] + WORD_END) for word in counts}
    merges: list[Pair] = []
    while len(merges) < room:
        pairs: collections.Counter[Pair] = collections.Counter()
        for word, split in parts.items():
            for pair in zip(split[:-1], split[1:], strict=True):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        parts = {word: _merged(split, best) for word, split in parts.items()}
    tokens += ["".join(pair) for pair in merges]
    return Trained(_numbered(tokens), merges, length)


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    unique = dict.fromkeys([*tokens, START, END])
    return {token: number for number, token in enumerate(unique)}


def _merged(split: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """The tokens of a word with every such pair as one."""
    found: list[str] = []
    for token in split:
        if found and (found[-1], token) == pair:
            found[-1] += token
        else:
            found.append(token)
    return tuple(found)


def _json(values) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"
