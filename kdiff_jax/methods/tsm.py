"""Teacher score matching: a student, often smaller, learns the teacher's denoiser.

The first stage of Multi-student Distillation for smaller students (Song et al. 2024,
arXiv:2410.23274), and, with the teacher's features and a range of times, O2MKD (Zhang &
Ma 2024, arXiv:2410.04191). With a student that reads the strength of its guidance it is
stage one of guided distillation (Meng et al. 2023, arXiv:2210.03142).
"""

from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import denoiser, registry, rng
from kdiff_jax.arguments import Count, NotNegative, Positive, Share
from kdiff_jax.diffusion import guidance as guidances
from kdiff_jax.diffusion import noise_levels
from kdiff_jax.diffusion.guidance import Interval
from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import features as distances
from kdiff_jax.losses import regression
from kdiff_jax.method import Aux, Method, Net, Phase

TAKES_TIMES = True  # see `methods.takes_times`
SCORES_PAIRS = True  # see `methods.scores_pairs`
TAKES_GUIDANCE = True  # see `methods.takes_guidance`
ROLES = ("adapters",)  # see `methods.roles`
# The default weight of each. That of "fitnet" is O2MKD's [inferred]; of the others the
# gradient is then as large, 0.4 to 0.8 of the other losses' [measured].
WEIGHTS = {"fitnet": 1e-2, "attention": 10.0, "relational": 0.3}
FEATURES = ("none", *WEIGHTS)


def make(
    *,
    nets,
    process,
    times: str = "process",
    weight: str = "snr_trunc",
    task_weight: NotNegative = 0.0,
    features: str = "none",
    feature_weight: NotNegative | None = None,
    relation_group: Count = 4,
    P_mean: float = -1.2,
    P_std: Positive = 1.2,
    guidance: NotNegative = 1.0,
    guidance_interval: Interval | None = None,
    null_prob: Share = 0.0,
) -> Method:
    """E[ weight(logsnr_t) (||x0_hat - x0_teacher||^2 + task_weight ||x0_hat - x0||^2) ]
    + feature_weight * sum over levels of a distance of features.

    Features are read at the end of each encoder level, in the bottleneck, and at the
    end of each decoder level; of a student that lacks the innermost of them, at those
    that it has. For "fitnet", levels whose widths differ have 1x1 adapters, student to
    teacher, a role of their own.

    Args:
        nets: {"student": Net, "teacher": Net}; the student starts from random numbers.
        process: The forward process.
        times: Distribution of t, see `noise_levels.make`.
        weight: See `regression.weight`; "snr" makes both errors those of eps (O2MKD),
            "edm" is that of EDM's teachers.
        task_weight: Weight of the loss on the data; 0 in MSD, 1 in O2MKD.
        features: "none", "fitnet", "attention" or "relational": see `losses.features`.
        feature_weight: Weight of the features' loss; None for that of `WEIGHTS`.
        relation_group: Number of examples compared with each other, for
            "relational"; divides a device's part of the batch.
        P_mean, P_std: Mean and deviation of log(sigma), for times="edm".
        guidance: Classifier-free guidance of the teacher's prediction, see
            `denoiser.guided`; its features are those of the label. A student that reads
            its guidance (`Net.guidance_range`) is told one that is drawn for each
            example, and the teacher has that one in place of this.
        guidance_interval: Noise levels at which it acts; None for all.
        null_prob: Share of examples whose label is dropped, for both networks, so that
            the student can be guided in turn.

    Raises:
        ConfigError: If there are no such features, or they are asked of networks whose
            levels have other pixels.

    Source: the three papers above; the first two have no public code, and the choices
    that they leave open (weights, where features are read) are arguments or stand here.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> def net(channels):
        ...     mlp = networks.make("mlp", channels=channels, out_channels=2)
        ...     return denoiser.make(mlp, cosine(), image_shape=(1, 1, 2))
        >>> nets = {"student": net(8), "teacher": net(16)}
        >>> method = methods.make("tsm", nets=nets, process=cosine(), features="fitnet")
        >>> list(method.nets)
        ['student', 'adapters']
    """
    student, teacher = nets["student"], nets["teacher"]
    guidances.check_null_prob(null_prob, student.num_classes)
    denoiser.guided(teacher, process, guidance, guidance_interval)  # or refuses it
    denoiser.check_drawn(student, teacher, guidance, guidance_interval)
    if features not in FEATURES:
        raise registry.unknown("features", features, FEATURES)
    parameters = {"P_mean": P_mean, "P_std": P_std} if times == "edm" else {}
    draw_time = noise_levels.make(times, process, **parameters)
    if feature_weight is None:
        feature_weight = WEIGHTS.get(features, 0.0)
    trained = {"student": student}
    pairs: list[tuple[int, int]] = []
    if features != "none":
        pairs, widths = _check_levels(features, student, teacher)
        if features == "fitnet" and any(a != b for a, b in widths):
            trained["adapters"] = _adapters(widths, student.precision)
    distance = {
        "fitnet": distances.mse,
        "attention": distances.attention,
        "relational": lambda s, t: distances.relational(s, t, group=relation_group),
    }.get(features)

    def denoise(net, params, *args, **keywords):
        """(x0_hat, features); features only where they are compared."""
        if distance is None:
            return net.apply(params, *args, **keywords), []
        return net.with_features(params, *args, **keywords)

    def loss(params, ctx):
        x0, y = ctx.batch["x0"], guidances.drop(ctx.keys, ctx.batch["y"], null_prob)
        t = draw_time(ctx.keys, ctx.share.t_range)
        x_t = process.add_noise(x0, rng.normal(ctx.keys, "eps", x0.shape[1:]), t)
        inputs, augment = (x_t, t, y), ctx.batch.get("augment")
        told, scale = guidances.drawn(ctx.keys, student.guidance_range, guidance)
        guided = denoiser.guided(teacher, process, scale, guidance_interval)
        target, theirs = denoise(
            guided, ctx.frozen["teacher"], *inputs, augment=augment
        )
        x0_hat, ours = denoise(
            student,
            params["student"],
            *inputs,
            augment=augment,
            dropout_keys=rng.stream(ctx.keys, "dropout"),
            **told,
        )
        teacher_error = regression.mse_per_example(x0_hat, target)
        x0_error = regression.mse_per_example(x0_hat, x0)
        factor = regression.weight(weight, process.logsnr(t))
        value = (factor * (teacher_error + task_weight * x0_error)).mean()
        metrics = {"teacher_error": teacher_error.mean(), "x0_error": x0_error.mean()}
        if distance is not None:
            ours = [ours[i] for i, _ in pairs]
            if "adapters" in trained:
                ours = trained["adapters"].apply(params["adapters"], ours)
            parts = [
                distance(a, theirs[j]).mean()
                for a, (_, j) in zip(ours, pairs, strict=True)
            ]
            metrics["features"] = jnp.stack(parts).sum()
            value = value + feature_weight * metrics["features"]
        return value, Aux({"loss": value, **metrics})

    return Method(
        nets=trained,
        frozen=("teacher",),
        phases=(Phase("tsm", tuple(trained), loss),),
        draws=("t_range",),
    )


def _check_levels(name, student, teacher):
    """(pairs of places, [(student's channels, teacher's)]) of the features compared.

    Their pixels must agree. Where one network has fewer, they are paired from both
    ends.
    """
    for role, net in (("student", student), ("teacher", teacher)):
        if net.with_features is None:
            raise ConfigError(
                f"features={name!r}: the {role} has none to compare;"
                " set features='none'"
            )
    ours, theirs = _shapes(student), _shapes(teacher)
    n, m = len(ours), len(theirs)
    each = min(n, m) // 2 if n != m else n
    pairs = [(i, i) for i in range(each)]
    pairs += [(n - i, m - i) for i in range(each, 0, -1)] if n != m else []
    shapes = [(ours[i], theirs[j]) for i, j in pairs]
    if not pairs or [a[:-1] for a, _ in shapes] != [b[:-1] for _, b in shapes]:
        raise ConfigError(
            f"features={name!r}: compares level by level, and the student has levels of"
            f" {[s[1] for s in ours]} pixels, the teacher of {[s[1] for s in theirs]};"
            " give both as many levels, or set features='none'"
        )
    return pairs, [(a[-1], b[-1]) for a, b in shapes]


def _shapes(net):
    """The shapes of a denoiser's features for one image; nothing is computed."""
    with_features: Any = net.with_features

    def run(key):
        x, t = jnp.zeros((1, *net.image_shape)), jnp.ones(1)
        return with_features(net.init(key), x, t, net.conditions.example(1))[1]

    return [h.shape for h in jax.eval_shape(run, jax.random.key(0))]


def _adapters(widths, precision: str) -> Net:
    """1x1 convolutions from a student's channels to the teacher's, where they differ.

    Args:
        widths: [(student's channels, teacher's)].
        precision: Type of the products.
    """
    start = jax.nn.initializers.lecun_normal()

    def init(key):
        return {
            f"level_{i}": {
                "kernel": start(jax.random.fold_in(key, i), (ours, theirs)),
                "bias": jnp.zeros(theirs),
            }
            for i, (ours, theirs) in enumerate(widths)
            if ours != theirs
        }

    def apply(params, features) -> Any:
        adapted = list(features)
        for name, leaf in params.items():
            i = int(name.removeprefix("level_"))
            h = features[i].astype(precision) @ leaf["kernel"].astype(precision)
            adapted[i] = h.astype(jnp.float32) + leaf["bias"][None, None, None]
        return adapted

    return Net(init, apply)
