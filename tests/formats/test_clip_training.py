"""A tokenizer of CLIP's kind, made of texts."""

import pytest

from kdiff_jax.errors import ConfigError
from kdiff_jax.formats import clip_tokenizer, clip_training

TEXTS = ["low low lower", "new newer", "Low: NEWEST"]


def test_the_most_frequent_pair_is_merged_first_of_equal_ones_that_of_older_tokens():
    """By hand, of low (3), lower, new, newer and newest.

    "l o" stands in four; then "n e", "w e" and "lo w</w>" in three each: letters are
    older than "lo".
    """
    made = clip_training.train(TEXTS, vocab_size=518, length=8)
    assert made.merges == [("l", "o"), ("n", "e"), ("w", "e"), ("lo", "w</w>")]
    assert len(made.vocab) == 518 and made.vocab["ne"] == 513
    assert [*made.vocab][-2:] == [clip_tokenizer.START, clip_tokenizer.END]


def test_what_is_written_reads_the_same_and_any_text_has_tokens(tmp_path):
    made = clip_training.train(TEXTS, vocab_size=4096, length=16)
    made.write(tmp_path)
    found, own = clip_tokenizer.load(tmp_path), made.tokenizer()
    assert found.sha256 == own.sha256 and found.length == 16
    words = found(["lower newest", "Zebra, ünï"])
    assert (words[0] != found.pad).sum() == 3  # start and two words; pad is the end
    assert found.texts(words) == ["lower newest", "zebra, ünï"]
    assert found.vocab_size == len(made.vocab) < 4096  # no pair is left


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=100: bytes, .* are 514 tokens"):
        clip_training.train(TEXTS, vocab_size=100, length=8)
