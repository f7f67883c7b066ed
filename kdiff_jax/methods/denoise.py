"""Teacher training: regress the clean image from a noised one.

Covers DDPM (Ho et al. 2020, arXiv:2006.11239), the continuous-time variance preserving
models of Salimans & Ho (2022, arXiv:2202.00512) and EDM (Karras et al. 2022,
arXiv:2206.00364): they differ in the times that are drawn and in the weight.
"""

from kdiff_jax import rng
from kdiff_jax.arguments import Positive, Share
from kdiff_jax.diffusion import guidance, noise_levels
from kdiff_jax.encoders import texts
from kdiff_jax.losses import regression
from kdiff_jax.method import Aux, Method, Phase

ROLES = (texts.ROLE,)  # see `methods.roles`
TAKES_TIMES = True  # see `methods.takes_times`
SCORES_PAIRS = True  # see `methods.scores_pairs`
MAKES_TEACHERS = True  # see `methods.makes_teachers`


def make(
    *,
    nets,
    process,
    times: str = "process",
    weight: str = "snr_trunc",
    P_mean: float = -1.2,
    P_std: Positive = 1.2,
    null_prob: Share = 0.0,
) -> Method:
    """E[ weight(logsnr_t) ||x0 - x0_hat(x_t, t, y)||^2 ].

    Args:
        nets: {"student": Net}; the trained network keeps the name of its role. With a
            "text_encoder", see `texts.net`, that is trained, too: texts are encoded in
            the loss, and so is the empty one in the place of those that are dropped.
        process: The forward process.
        times: Distribution of t: "process" (uniform in the process' own time), or the
            noise levels of EDM: "edm", "vp", "ve" (arXiv:2206.00364, Table 1).
        weight: "constant", "snr" (the loss on eps: DDPM), "snr_trunc", "v_mse", "edm".
        P_mean, P_std: Mean and deviation of log(sigma), for times="edm".
        null_prob: Share of examples whose label is dropped, so that the network can be
            guided; 0.1 to 0.2 in the paper of guidance (arXiv:2207.12598).

    Raises:
        ConfigError: If there is no such `times`, or labels are to be dropped of a
            network without classes; when the loss is traced, of an unknown `weight`.

    Source: arXiv:2006.11239 Eq. 14; arXiv:2202.00512 Section 4; arXiv:2206.00364 Eq. 8.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import edm
        >>> mlp = networks.make("mlp", out_channels=2)
        >>> net = denoiser.make(mlp, edm(), precondition="edm", image_shape=(1, 1, 2))
        >>> options = dict(process=edm(), times="edm", weight="edm")
        >>> method = methods.make("denoise", nets={"student": net}, **options)
        >>> method.phases[0].name, method.batch_keys
        ('denoise', ('x0', 'y'))
    """
    student, encoder = nets["student"], nets.get(texts.ROLE)
    trained = {"student": student} | ({texts.ROLE: encoder} if encoder else {})
    guidance.check_null_prob(null_prob, student.num_classes)
    parameters = {"P_mean": P_mean, "P_std": P_std} if times == "edm" else {}
    draw_time = noise_levels.make(times, process, **parameters)

    def loss(params, ctx):
        x0, y = ctx.batch["x0"], guidance.drop(ctx.keys, ctx.batch["y"], null_prob)
        if encoder:
            y = encoder.apply(params[texts.ROLE], y)
        t = draw_time(ctx.keys, ctx.share.t_range)
        x_t = process.add_noise(x0, rng.normal(ctx.keys, "eps", x0.shape[1:]), t)
        x0_hat = student.apply(
            params["student"],
            x_t,
            t,
            y,
            dropout_keys=rng.stream(ctx.keys, "dropout"),
            augment=ctx.batch.get("augment"),
        )
        error = regression.mse_per_example(x0_hat, x0)
        weighted = regression.weight(weight, process.logsnr(t)) * error
        return weighted.mean(), Aux({"loss": weighted.mean(), "x0_error": error.mean()})

    return Method(
        nets=trained,
        phases=(Phase("denoise", tuple(trained), loss),),
        draws=("t_range",),
        encodes_texts=encoder is not None,
    )
