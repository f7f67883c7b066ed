"""What a teacher and the fake scores of two students see in their noised images."""

import types

import drawn
import jax
import jax.numpy as jnp
import jobs
import numpy as np
import points
from flax.core import FrozenDict

from kdiff_jax import denoiser, interop, partition, pixels
from kdiff_jax.method import Method
from kdiff_jax.named import Named
from kdiff_jax.report import grid
from kdiff_jax.stages import denoised
from kdiff_jax.stages.hooks import Log
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.students import Students
from kdiff_jax.train import generate, parallel


def test_each_image_is_seen_by_the_teacher_and_by_its_own_fake_score(
    tmp_path, monkeypatch
):
    """In batches of 4, of groups in turn; the teacher as guided as the method says."""
    monkeypatch.setattr(denoised, "NUM", 6)
    pictures, draw = [], grid.side_by_side
    monkeypatch.setattr(
        grid, "side_by_side", lambda rows: pictures.append(rows) or draw(rows)
    )
    net, process = interop.build(points.sections()["model"])
    teacher = drawn.params(net)
    fakes = [jax.tree.map(lambda x, s=s: s * x, teacher) for s in (0.5, 0.8)]
    owners = partition.make(process=process, num_classes=8, num_groups=2)
    mesh = parallel.student_mesh(parallel.make_mesh(jax.devices()[:1]), 2)
    stage = jobs.training(method=Named("dmd", FrozenDict(guidance=2.0)))
    stacked = jax.tree.map(lambda *x: np.stack(x), *fakes)
    params = parallel.by_student(stacked, mesh)
    state = types.SimpleNamespace(
        nets={"fake_score": types.SimpleNamespace(params=params)}
    )

    log = Log(tmp_path / "log", "student", stage.train, first_step=0)

    def hook(nets):
        return denoised.of_stage(
            jobs.job([stage], tmp_path, mesh),
            stage,
            Method(nets=nets, phases=()),
            Roles({"student": net}, process, jobs.SPEC, {}, {}),
            Students(owners, (0, 1), mesh),
            {"teacher": parallel.replicate(teacher, mesh)},
            (),
            log,
        )

    assert hook({"student": net}) is None
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 2), np.uint8)
    labels = np.array([0, 5, 1, 2, 3, 7, 4, 6], np.int32)
    hook({"student": net, "fake_score": net})(7, state, images, labels)
    assert (tmp_path / "student/samples/denoised/7.png").is_file()

    log.close()
    (rows,) = pictures
    assert rows[0][0] == "student" and len(rows) == 1 + 3 * 2
    np.testing.assert_array_equal(rows[0][1], images[:6])
    eps, _ = generate.noise(0, np.arange(6, dtype=np.int32), (1, 1, 2), "denoised")
    x0 = pixels.to_float(images[:6])
    guided = denoiser.guided(net, process, 2.0)
    for i, t in enumerate((0.75, 0.5, 0.25)):
        times, y = jnp.full(6, t), jnp.asarray(labels[:6])
        x_t = process.add_noise(x0, eps, times)
        level = f", noise {float(process.sigma(t) / process.alpha(t)):.2g}"
        wanted = {"teacher": guided.apply(teacher, x_t, times, y)}
        both = [net.apply(fake, x_t, times, y) for fake in fakes]
        owner = np.asarray(y >= 4)[:, None, None, None]
        wanted["fake score"] = np.where(owner, both[1], both[0])
        for title, found in rows[1 + 2 * i : 3 + 2 * i]:
            expected = pixels.to_uint8(
                jnp.asarray(wanted.pop(title.removesuffix(level)))
            )
            apart = np.abs(found.astype(int) - np.asarray(expected, int))
            assert apart.max() <= 1 and apart.mean() < 0.1
        assert not wanted
