"""References of images that were prepared otherwise are refused, with both named."""

import jax
import numpy as np
import points
import pytest

from kdiff_jax import metrics, recipe
from kdiff_jax.data.resize import described
from kdiff_jax.errors import DataError
from kdiff_jax.features import Extractor
from kdiff_jax.metrics import stats
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.seen import Gaussian, Seen, of_rows
from kdiff_jax.stages import measured
from kdiff_jax.train import coco_protocols, parallel, preparation

DMD2, BKSDM = map(coco_protocols.make, ("coco_dmd2", "coco_bksdm"))
OURS = described(256)
TOY = Features("toy", Extractor({"x": 2}, "x"), {}, "default")


def reference(prepared, image_shape=(256, 256, 3), features=TOY):
    seen = Seen(Gaussian(np.zeros(2), np.eye(2), 100))
    about = dict(image_shape=image_shape, prepared=prepared)
    return stats.of_seen(seen, features, data="abc", **about)


@pytest.mark.parametrize(
    ("found", "wanted", "apart"),
    [
        (OURS, OURS, []),
        (OURS, DMD2.look.described(), ["crop"]),
        (OURS, BKSDM.look.described(), ["crop", "filter", "jpeg"]),
        (OURS | {"flip": True}, OURS, ["flip"]),
        (
            OURS | {"filter": "nearest", "antialias": False},
            OURS,
            ["filter", "antialias"],
        ),
        (described(None), BKSDM.look.described(), []),  # as they were found
        (described(None) | {"flip": True}, OURS, ["flip"]),
        (OURS | {"resize": 64}, OURS, ["resize"]),
        ({}, OURS, []),
    ],
)
def test_what_both_say_is_compared(found, wanted, apart):
    assert sorted(preparation.differences(found, wanted)) == sorted(apart)


def settings(path, protocol):
    other = dict.fromkeys("num_images prompts clip clip_tokenizer per".split())
    return measured.Settings(
        mesh=parallel.make_mesh(jax.devices()[:1]),
        features=TOY,
        metrics=("fd",),
        reference=str(path),
        reference_path=path,
        protocol=protocol,
        labels="arange",
        seed=1,
        seeds=1,
        headline="best",
        bootstrap=0,
        batch_size=10,
        **other,
    )


def test_a_protocol_takes_no_reference_of_another_crop(tmp_path, caplog):
    path = tmp_path / "ref.npz"
    stats.save(path, reference(DMD2.look.described()))
    settings(path, DMD2).statistics((256, 256, 3), {})
    assert not caplog.messages
    words = (
        "made of images with crop=largest centred square, and coco_dmd2 has"
        " crop=largest centred square of torchvision; make one"
    )
    stats.save(path, reference(OURS))
    with pytest.raises(DataError, match=words):
        settings(path, DMD2).statistics((256, 256, 3), {})
    stats.save(path, reference(described(None)))
    settings(path, DMD2).statistics((256, 256, 3), {})
    (line,) = caplog.messages
    assert "of images as they were found, perhaps prepared otherwise" in line


def test_what_is_not_known_to_differ_is_told(tmp_path, caplog):
    path = tmp_path / "ref.npz"
    stats.save(path, reference(OURS | {"flip": True, "filter": "nearest"}))
    settings(path, None).statistics((256, 256, 3), {})
    (line,) = caplog.messages
    assert (
        "with filter=nearest, flip=True, where this project has filter=lanczos, f"
        in line
    )
    caplog.clear()
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2))
    with caplog.at_level("INFO"):
        settings(path, None).statistics((256, 256, 3), {})
    (line,) = caplog.messages
    assert line == (
        f"reference={path}: does not say its features; preprocessing; number of images;"
        " crop, resize and flip; taken for those of this evaluation"
    )


def test_a_recipe_takes_no_reference_that_was_prepared_otherwise(tmp_path):
    points.recipes.load("digits_student", "tiny")
    from configs import common

    path, pixels = tmp_path / "ref.npz", metrics.make("pixels")
    seen = Seen(of_rows(np.random.default_rng(0).normal(size=(9, 2)).astype("f4")))
    about = dict(image_shape=(1, 1, 2), prepared=described(None) | {"flip": True})
    stats.save(path, stats.of_seen(seen, pixels, data="abc", **about))
    train = dict(num_steps=1, batch_size=8)
    teacher = dict(method=dict(name="denoise"), optim=dict(lr=1e-2), train=train)
    evaluate = dict(kind="evaluate", models=("teacher",), num_images=20)
    config = common.config(
        "prepared",
        order=("teacher", "evaluate"),
        stages=dict(teacher=teacher, evaluate=evaluate | {"reference": str(path)}),
        init={},
        **points.sections(),
    )
    words = "made of images with flip=True, and the data of this run has flip=False"
    with pytest.raises(DataError, match=rf"^--config.evaluate.reference=.* {words}"):
        recipe.run(config, tmp_path / "run", devices=jax.devices()[:1])
    assert not list((tmp_path / "run").glob("teacher/checkpoints"))  # before all stages
