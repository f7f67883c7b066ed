"""DMD2: distribution matching with two time-scales and a GAN on the fake score.

Yin et al. 2024, arXiv:2405.14867. No pairs are needed: the student's images are moved
by the difference between the teacher's denoiser and one that learns those images, and
by a discriminator that reads the latter's encoder. With `f_divergence`, that
discriminator weights the difference as well: f-distill, Xu et al. 2025,
arXiv:2502.15681.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kdiff_jax import denoiser, registry, rng
from kdiff_jax.arguments import Count, NotNegative, Share
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.guidance import Interval
from kdiff_jax.diffusion.process import Process
from kdiff_jax.discriminators.gan_head import GanHead
from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import adversarial, distribution
from kdiff_jax.method import Aux, Method, Net, Phase
from kdiff_jax.samplers import renoise, step_noise

ROLES = ("fake_score", "disc")  # see `methods.roles`
PLACES = {"encoder": -2, "middle": -1}  # of the head, among the features of an encoder


def make(
    *,
    nets,
    process,
    student_every: Count = 5,
    num_steps: Count = 1,
    dm_weight: str = "normalized",
    fake_weight: str = "edm",
    min_step: Share = 0.02,
    max_step: Share = 0.98,
    spacing: str | None = None,
    gan_weight: NotNegative = 3e-3,
    disc_weight: NotNegative = 1e-2,
    gan_loss: str = "nonsaturating",
    diffusion_gan: bool = True,
    f_divergence: str = "reverse_kl",
    features: str = "fake_score",
    head_groups: Count = 32,
    head_place: Literal["encoder", "middle"] = "encoder",
    guidance: NotNegative = 1.0,
    guidance_interval: Interval | None = None,
) -> Method:
    """A few-step student; `fake_score` and `disc` are trained five times as often.

    Args:
        nets: {"student": Net, "teacher": Net}.
        process: The forward process.
        student_every: Updates of the guidance (fake score and head) per student update.
        num_steps: Number of sampling steps of the student, whose sampler is `renoise`
            with as many. Above 1, it is trained on its own intermediate results, made
            without a gradient ("backward simulation").
        dm_weight: See `distribution.gradient`.
        fake_weight: See `regression.weight`; that of the teacher's training.
        min_step, max_step: Range of the time grid on which the two scores are compared,
            as fractions of its length.
        spacing: Spacing of that grid, see `grids.make`; None for the process' own.
        gan_weight: Weight of the generator's adversarial loss; 0 leaves the
            discriminator out.
        disc_weight: Weight of the discriminator's loss, which is added to that of the
            fake score.
        gan_loss: "nonsaturating" or "hinge".
        diffusion_gan: The discriminator sees noised images, at times of the whole grid.
        f_divergence: Divergence that distribution matching lowers, see
            `distribution.divergence_weight`; the weight's mean over the global batch is
            1. All but "reverse_kl" read the discriminator's logit of the very x_t at
            which the scores are compared, so it must be one of noised images.
        features: Network whose encoder the discriminator reads: "fake_score", which
            then learns from the discriminator's loss too, or "teacher".
        head_groups: See `GanHead`.
        head_place: What the head reads: the last output of the "encoder" (the authors'
            ImageNet), or of the "middle" of the network (their Stable Diffusion).
        guidance: Classifier-free guidance of the teacher, see `denoiser.guided`;
            1.75 for Stable Diffusion 1.5. The fake score has none.
        guidance_interval: Noise levels at which it acts; None for all.

    Raises:
        ConfigError: If an option is unknown.

    Source: arXiv:2405.14867, Section 4 and released code (ImageNet: the defaults).

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> mlp = networks.make("mlp", out_channels=2, num_classes=4)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2), num_classes=4)
        >>> nets = {"student": net, "teacher": net}
        >>> options = dict(num_steps=4, gan_weight=0.0)
        >>> method = methods.make("dmd2", nets=nets, process=cosine(), **options)
        >>> list(method.nets), method.sampler
        (['student', 'fake_score'], {'name': 'renoise', 'num_steps': 4})
    """
    student, teacher = nets["student"], nets["teacher"]
    guided = denoiser.guided(teacher, process, guidance, guidance_interval)
    _check(teacher, gan_weight, gan_loss, diffusion_gan, f_divergence, features)
    weighted = f_divergence != "reverse_kl"
    shape = student.image_shape
    inner_time = grids.draw_from(process, low=min_step, high=max_step, spacing=spacing)
    any_time = grids.draw_from(process, spacing=spacing)
    first_time = grids.make(process, process.num_timesteps or 1000, spacing=spacing)[-2]
    steps = renoise.times(process, num_steps)[:-1]
    disc = Discriminator(
        _head(teacher, head_groups, PLACES[head_place]),
        teacher,
        PLACES[head_place],
        reads=features,
        process=process,
        draw_time=any_time if diffusion_gan else None,
        first_time=first_time,
    )

    def prepare(ctx):
        z = rng.normal(ctx.keys, "z", shape)
        y_gen = ctx.draw_y(student)

        def generate(x_t, t):
            return student.apply(ctx.nets["student"], x_t, t, y_gen)

        x_t, t = simulate(generate, z, ctx.keys, steps, process=process)
        made = {"y_gen": y_gen, "x_t": x_t, "t": t, "x_gen": generate(x_t, t)}
        # Where the two scores are compared.
        t, eps = inner_time(ctx.keys, "t"), rng.normal(ctx.keys, "eps", shape)
        made |= {"t_dm": t, "eps_dm": eps}
        if weighted:
            x_t = process.add_noise(made["x_gen"], eps, t)
            found = disc.logits(ctx, ctx.nets, x_t, t, y_gen)
            made["h"] = distribution.divergence_weight(f_divergence, found)
        return {**ctx.batch, **made}

    def matching(ctx, x):
        batch, y = ctx.batch, ctx.batch["y_gen"]

        def real(x_t, t):
            return guided.apply(ctx.frozen["teacher"], x_t, t, y)

        def fake(x_t, t):
            return teacher.apply(ctx.nets["fake_score"], x_t, t, y)

        t, eps = batch["t_dm"], batch["eps_dm"]
        g = distribution.gradient(
            real, fake, x, t, eps, process=process, weight=dm_weight
        )
        errors = distribution.surrogate(x, g)
        if weighted:
            errors = errors * batch["h"] / ctx.carry["mean_h"]
        return errors.mean()

    def fooling(ctx, x):
        found = disc.judge(ctx, ctx.nets, x, ctx.batch["y_gen"], "fake")
        return adversarial.generator(gan_loss, found).mean()

    def denoising(params, ctx):
        y = ctx.batch["y_gen"]

        def fake(x_t, t):
            return teacher.apply(params["fake_score"], x_t, t, y)

        t, eps = any_time(ctx.keys, "t"), rng.normal(ctx.keys, "eps", shape)
        return distribution.fake_score(
            fake, ctx.batch["x_gen"], t, eps, process=process, weight=fake_weight
        ).mean()

    def telling_apart(params, ctx):
        batch = ctx.batch
        real = disc.judge(ctx, params, batch["x0"], batch["y"], "real")
        fake = disc.judge(ctx, params, batch["x_gen"], batch["y_gen"], "fake")
        return adversarial.discriminator(gan_loss, real, fake).mean()

    for_student = {"dm": (1.0, matching)}
    for_guidance = {"fake_score": (1.0, denoising)}
    trained = {"student": student, "fake_score": teacher}
    if gan_weight:
        for_student["gan"] = (gan_weight, fooling)
        for_guidance["disc"] = (disc_weight, telling_apart)
        trained["disc"] = disc.head
    return Method(
        nets=trained,
        frozen=("teacher",),
        init_from={"student": "teacher", "fake_score": "teacher"},
        phases=_phases(student, for_student, for_guidance, student_every, weighted),
        prepare=prepare,
        carry={"mean_h": jnp.float32(1)} if weighted else {},
        draws=("conditions",),
        # With one step all samplers are the network itself.
        sampler=dict(name="renoise", num_steps=num_steps) if num_steps > 1 else {},
    )


def _check(
    teacher: Net, gan_weight, gan_loss, diffusion_gan, f_divergence, features
) -> None:
    """Refuses options that do not go together; see `make`."""
    if features not in ("fake_score", "teacher"):
        raise ConfigError(f"features={features!r}; choose fake_score or teacher")
    if gan_weight and teacher.encode is None:
        raise ConfigError(
            f"gan_weight={gan_weight}: the teacher has no encoder for the discriminator"
            " to read; set gan_weight=0"
        )
    if f_divergence not in distribution.DIVERGENCES:
        known = distribution.DIVERGENCES
        raise registry.unknown("f_divergence", f_divergence, known)
    log_ratios = gan_weight and diffusion_gan and gan_loss == "nonsaturating"
    if f_divergence != "reverse_kl" and not log_ratios:
        raise ConfigError(
            f"f_divergence={f_divergence!r}: needs a discriminator whose logits are"
            " log-ratios of noised images; set gan_weight above 0, diffusion_gan=True"
            " and gan_loss='nonsaturating'"
        )


class Discriminator(NamedTuple):
    """A head on the encoder of a denoiser, and the noise that its images get.

    Attributes:
        head: Network of one of the encoder's outputs.
        denoiser: Network with the encoder.
        place: Place of that output among the encoder's features.
        reads: Role whose parameters the encoder has: "fake_score", or "teacher".
        process: The forward process.
        draw_time: (keys, name) -> times at which images are noised; None for images as
            they are.
        first_time: Time at which images as they are go in: the smallest of the grid.
    """

    head: Net
    denoiser: Net
    place: int
    reads: str
    process: Process
    draw_time: Callable[..., Any] | None
    first_time: float

    def logits(self, ctx, nets, x_t, t, y):
        """Logits of noised images; `nets` are the parameters of "disc" and encoder."""
        frozen = self.reads == "teacher"
        encoder = ctx.frozen["teacher"] if frozen else nets["fake_score"]
        encode: Any = self.denoiser.encode  # `make` refuses a teacher without
        features = encode(encoder, x_t, t, y)
        return self.head.apply(nets["disc"], features[self.place])

    def judge(self, ctx, nets, x, y, name: str):
        """Logits of images x; the noise of each `name` is its own."""
        keys = rng.stream(ctx.keys, name)
        t, x_t = jnp.full(len(x), self.first_time, jnp.float32), x
        if self.draw_time is not None:
            t = self.draw_time(keys, "t")
            eps = rng.normal(keys, "eps", self.denoiser.image_shape)
            x_t = self.process.add_noise(x, eps, t)
        return self.logits(ctx, nets, x_t, t, y)


def _phases(
    student: Net, for_student, for_guidance, student_every: int, weighted: bool
) -> tuple[Phase, ...]:
    """The student's update, at some steps, and the guidance's, at all.

    Args:
        student: The network.
        for_student: Name -> (weight, (ctx, x) -> number), of its images x.
        for_guidance: Name -> (weight, (params, ctx) -> number), of a role each.
        student_every: See `make`.
        weighted: Whether the batch has the weights "h" of a divergence.
    """

    def student_loss(params, ctx):
        batch = ctx.batch
        x = student.apply(params["student"], batch["x_t"], batch["t"], batch["y_gen"])
        return weighted_sum(for_student, ctx, x)

    def guidance_loss(params, ctx):
        return weighted_sum(for_guidance, params, ctx)

    def weighing(params, ctx):
        del params  # it trains nothing
        mean = ctx.batch["h"].mean()
        return mean, Aux({"mean": mean}, {"mean_h": mean})

    phases = (
        Phase("student", ("student",), student_loss, every=student_every),
        Phase("guidance", tuple(for_guidance), guidance_loss),
    )
    if weighted:
        # A loss sees a part of the batch; what a phase carries on is averaged over all
        # parts and devices. So the mean weight is found by a phase of its own.
        phases = (Phase("weight", (), weighing, every=student_every), *phases)
    return phases


def weighted_sum(terms, *args):
    """(sum of weight * term(*args), its parts as metrics) of {name: (weight, term)}."""
    parts = {name: term(*args) for name, (_, term) in terms.items()}
    weighted = [terms[name][0] * part for name, part in parts.items()]
    value = sum(weighted[1:], start=weighted[0])
    return value, Aux({"loss": value, **parts})


def simulate(generate, z, keys, steps, *, process):
    """Backward simulation: (x_t, t) that the student meets when it samples itself.

    That is the path of the sampler `renoise`, of the same draws for the same keys. Each
    example keeps one of its inputs, drawn evenly; with one step that is z_scale * z.

    Args:
        generate: The student, (x_t, t) -> x0.
        z: f32[B, H, W, C], noise.
        keys: Key[B].
        steps: N decreasing times.
        process: The forward process.

    Source: arXiv:2405.14867, Section 4.4 and 4.5.
    """
    chosen = rng.randint(keys, "step", len(steps))
    x, draw = process.z_scale * z, step_noise(keys, None, z)
    # One step: nothing to simulate, and no loop to compile.
    inputs = x[None]
    if len(steps) > 1:
        inputs, _ = renoise.path(generate, x, steps, draw, process=process)
    x_t = inputs[chosen, jnp.arange(len(z))]
    return x_t, jnp.asarray(steps, jnp.float32)[chosen]


def _head(teacher: Net, num_groups: int, place: int) -> Net:
    """The discriminator's head as pure functions on one of the encoder's outputs."""
    module = GanHead(num_groups, teacher.precision)

    def apply(params, h) -> Array:
        return module.apply({"params": params}, h)  # type: ignore[return-value]

    def features(key):
        x, t = jnp.zeros((1, *teacher.image_shape)), jnp.ones(1)
        y = teacher.conditions.example(1)
        # Nobody asks for a head on a network without encoder: `make` refuses it.
        encode: Any = teacher.encode
        return encode(teacher.init(key), x, t, y)[place]

    def init(key):
        found = jax.eval_shape(features, key)
        return module.init(key, jnp.zeros(found.shape, found.dtype))["params"]

    return Net(init, apply)
