"""Tokenizers and text encoders in the files of others, and what is said of the rest."""

import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
from encoder_files import PROJECTED, QUICK, text_folder, text_tensors

from kdiff_jax import text
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.formats import clip_tokenizer, lazy, tensors
from kdiff_jax.interop import trees

DATA = pathlib.Path(__file__).parent / "parity/data/clip_tokenizer"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture
def folder(tmp_path):
    """A pipeline with a tokenizer."""
    (tmp_path / "tokenizer").mkdir()
    for name in FILES:
        shutil.copy(DATA / name, tmp_path / "tokenizer")
    return tmp_path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def prompts():
    return json.loads((DATA / "prompts.json").read_text())


def wanted(name):
    with np.load(DATA / "ids.npz") as file:
        return file[name]


def test_tokens_are_those_of_transformers(folder):
    """CLIP's tokenizer, cut after its first merges; 20 prompts of every kind."""
    tokens = text.tokenizer(folder)
    np.testing.assert_array_equal(tokens(prompts()), wanted("pad_end"))
    assert (tokens.start, tokens.end, tokens.pad, tokens.length) == (998, 999, 999, 77)
    np.testing.assert_array_equal(tokens("a"), tokens(["a"]))
    assert tokens([]).shape == (0, 77)
    part = text.tokenizer(folder / "tokenizer")
    assert part.sha256 == tokens.sha256
    # What pads is a token wherever it stands. The map of before wins over the config.
    edit(folder / "tokenizer/special_tokens_map.json", pad_token="!")
    padded = text.tokenizer(folder)
    np.testing.assert_array_equal(padded(prompts()), wanted("pad_exclamation"))
    assert padded.sha256 != tokens.sha256
    config = folder / "tokenizer/tokenizer_config.json"
    edit(config, added_tokens_decoder={"0": {"content": "!"}})
    assert text.tokenizer(folder).pad == 999


def test_texts_of_tokens_have_those_tokens(folder):
    """All but one that is cut within a word, and one with "<|endoftext|>" in it."""
    tokens = text.tokenizer(folder)
    ids = np.delete(tokens(prompts()), [9, 19], axis=0)
    np.testing.assert_array_equal(tokens(tokens.texts(ids)), ids)
    told = tokens.texts(tokens(["A photo of a CAT, sitting.", "", "z\xe9 \u732b"]))
    assert told == ["a photo of a cat, sitting.", "", "z\xe9 \u732b"]
    assert tokens.texts(tokens(["a b c"])[:, :3].astype(np.uint16)) == ["a b"]


def test_the_one_file_of_transformers_5_is_read(folder):
    inside = folder / "tokenizer"
    tokens = text.tokenizer(folder)
    merges = (inside / "merges.txt").read_text().split("\n")[1:]
    model = dict(vocab=json.loads((inside / "vocab.json").read_text()))
    model["merges"] = [line.split(" ") for line in merges if line]
    added = [dict(id=1000, content="<cat-toy>", normalized=True, special=False)]
    both = dict(model=model, added_tokens=added)
    (inside / "tokenizer.json").write_text(json.dumps(both))
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (inside / name).unlink()
    found = text.tokenizer(folder)
    np.testing.assert_array_equal(found(prompts()), tokens(prompts()))
    assert found("a <cat-toy>")[0, :4].tolist() == [998, 320, 1000, 999]


def test_length_and_words_that_are_added(folder):
    inside = folder / "tokenizer"
    edit(inside / "tokenizer_config.json", model_max_length=8)
    (inside / "added_tokens.json").write_text(json.dumps({"<cat-toy>": 1000}))
    tokens = text.tokenizer(folder)
    ids = tokens(["a <cat-toy>", "in the " * 9])
    assert ids[0].tolist() == [998, 320, 1000, 999, 999, 999, 999, 999]
    assert ids.shape == (2, 8) and ids[1, -1] == 999 and ids[1, -2] != 999
    edit(inside / "tokenizer_config.json", model_max_length=10**30)
    assert text.tokenizer(folder).length == 77


def test_tokenizers_that_are_none_are_refused(folder, tmp_path):
    inside = folder / "tokenizer"
    with pytest.raises(CheckpointError, match=r"has no tokenizer_2/vocab\.json and no"):
        text.tokenizer(folder, part="tokenizer_2")
    for name, content in {
        "merges.txt": "#version\na b c\n",
        "vocab.json": "[1]",
        "special_tokens_map.json": '{"pad_token": {"x": 1}}',
        "tokenizer_config.json": "{",
    }.items():
        kept = (inside / name).read_text()
        (inside / name).write_text(content)
        with pytest.raises(CheckpointError, match="its files are damaged") as caught:
            text.tokenizer(folder)
        assert "\n" not in str(caught.value)
        (inside / name).write_text(kept)
    (inside / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"vocab.json and no merges.txt; copy it"):
        text.tokenizer(folder)


def test_prompts_that_are_no_text_are_refused(folder):
    tokens = text.tokenizer(folder)
    with pytest.raises(ConfigError, match=r"prompt=3: must be a text"):
        tokens(["a", 3])
    with pytest.raises(ConfigError, match="no Unicode text; read its file as UTF-8"):
        tokens("\ud800")


def test_without_the_package_one_line_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    clip_tokenizer._library.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'kdiff_jax\[text\]'"):
        text.tokenizer(folder)


def same(encoder, other):
    found, wanted = trees.flatten(encoder.params), trees.flatten(other.params)
    assert found.keys() == wanted.keys() and encoder.module == other.module
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)
    return True


def write(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors.write(path, {k: lazy.of(v) for k, v in arrays.items()})
    return path


def test_folders_of_transformers(tmp_path):
    plain = text.load(text_folder(tmp_path / "text_encoder"))
    (tmp_path / "model_index.json").write_text("{}")
    assert same(text.load(tmp_path), plain)
    half = text_folder(
        tmp_path / "half", dtype="float16", name="pytorch_model.fp16.bin"
    )
    for leaf in trees.flatten(text.load(half).params).values():
        assert leaf.dtype == np.float32
    # transformers 5 leaves out the beginning; files of before have positions.
    arrays = {k.removeprefix("text_model."): v for k, v in text_tensors(QUICK).items()}
    arrays["embeddings.position_ids"] = np.arange(9)[None]
    write(tmp_path / "text_encoder/model.safetensors", arrays)
    assert same(text.load(tmp_path), plain)
    # Of a whole CLIP the text tower; it has a projection.
    whole = dict(model_type="clip", text_config=QUICK, projection_dim=8)
    arrays = text_tensors(QUICK | dict(architectures=PROJECTED["architectures"]))
    arrays |= {"vision_model.x": np.zeros(1), "logit_scale": np.zeros(())}
    text_folder(tmp_path / "clip")
    (tmp_path / "clip/config.json").write_text(json.dumps(whole))
    write(tmp_path / "clip/model.safetensors", arrays)
    assert text.load(tmp_path / "clip").module.projection == 8
    with pytest.raises(CheckpointError, match="text_encoder_2/ of the pipeline"):
        text.load(tmp_path, part="text_encoder_2")


def openclip_names(arrays):
    """Arrays of transformers' under OpenCLIP's names."""
    found, parts = {}, {}
    for name, array in arrays.items():
        for theirs, openclip in (
            (r"^text_model\.", ""),
            (r"^embeddings\.token_embedding", "token_embedding"),
            (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
            (r"^encoder\.layers\.", "transformer.resblocks."),
            (r"^final_layer_norm\.", "ln_final."),
            (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
            (r"\.layer_norm([12])\.", r".ln_\1."),
            (r"\.mlp\.fc1\.", ".mlp.c_fc."),
            (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        ):
            name = re.sub(theirs, openclip, name)
        if name == "text_projection.weight":
            found["text_projection"] = np.ascontiguousarray(array.T)
        elif match := re.match(r"(.*)\.self_attn\.([qkv])_proj\.(.*)", name):
            parts.setdefault(f"{match[1]}.attn.in_proj_{match[3]}", {})[match[2]] = (
                array
            )
        else:
            found[name] = array
    return found | {k: np.concatenate([v[x] for x in "qkv"]) for k, v in parts.items()}


def test_single_files_as_their_authors_released_them(tmp_path):
    sd1, sd2 = QUICK, PROJECTED | dict(num_hidden_layers=2)
    del sd2["architectures"]
    for config, arrays, prefix, part in (
        (sd1, text_tensors(sd1), "cond_stage_model.transformer.", "text_encoder"),
        (
            sd1,
            text_tensors(sd1),
            "conditioner.embedders.0.transformer.",
            "text_encoder",
        ),
        # One block more, which is dropped, with the projection.
        (
            sd2,
            openclip_names(text_tensors(PROJECTED)),
            "cond_stage_model.model.",
            "text_encoder",
        ),
        (
            PROJECTED,
            openclip_names(text_tensors(PROJECTED)),
            "conditioner.embedders.1.model.",
            "text_encoder_2",
        ),
    ):
        wanted = text.load(text_folder(tmp_path / "folder", config))
        inside = {prefix + name: array for name, array in arrays.items()}
        inside["first_stage_model.x"] = np.zeros(1)
        file = write(tmp_path / "sd.safetensors", inside)
        assert same(text.load(file, part=part, config=config), wanted)
        with pytest.raises(CheckpointError, match="so its heads are none of 64"):
            text.load(file, part=part)
    with pytest.raises(CheckpointError, match="no text_encoder in it"):
        text.load(write(file, {"first_stage_model.x": np.zeros(1)}))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(model_type="t5"), "t5 is not implemented; there is CLIPTextModel"),
        (dict(architectures=["T5EncoderModel"]), "T5EncoderModel is not implemented"),
        (dict(hidden_act="relu"), "hidden_act=relu: is not implemented; there is"),
        (dict(num_attention_heads=5), "num_attention_heads=5: must divide hidden"),
        (dict(vocab_size=None), "vocab_size=None: must be a number, 1 or more"),
        (dict(num_hidden_layers=1), "does not fit its network: blocks.1/"),
        (dict(architectures=PROJECTED["architectures"]), "proj is missing"),
    ],
)
def test_other_options_are_refused_in_a_line(change, line, tmp_path):
    folder = text_folder(tmp_path)
    edit(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=line) as caught:
        text.load(folder)
    assert str(caught.value).startswith("text_encoder=")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "line"),
    [
        (np.zeros(9, int), "must be whole numbers"),
        (np.zeros((1, 9)), "must be whole numbers"),
        (np.zeros((1, 10), int), "reads up to 9 tokens"),
        (np.full((1, 9), 31), "ids=31: this encoder has 31 tokens; take the tokenizer"),
    ],
)
def test_tokens_that_do_not_fit(ids, line, tmp_path):
    with pytest.raises(ConfigError, match="precision='float16': unknown; choose one"):
        text.load(tmp_path, precision="float16")
    with pytest.raises(ConfigError, match=line):
        text.load(text_folder(tmp_path)).apply(ids)
