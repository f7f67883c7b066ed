"""Training of a tokenizer of CLIP's kind: byte-pair merges of the words of texts.

The package `tokenizers` finds the merges; tokens are numbered as CLIP's are.
"""

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

    The most frequent pair is merged first, of several that of the older tokens.

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
    words = [word for text in texts for word in bare.words(text)]
    merges = _merges(words, letters, num=room)
    tokens += ["".join(pair) for pair in merges]
    return Trained(_numbered(tokens), merges, length)


def _merges(words: Sequence[str], letters: Sequence[str], *, num: int) -> list[Pair]:
    """The first `num` merges, or all that there are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    found = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(letters) + num,
        initial_alphabet=list(letters),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    found.train_from_iterator(words, trainer)
    merges = json.loads(found.to_str())["model"]["merges"]
    # Letters that end no word took no place in its vocabulary.
    return [(first, second) for first, second in merges[:num]]


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    unique = dict.fromkeys([*tokens, START, END])
    return {token: number for number, token in enumerate(unique)}


def _json(values) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"
