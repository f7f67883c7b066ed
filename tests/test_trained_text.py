"""A text encoder that is trained with the teacher, on prompts made of class names."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest

from configs import common, digits
from kdiff_jax import domain, interop, methods, prompting, recipe, rng, text
from kdiff_jax.diffusion import process as processes
from kdiff_jax.encoders import texts
from kdiff_jax.encoders.texts import ROLE
from kdiff_jax.errors import UserError
from kdiff_jax.interop import Spec
from kdiff_jax.method import Context
from kdiff_jax.train import generate, parallel

ONE = jax.devices()[:1]
LENGTH = 8
TEXT = dict(
    name="clip_text",
    vocab_size=600,
    width=8,
    num_blocks=1,
    num_heads=2,
    hidden=16,
    num_positions=LENGTH,
)
NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def config(**changes):
    """Teacher with its encoder, and a student who reads it, in the plane.

    Args:
        **changes: "data.templates" and the like -> value.
    """
    found = points.sections()
    templates = ("a {}", "number {}")
    found["data"] |= dict(
        class_names=NAMES, templates=templates, text_encoder="teacher"
    )
    found["model"] |= dict(text=TEXT, cond_dim=8, cond_length=LENGTH, num_classes=16)
    teacher = digits.teacher(tiny=True)
    teacher["method"] |= dict(null_prob=0.5)
    teacher["optim"] |= points.OPTIM
    student = dict(
        method=dict(name="tsm", null_prob=0.5, guidance=2.0),
        optim=points.OPTIM,
        train=dict(num_steps=2, batch_size=8, result="ema"),
        partition=True,
    )
    made = common.config(
        "trained_text",
        order=("teacher", "student"),
        stages=dict(teacher=teacher, student=student),
        partition=dict(num_groups=2, rule="pca"),
        train=common.tiny_train(),
        **found,
    ).unlock()
    for path, value in changes.items():
        *sections, key = path.split(".")
        place = made
        for section in sections:
            place = place[section]
        place[key] = value
    return made


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe.run(config(), folder, devices=ONE)
    return folder


def test_the_gradient_flows_into_the_encoder_and_a_dropped_text_is_the_empty_one():
    spec = Spec.of(dict(points.sections()["model"], **TEXT_FIELDS))
    net, _ = interop.build(spec)
    encoder = texts.net(net.reader)
    nets, cosine = {"student": net, ROLE: encoder}, processes.cosine()
    keys = jax.random.split(jax.random.key(0), 6)
    params = {r: n.init(k) for (r, n), k in zip(nets.items(), keys, strict=False)}
    ids = jnp.arange(6)[:, None] + jnp.arange(LENGTH)[None]
    empty = jnp.full((6, LENGTH), 599)

    def gradient(prob, prompts):
        found = methods.make("denoise", nets=nets, process=cosine, null_prob=prob)
        assert found.phases[0].trains == ("student", ROLE) and found.encodes_texts
        batch = {"x0": jnp.ones((6, 1, 1, 2)), "y": domain.Prompt(prompts, empty)}
        share = domain.whole(16, (0.0, 1.0))
        ctx = Context({}, {}, {}, {}, batch, rng.stream(keys, "a"), share)
        grads = jax.grad(lambda p: found.phases[0].loss(p, ctx)[0])(params)
        return grads[ROLE]["token_embedding"]

    rows = np.flatnonzero(np.abs(gradient(0.0, ids)).sum(axis=1))
    np.testing.assert_array_equal(rows, np.arange(13))
    rows = np.flatnonzero(np.abs(gradient(1.0, ids)).sum(axis=1))
    np.testing.assert_array_equal(rows, [599])


TEXT_FIELDS = dict(text=TEXT, cond_dim=8, cond_length=LENGTH, num_classes=16)


def test_the_folder_has_the_average_of_the_encoder_and_its_tokenizer(workdir):
    model = interop.load(workdir / "teacher")
    first = texts.net(model.net.reader).init(jax.random.key(0))
    assert jax.tree.structure(first) == jax.tree.structure(model.frozen[ROLE])
    # A step of a checkpoint is the same model, of the same average.
    step = interop.load(workdir / "teacher/checkpoints/4")
    jax.tree.map(np.testing.assert_array_equal, step.frozen[ROLE], model.frozen[ROLE])
    before = interop.load(workdir / "teacher/checkpoints/2").frozen[ROLE]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, model.frozen[ROLE])
    assert min(jax.tree.leaves(moved)) > 1e-6
    tokenizer = text.tokenizer(workdir / "teacher/model")
    rows = np.asarray(model.frozen[domain.TABLE][:2])
    assert tokenizer.texts(rows) == ["a one", "number one"]
    encoder = text.load(workdir / "teacher")
    jax.tree.map(np.testing.assert_array_equal, encoder.params, model.frozen[ROLE])
    student = interop.load(workdir / "student")
    assert student.num_students == 2 and student.partition.splits
    jax.tree.map(np.testing.assert_array_equal, student.frozen[ROLE], encoder.params)


def test_another_word_is_another_picture(workdir):
    """From the same noise; as numbers, for so short a training moves few pixels."""
    model = interop.load(workdir / "teacher")
    asked = prompting.prompts(model, workdir / "teacher", ["a one", "a nine"])
    mesh = parallel.make_mesh(ONE)
    make = generate.of_model(model, model.sampler(), mesh=mesh, leave=lambda x0: x0)
    about = dict(seed=1, batch_size=1)
    pictures = [
        next(make.batches(model.students, labels=one, **about)).x0
        for one in (jax.tree.map(lambda x, i=i: x[i : i + 1], asked) for i in range(2))
    ]
    assert (pictures[0] != pictures[1]).all()


def test_a_run_that_is_resumed_is_the_same_to_the_bit(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    stage = tmp_path / "run/teacher"
    shutil.rmtree(stage / "checkpoints/4")
    shutil.rmtree(stage / "model")
    (stage / "done.json").unlink()
    recipe.run(config(), tmp_path / "run", devices=ONE, only="teacher")
    for name in ("model.safetensors", "text_encoder.safetensors", "conditions.npy"):
        found = (stage / "model" / name).read_bytes()
        assert found == (workdir / "teacher/model" / name).read_bytes(), name


def test_a_teacher_that_is_brought_brings_its_encoder(workdir, tmp_path):
    brought = config(**{"init.teacher": str(workdir / "teacher/model")})
    job = recipe.make_job(brought, tmp_path, devices=ONE)
    model = interop.load(workdir / "teacher")
    jax.tree.map(np.testing.assert_array_equal, job.frozen[ROLE], model.frozen[ROLE])
    assert [s.name for s in job.stages] == ["student"] and not job.lacks
    brought.data.text_encoder = "student"
    with pytest.raises(
        UserError, match="'tsm' trains no text encoder; name a stage of"
    ):
        recipe.check_inputs(recipe.make_job(brought, tmp_path, devices=ONE))


def test_a_prompt_that_is_too_long_is_refused(workdir):
    model = interop.load(workdir / "teacher")
    with pytest.raises(UserError, match="--prompt='one one .* more than the 8 tokens"):
        prompting.prompts(model, workdir / "teacher", ["one " * 7])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data.class_names": (), "data.templates": ()}, "model.text needs prompts"),
        (
            {"data.class_names": NAMES[:7], "model.num_classes": 14},
            "are 7, and data .* has 8 classes; name each",
        ),
        ({"data.templates": ("a {}",)}, "data.templates: 8 prompts of 8 tokens, the"),
        (
            {"data.templates": ("a b c d e f g {}", "a {}")},
            "data.templates: prompt 0 has more than model.cond_length=8 tokens",
        ),
        ({"data.text_encoder": "student"}, "'teacher' stands before 'student'"),
        ({"stages.teacher.partition": True}, "several students, or .* read an encoder"),
        (
            {
                "stages.teacher.train.result": "best",
                "stages.teacher.train.best_by": "fd_pixels",
                "stages.teacher.train.figure_every": 2,
            },
            "trains its text encoder; choose",
        ),
        ({"model.text.vocab_size": 90}, "model.text.vocab_size=90: bytes,"),
        ({"data.text_encoder": "nowhere"}, "tokenizer='.*nowhere'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(changes, line, tmp_path):
    with pytest.raises(UserError, match=line) as error:
        job = recipe.make_job(config(**changes), tmp_path / "run", devices=ONE)
        recipe.check_inputs(job)
    assert "\n" not in str(error.value)
