"""CLIP's tokenizer from its files: byte-pair merges of lower-case words.

The answers are those of transformers. Its pad token is a token wherever it stands: with
"!" (Stable Diffusion 2, the second of SDXL) every "!" of a prompt is one.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.files import Unreadable, read_regular, write_atomically
from kdiff_jax.formats import raw

PART = "tokenizer"
VOCAB, MERGES, BOTH = "vocab.json", "merges.txt", "tokenizer.json"
CONFIG, SPECIAL, ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
START, END = "<|startoftext|>", "<|endoftext|>"
DEFAULTS = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)
LENGTH = 77  # of CLIP's, whose prompts are cut there
MAX_LENGTH = 65536  # what is longer means that there is no limit
MAX_BYTES = 2**26  # the real files have 1.4 MB
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
WORD_END = "</w>"
INSTALL = "pip install 'kdiff_jax[text]'"


class Tokenizer:
    """Prompts to token ids.

    Attributes:
        length: Tokens of a prompt, with start and end (77).
        vocab_size: Number of tokens.
        start: Token that every prompt begins with.
        end: Token that every prompt ends with.
        pad: Token behind the end.
        sha256: Digest of all that the ids depend on.

    Examples:
        >>> from kdiff_jax import text
        >>> tokens = text.tokenizer(FOLDER)
        >>> tokens.texts(tokens(["A photo of a cat"])), tokens.counts([""]).tolist()
        (['a photo of a cat'], [2])
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        special: Mapping[str, Any],
        added: Mapping[int, Any],
        length: int,
    ):
        """A tokenizer of its parts, as `load` reads them.

        Args:
            vocab: {token: id}.
            merges: Pairs of tokens, the first to be merged first.
            special: Start, end, unknown and pad token by transformers' names; each a
                text, or the keywords of an AddedToken.
            added: Further tokens by id.
            length: Tokens of a prompt, with start and end.
        """
        facts = [sorted(vocab.items()), [*merges], sorted(special.items())]
        facts += [sorted(added.items()), length]
        text = json.dumps(facts, sort_keys=True)
        self.sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        self.length = length
        self._tokenizer = _build(vocab, merges, special, added)
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.start, self.end, self.pad = (
            self._tokenizer.token_to_id(_content(special[name]))
            for name in ("bos_token", "eos_token", "pad_token")
        )

    def __call__(self, prompts: str | Sequence) -> Int32[np.ndarray, "B L"]:
        """Token ids, i32[B, length], of one prompt or several.

        A prompt that is too long is cut, and keeps the end.

        Args:
            prompts: A text, or texts.

        Raises:
            ConfigError: If a prompt is no text.

        Examples:
            >>> from kdiff_jax import text
            >>> tokens = text.tokenizer(FOLDER)
            >>> ids = tokens(["a cat", ""])
            >>> ids.shape, ids[1, :3].tolist() == [tokens.start, tokens.end, tokens.pad]
            ((2, 77), True)
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise ConfigError(f"prompt={prompt!r}: must be a text")
            if not _is_text(prompt):
                raise ConfigError(
                    f"prompt={prompt!a}: is no Unicode text; read its file as UTF-8"
                )
        ids = np.full((len(prompts), self.length), self.pad, np.int32)
        found = self._tokenizer.encode_batch_fast(prompts, add_special_tokens=False)
        for row, encoding in zip(ids, found, strict=True):
            inside = encoding.ids[: self.length - 2]
            row[: len(inside) + 2] = [self.start, *inside, self.end]
        return ids

    def counts(self, prompts: Sequence[str]) -> Int32[np.ndarray, " B"]:
        """Number of tokens of each prompt, with start and end, before any is cut.

        Args:
            prompts: Texts.
        """
        found = self._tokenizer.encode_batch_fast([*prompts], add_special_tokens=False)
        return np.array([len(one.ids) + 2 for one in found], np.int32)

    def words(self, text: str) -> list[str]:
        """The words that merges are made in, each byte as its letter."""
        inner = self._tokenizer
        split = inner.pre_tokenizer.pre_tokenize_str(
            inner.normalizer.normalize_str(text)
        )
        return [word for word, _ in split]

    def texts(self, ids: Integer[np.ndarray, "B L"]) -> list[str]:
        """Prompts that have these ids: as given, but for letters' case and spaces.

        Args:
            ids: i32[B, L], token ids.
        """
        return [self._text(row.tolist()) for row in ids]

    def _text(self, row: list[int]) -> str:
        row = row[row[0] == self.start :]
        row = row[: row.index(self.end)] if self.end in row else row
        tokens = (self._tokenizer.id_to_token(i) or "" for i in row)
        letters = _byte_of_letter()
        words = [
            bytes(letters[c] for c in word if c in letters).decode(errors="replace")
            for word in "".join(tokens).split(WORD_END)
        ]
        # A mark that stands alone behind a word is the same token beside it.
        return re.sub(r"(?<=\w) (?=[,.!?;:](?: |$))", "", " ".join(words).strip())


def letters() -> list[str]:
    """What stands for each byte in a vocabulary, in CLIP's order."""
    return list(_byte_of_letter())


def copy(path: str | os.PathLike, target: pathlib.Path) -> None:
    """Copies the files of a folder's tokenizer to tokenizer/ in another folder."""
    folder = _folder(pathlib.Path(path).expanduser(), PART)
    (target / PART).mkdir(parents=True, exist_ok=True)
    for name in (VOCAB, MERGES, BOTH, CONFIG, SPECIAL, ADDED):
        if (folder / name).is_file():
            write_atomically(target / PART / name, (folder / name).read_bytes())


def _folder(path: pathlib.Path, part: str) -> pathlib.Path:
    inside = path / part
    return inside if inside.is_dir() else path


def load(path: str | os.PathLike, part: str = PART) -> Tokenizer:
    """The tokenizer of a folder.

    Args:
        path: A pipeline folder of diffusers, or the tokenizer's folder itself.
        part: Name of its folder in a pipeline; "tokenizer_2" is SDXL's second.

    Raises:
        CheckpointError: If there is none, or its files are damaged.
        ConfigError: If the package `tokenizers` is not installed.

    Examples:
        >>> from kdiff_jax import text
        >>> text.tokenizer(FOLDER).length
        77
    """
    path = pathlib.Path(path).expanduser()
    folder = _folder(path, part)
    if not any((folder / name).is_file() for name in (VOCAB, BOTH)):
        raise CheckpointError(
            f"tokenizer={str(path)!r}: has no {part}/{VOCAB} and no {VOCAB}; give a"
            f" pipeline's folder with {part}/ in it, or that folder"
        )
    try:
        vocab, merges, added = _words(folder)
        config = _json(folder / CONFIG)
        special = {k: config[k] for k in DEFAULTS if config.get(k)}
        added |= {int(k): v for k, v in config.get("added_tokens_decoder", {}).items()}
        if "added_tokens_decoder" not in config:  # of files of before, which wins there
            more = _json(folder / SPECIAL)
            special |= {k: more[k] for k in DEFAULTS if more.get(k)}
            added |= {int(i): token for token, i in _json(folder / ADDED).items()}
        length = config.get("model_max_length", LENGTH)
        known = isinstance(length, int) and 2 <= length <= MAX_LENGTH
        length = length if known else LENGTH
        return Tokenizer(vocab, merges, DEFAULTS | special, added, length)
    except (ConfigError, CheckpointError):
        raise
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from error
    except Exception as error:  # whatever files of nonsense set off
        why = raw.shown(" ".join(str(error).split()))
        raise CheckpointError(
            f"tokenizer={str(folder)!r}: its files are damaged, or no tokenizer of CLIP"
            f" ({why}); copy {VOCAB} and {MERGES} again"
        ) from error


def _words(
    folder: pathlib.Path,
) -> tuple[dict[str, int], list[tuple[str, str]], dict[int, Any]]:
    """(vocabulary, merges, added tokens); transformers 5 writes all into one file."""
    if (folder / VOCAB).is_file():
        if not (folder / MERGES).is_file():
            raise CheckpointError(
                f"tokenizer={str(folder)!r}: has {VOCAB} and no {MERGES}; copy it, too"
            )
        lines = _text(folder / MERGES).split("\n")
        pairs = [s.split() for s in lines if s and not s.startswith("#version")]
        return _json(folder / VOCAB), [(a, b) for a, b in pairs], {}
    both = _json(folder / BOTH)
    model = both["model"]
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    added = {token["id"]: token for token in both.get("added_tokens", [])}
    return model["vocab"], [(a, b) for a, b in pairs], added


def _build(vocab, merges, special, added) -> Any:
    tokenizers = _library()
    from tokenizers import models, normalizers, pre_tokenizers

    texts = {name: _content(value) for name, value in special.items()}
    found = tokenizers.Tokenizer(
        models.BPE(
            vocab=dict(vocab),
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
            unk_token=texts["unk_token"],
        )
    )
    found.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words = pre_tokenizers.Split(
        tokenizers.Regex(WORDS), behavior="removed", invert=True
    )
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    for _, value in sorted(added.items()):
        token = _token(value, tokenizers)
        add = found.add_special_tokens if token.special else found.add_tokens
        add([token])
    there = {_content(value) for value in added.values()}
    rest = [value for value in special.values() if _content(value) not in there]
    found.add_special_tokens([_token(value, tokenizers) for value in rest])
    return found


@functools.cache
def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            f"tokenizers: is not installed, and prompts need it; {INSTALL}"
        ) from error
    return tokenizers


@functools.cache
def _byte_of_letter() -> dict[str, int]:
    """What stands for each byte in a vocabulary: itself, or a letter from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


def _token(value: Any, tokenizers: Any) -> Any:
    if isinstance(value, str):
        return tokenizers.AddedToken(value, special=True, normalized=False)
    known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return tokenizers.AddedToken(
        **{"special": True, **{k: value[k] for k in known if k in value}}
    )


def _content(value: Any) -> str:
    return value if isinstance(value, str) else value["content"]


def _json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a file; {} where there is none."""
    if not path.is_file():
        return {}
    found = json.loads(_text(path))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


def _text(path: pathlib.Path) -> str:
    try:
        return read_regular(path, max_bytes=MAX_BYTES).decode()
    except Unreadable as error:
        raise ValueError(f"{path.name}: {error}") from error


def _is_text(prompt: str) -> bool:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return True
