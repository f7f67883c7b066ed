"""CLIP scores: whole CLIPs from files, protocols of papers, rows of models of prompts.

The cosines are those of transformers 5.24.0 with torch 2.13.0, of the same folder, with
Pillow's resize: `CLIPModel.from_pretrained(FOLDER)` on the pictures and prompts here.
"""

import copy
import dataclasses
import io
import json
import re

import clip_files
import jax
import numpy as np
import prompted
import pytest
from PIL import Image

from configs import common
from kdiff_jax import interop, recipe, samplers, text
from kdiff_jax.build.sections import Evaluate
from kdiff_jax.data import captions, folder
from kdiff_jax.data.encoded import Look
from kdiff_jax.diffusion import process
from kdiff_jax.errors import CheckpointError, ConfigError, DataError
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.metrics import features, table
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.report import compare
from kdiff_jax.stages import asked, measured
from kdiff_jax.train import coco_protocols, generate, measure, parallel

COSINES = [0.06511509418, -0.45696178079, 0.21764168143, -0.10538234562]
EXACT = [-0.11072536558, -0.30798041821, -0.00564935803, -0.39308899641]
PROMPTS, PICTURES = clip_files.PROMPTS, clip_files.pictures()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return clip_files.folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(path):
    return text.load_clip(path)


def cosines(clip):
    return clip.similarities(PICTURES, clip.vectors(PROMPTS))


def test_cosines_are_those_of_transformers(clip):
    np.testing.assert_allclose(cosines(clip), COSINES, atol=1e-5)
    seen = Seen(similarities=cosines(clip))
    score = table.measure(["clip_score"], features.make("pixels"), seen, Seen())
    assert score == {"clip_score": 0.0}
    some = Seen(similarities=np.float32([0.3, -0.1]))
    found = table.measure(["clip_score"], features.make("pixels"), some, Seen())
    assert found["clip_score"] == pytest.approx(10)
    assert table.better(["clip_score"], "pixels") == {"clip_score": "higher"}


def test_another_patch_gelu_and_end_are_read_off_the_config(tmp_path):
    config = copy.deepcopy(clip_files.CONFIG)
    config["text_config"] |= dict(hidden_act="gelu", eos_token_id=999)
    config["vision_config"] |= dict(hidden_act="gelu", patch_size=4)
    other = text.load_clip(clip_files.folder(tmp_path / "clip", config))
    np.testing.assert_allclose(cosines(other), EXACT, atol=1e-5)


TO_OPENCLIP = (
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.embeddings\.position_embedding.*", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"),
    (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding.*", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"\.self_attn\.q_proj\.", ".attn.in_proj_"),
    (r"\.self_attn\.out_proj", ".attn.out_proj"),
    (r"\.layer_norm([12])", r".ln_\1"),
    (r"\.mlp\.fc1", ".mlp.c_fc"),
    (r"\.mlp\.fc2", ".mlp.c_proj"),
    (r"^visual_projection\.weight", "visual.proj"),
    (r"^text_projection\.weight", "text_projection"),
)


def openclip(arrays):
    """Arrays of transformers under OpenCLIP's names."""
    found = {}
    for name, array in arrays.items():
        if re.search(r"\.[kv]_proj\.", name):
            continue
        if ".q_proj." in name:
            parts = [arrays[name.replace(".q_", f".{k}_")] for k in "qkv"]
            array = np.concatenate(parts)
        array = array.T if name.endswith("_projection.weight") else array
        for pattern, theirs in TO_OPENCLIP:
            name = re.sub(pattern, theirs, name)
        found[name] = lazy.of(np.ascontiguousarray(array))
    return found


def test_a_single_file_is_the_same_clip(tmp_path):
    """OpenCLIP's names, and the number by which OpenAI's files are known."""
    config = copy.deepcopy(clip_files.CONFIG)
    for tower in ("text_config", "vision_config"):
        config[tower] |= dict(
            hidden_size=64, num_attention_heads=1
        )  # heads are 64 wide
    path = clip_files.folder(tmp_path / "clip", config)
    leaves, _ = tensors.read(path / "model.safetensors")
    arrays = openclip({name: leaf.read() for name, leaf in leaves.items()})
    arrays["input_resolution"] = lazy.of(np.zeros((), np.float32))
    file = tmp_path / "ViT.safetensors"
    tensors.write(file, arrays)
    whole, one = text.load_clip(path), text.load_clip(file, tokenizer=path)
    assert one.sha256 == whole.sha256 and one.images.name == whole.images.name
    np.testing.assert_array_equal(cosines(one), cosines(whole))
    with pytest.raises(CheckpointError, match="has no tokenizer; give the folder"):
        text.load_clip(file)


def test_what_is_no_clip_is_refused_in_a_line(path, tmp_path):
    def refused(match, **config):
        new = clip_files.folder(tmp_path / "clip", clip_files.CONFIG | config)
        with pytest.raises(CheckpointError, match=match) as caught:
            text.load_clip(new)
        assert "\n" not in str(caught.value)

    refused("siglip is not implemented", model_type="siglip")
    refused("clip_text_model is no whole CLIP", model_type="clip_text_model")
    image = clip_files.IMAGE
    refused("hidden_act=relu", vision_config=image | dict(hidden_act="relu"))
    new = clip_files.folder(tmp_path / "clip")
    more = clip_files.CONFIG | dict(vision_config=image | dict(num_hidden_layers=3))
    (new / "config.json").write_text(json.dumps(more))
    with pytest.raises(CheckpointError, match=r"blocks\.2\..* missing"):
        text.load_clip(new)
    new = clip_files.folder(tmp_path / "clip")
    (new / "preprocessor_config.json").write_text(json.dumps(dict(size=48)))
    with pytest.raises(CheckpointError, match="another preprocessing than CLIP's"):
        text.load_clip(new)
    (new / "preprocessor_config.json").unlink()
    (new / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="clip"):
        text.load_clip(new)
    with pytest.raises(CheckpointError, match="none: no such file"):
        text.load_clip(tmp_path / "none")


def by_hand(image, protocol):
    """The protocols' resizes by Pillow, step by step."""
    picture = Image.fromarray(image)
    if protocol == "coco_dmd2":
        picture = picture.crop((8, 0, 48, 40))
        return np.asarray(picture.resize((256, 256), Image.Resampling.LANCZOS))
    return np.asarray(jpeg(jpeg(picture).resize((256, 256))))


def jpeg(picture):
    """As Pillow writes a .jpg if nothing is said."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG")
    return Image.open(buffer)


@pytest.mark.parametrize("name", ["coco_dmd2", "coco_bksdm"])
def test_protocols_resize_as_their_authors_do(name, tmp_path):
    """Made images and real ones; BK-SDM's are squashed, and .jpg files on the way."""
    protocol = coco_protocols.make(name)
    expected = [by_hand(image, name) for image in PICTURES]
    np.testing.assert_array_equal(protocol.prepare(PICTURES), expected)
    file = tmp_path / "0.png"
    Image.fromarray(PICTURES[0]).save(file)
    real = protocol.real(str(tmp_path))
    once = np.asarray(jpeg(Image.fromarray(PICTURES[0]).resize((256, 256))))
    wanted = expected[0] if name == "coco_dmd2" else once
    np.testing.assert_array_equal(real.read(np.array([0]))[0], wanted)
    assert real.prepared["filter"] == ("lanczos" if name == "coco_dmd2" else "bicubic")
    with pytest.raises(ConfigError, match="coco_dmd2, coco_bksdm"):
        coco_protocols.make("coco")


COCO = dict(
    images=[dict(id=i, file_name=f"{9 - i}.jpg") for i in range(8)],
    annotations=[
        dict(image_id=i, caption=f"{word} ab {i}")
        for word in ("red", "big")
        for i in range(8)
    ],
)


def test_prompts_are_the_first_caption_of_each_image(tmp_path):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(COCO))
    assert captions.prompts(str(file))[:2] == ("red ab 7", "red ab 6")
    table = tmp_path / "metadata.csv"
    table.write_text('file_name,text\nb.jpg,"one, two"\na.jpg,three\nb.jpg,four\n')
    assert captions.prompts(str(table)) == ("one, two", "three")
    with pytest.raises(DataError, match="does not exist"):
        captions.prompts(str(tmp_path / "none.json"))


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """A CLIP whose scores of the pictures here are above 0."""
    return clip_files.folder(tmp_path_factory.mktemp("turned"), sign=-1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory, turned):
    """(row of a model, of its images in a folder, settings), by a small protocol."""
    root = tmp_path_factory.mktemp("rows")
    pipeline = prompted.pipeline(root / "pipeline")
    source = prompted.model(root / "model", pipeline)
    file = root / "captions.json"
    file.write_text(json.dumps(COCO))
    (root / "real").mkdir()
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(root / f"real/{i}.png")
    protocol = coco_protocols.make("coco_dmd2")
    protocol = protocol._replace(look=protocol.look._replace(size=4))
    told = measured.Settings(
        mesh=parallel.make_mesh(jax.devices()[:1]),
        features=features.make("pixels"),
        metrics=("fd", "clip_score"),
        reference=str(root / "real"),
        reference_path=root / "real",
        num_images=12,
        protocol=protocol,
        prompts=str(file),
        clip=str(turned),
        clip_tokenizer=None,
        labels="arange",
        seed=1,
        seeds=1,
        headline="best",
        bootstrap=0,
        per=None,
        batch_size=4,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SECONDS", 0.01)
        row = measured.model(str(source), told, lambda model: model.sampler())
    return source, row, told


def test_a_row_of_a_model_of_prompts(rows):
    """The same by hand: its images, resized, and the cosines to its prompts."""
    source, row, told = rows
    clip = told.load_clip()
    assert row["protocol"]["name"] == "coco_dmd2"
    assert row["protocol"]["changed"]["num_images"] == 12
    assert row["prompts"]["num"] == 8 and row["labels"] is None
    assert row["clip"]["name"] == clip.images.name
    assert row["latency_ms"] > 0
    assert row["memory"]["arguments"] > row["num_params"] * 4
    model = interop.load(source)
    texts = [f"red ab {7 - i % 8}" for i in range(12)]
    ids = text.tokenizer(source)(texts)[:, : prompted.LENGTH]
    make = generate.of_model(model, model.sampler(), mesh=told.mesh)
    about = dict(seed=1, batch_size=4)
    images = make.images(model.students, labels=ids, **about)
    assert len(np.unique(images)) > 2
    looked_at = told.protocol.prepare(images)
    vectors = clip.vectors([f"A photo depicts {one}" for one in texts])
    score = 100 * clip.similarities(looked_at, vectors).mean()
    assert row["metrics"]["clip_score"] == pytest.approx(score, abs=1e-3)
    assert score > 1
    assert row["metrics"]["fd_pixels"] > 0


def run_recipe(rows, folder, monkeypatch, **section):
    """Runs a recipe that only measures a model that is brought; returns its row."""
    source, _, told = rows
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    monkeypatch.setitem(coco_protocols.PROTOCOLS, "coco_dmd2", told.protocol)
    spec = interop.load(source).spec.plain()
    keys = "network precondition process image_shape sampler num_classes cond_dim"
    model = {k: spec[k] for k in (*keys.split(), "cond_length", "text")}
    images = PICTURES[:, :2, :1].reshape(8, 1, 1, 3)
    np.savez(folder / "x.npz", images=images, labels=range(8))
    pipeline = str(source.parent / "pipeline")
    data = dict(name="npz", path=str(folder / "x.npz"), text_encoder=pipeline)
    common_ones = dict(
        metrics=told.metrics,
        batch_size=4,
        clip=told.clip,
        prompts=told.prompts,
        protocol="coco_dmd2",
        reference=told.reference,
    )
    config = common.config(
        "prompted",
        order=("evaluate",),
        stages=dict(evaluate=dict(kind="evaluate", models=("teacher",))),
        data=data | dict(conditions=f"{pipeline}/prompts.txt"),
        model=model,
        evaluate=common_ones | section,
        init=dict(teacher=str(source)),
    )
    recipe.run(config, folder / "run", devices=jax.devices()[:1])
    (found,) = json.loads((folder / "run/report.json").read_text())["rows"]
    return found


def test_a_recipe_measures_prompts_by_a_protocol(rows, tmp_path, monkeypatch):
    """The same figures as the command's, and pictures with their prompts."""
    _, row, _ = rows
    found = run_recipe(rows, tmp_path, monkeypatch, num_images=12)
    assert found["metrics"] == pytest.approx(row["metrics"], rel=1e-4)
    for name in ("protocol", "prompts", "clip", "compared_with"):
        assert found[name] == json.loads(json.dumps(row[name])), name
    with Image.open(tmp_path / "run/samples.png") as picture:
        assert picture.height > 2 * 50 + 20
    html = (tmp_path / "run/report.html").read_text()
    assert "coco_dmd2, but num_images=12" in html, html[-3000:]


@pytest.mark.slow
def test_clip_scores_do_not_wait_for_inception_s_weights(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    about = dict(num_images=12, features="inception")
    found = run_recipe(rows, tmp_path, monkeypatch, **about)
    score = rows[1]["metrics"]["clip_score"]
    assert found["metrics"] == {"clip_score": pytest.approx(score, rel=1e-4)}
    assert found["features"] is None and found["protocol"]["name"] == "coco_dmd2"


def test_images_that_are_there_have_the_same_kind_of_row(rows, tmp_path):
    _, _, told = rows
    clip = told.load_clip()
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(PROMPTS[i] or "empty")
    plain = dict(metrics=("clip_score",), reference=None, reference_path=None)
    alone = dataclasses.replace(
        told, **plain, prompts=None, protocol=None, num_images=None
    )
    row = measured.images(str(tmp_path), alone)
    vectors = clip.vectors([one or "empty" for one in PROMPTS])
    score = 100 * clip.similarities(PICTURES, vectors).mean()
    assert row["metrics"]["clip_score"] == pytest.approx(max(0, score), abs=1e-4)
    assert row["num_images"] == 4 and row["compared_with"] is None
    few = dataclasses.replace(alone, prompts=str(tmp_path / "few.txt"))
    (tmp_path / "few.txt").write_text("one\n")
    with pytest.raises(ConfigError, match="few.txt: 1 prompts of 4 images"):
        measured.images(str(tmp_path), few)
    with pytest.raises(ConfigError, match="metrics=clip_score: .* give clip"):
        measured.images(str(tmp_path), dataclasses.replace(alone, clip=None))


def test_rows_of_two_protocols_are_never_in_one_table(rows):
    _, row, _ = rows
    other = row | {"protocol": {"name": "coco_bksdm", "changed": {}}}
    plain = {k: v for k, v in row.items() if k not in ("protocol", "prompts", "clip")}
    named = [
        {"stage": "a", "role": "", "method": None, "train_seconds": None}
        | one
        | {"run": k}
        for k, one in enumerate((row, other, row, plain))
    ]
    groups = compare.groups(named)
    assert [len(group.rows) for group in groups] == [2, 1, 1]
    assert "protocol coco_bksdm" in groups[1].apart
    assert "protocol none" in groups[2].apart
    assert "protocol: coco_dmd2, but features=pixels" in compare.markdown(groups)
    # One that has no CLIP score at all is beside one that has.
    without = {k: v for k, v in named[2].items() if k != "clip"}
    assert len(compare.groups([named[0], without])) == 1
    clip = named[0]["clip"] | {"parameters_sha256": "0" * 64}
    assert len(compare.groups([named[0], named[2] | {"clip": clip}])) == 2


def test_a_sampler_of_several_steps_is_the_protocols(rows):
    source, _, _ = rows
    model, protocol = interop.load(source), coco_protocols.make("coco_bksdm")
    own = measured.sampler_of(model, None, {})
    assert (own.name, own.nfe) == ("ddim", 2)
    one = measured.sampler_of(model, protocol, dict(num_steps=1))
    assert (one.name, one.nfe) == ("ddim", 1)
    steps = protocol.sampler.call(samplers.make, process=process.make("discrete"))
    assert (steps.name, steps.nfe) == ("pndm", 2 * 26)


def test_prompts_without_a_way_to_read_them_are_refused(rows):
    source, _, told = rows
    needs, spec = told.needs({}), interop.load(source).spec
    with pytest.raises(ConfigError, match="have no prompts that are known"):
        asked.looks(told.load_clip(), None, None, needs)
    with pytest.raises(ConfigError, match="compares with the images of its own folder"):
        asked.check(Evaluate(protocol="coco_dmd2"), spec)
    with pytest.raises(ConfigError, match="give clip, the folder of a CLIP"):
        asked.check(Evaluate(metrics=("clip_score",)), spec)
    with pytest.raises(ConfigError, match="no text encoder"):
        plain = spec.replace(text=None)
        asked.check(Evaluate(prompts=told.prompts), plain)
    assert folder.read(told.reference, Look(channels=3)).num == 4
