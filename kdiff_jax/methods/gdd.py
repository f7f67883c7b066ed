"""GDD: a GAN on real images makes a one-step generator of a diffusion model.

Zheng & Yang 2024, arXiv:2405.20750. The teacher gives its weights, and its encoder
to the discriminator unless that reads classifiers, as the authors' does; its samples
are never looked at. GDD-I is the same with the generator's convolutions frozen.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import decoded, registry, rng
from kdiff_jax.arguments import Count, NotNegative, Positive, Share, Whole
from kdiff_jax.augment import ada, diffaugment
from kdiff_jax.discriminators import extractors, joined, projected
from kdiff_jax.losses import adversarial
from kdiff_jax.method import Aux, Method, Phase
from kdiff_jax.networks.freeze import trains_with_frozen_convolutions

ROLES = ("disc",)  # see `methods.roles`


def make(
    *,
    nets,
    process,
    loss: str = "nonsaturating",
    features: tuple[str, ...] = ("teacher",),
    feature_files: tuple[str, ...] = (),
    noise_levels: tuple[Positive, ...] = (0.5,),
    width: Count = 16,
    virtual_local_batch: Count = 1,
    r1_weight: NotNegative = 1e-4,
    r1_every: Count = 16,
    freeze: bool = False,
    class_embedding: str = "",
    class_embedding_dim: Count = projected.EMBEDDING_DIM,
    augment: tuple[str, ...] = (),
    ada_target: Share = 0.0,
    ada_steps: Count = 2000,
    decode_batch: Whole = 0,
) -> Method:
    """Generator, discriminator, and every `r1_every`-th step a penalty, in that order.

    With l_k the logits of the discriminator on feature network k, V the virtual local
    batch, and means over the batch and the logits of an example:

    - student: V sum_k E[ softplus(-l_k(G(z, y))) ]
    - disc: V sum_k E[ softplus(l_k(G(z, y))) + softplus(-l_k(x0)) ]
    - r1: r1_every r1_weight / 2 E[ ||grad_x sum_k sum l_k(x)||^2 ], where x is what the
      discriminator reads of x0

    V stands for the authors' sum over the images of one GPU, which fixes the ratio of
    the second line to the third. G(z, y) is the student's x0_hat at the noise end, y
    the label of the real image; every phase draws its own z. Penalties come at steps
    r1_every, 2 r1_every, ...; the first step, 0, has none.

    Args:
        nets: {"student": Net, "teacher": Net}.
        process: The forward process; its t_max is the student's only time.
        loss: "nonsaturating" (above), or "hinge".
        features: Networks that the discriminator reads: "teacher", the teacher's
            encoder, and classifiers: "vgg16_bn" and "efficientnet_lite0" (the authors'
            for CIFAR-10), "deit_base_distilled" (theirs for 64x64, in place of the
            first), and the small "resnet56". The terms of several are summed. Of
            latents the encoder reads x0, and classifiers what x0 decodes to.
        feature_files: The weights of the classifiers among them, in their order.
        noise_levels: For "teacher": sigma / alpha of the noise added to images before
            the encoder sees them; each is a feature network with a discriminator.
        width: Channels of the discriminator's finest map, see
            `projected.Discriminator`; 64 in the paper.
        virtual_local_batch: V; also the images that share the statistics of a batch
            norm. Must divide the images of a device (and microbatch); 1 always does.
        r1_weight: gamma of the penalty.
        r1_every: Its period in steps.
        freeze: GDD-I: see `freeze.trains_with_frozen_convolutions`.
        class_embedding: File of the table that the classes' rows start from, a copy in
            each head, see `projected.load_embedding`; the authors take a classifier's.
            "" starts from random rows.
        class_embedding_dim: Length of a row, in the file too.
        augment: Augmentations of every image that the discriminator sees, real or
            generated, see `diffaugment`; for small data sets. None in the paper.
        ada_target: Target of E[sign D(x_real)], 0.6 in ADA's paper: the images also get
            the transforms of `ada.augment`, with a probability p that is adapted so
            that the mean tracks the target, see `ada.next_prob`. 0, as in GDD's paper,
            leaves ADA out.
        ada_steps: Number of steps in which p can go from 0 to 1; 500,000 images in
            ADA's paper, so 2000 steps of a batch of 256.
        decode_batch: Number of images that a device decodes at once; 0 for all.

    Raises:
        ConfigError: If there is no teacher with an encoder to read, features are
            unknown or lack their file, a level is not positive, or there are no
            classes to embed, or ADA's numbers are out of range.

    Source: arXiv:2405.20750 and its released code.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> mlp = networks.make("mlp", out_channels=2, num_classes=4)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2), num_classes=4)
        >>> nets = {"student": net, "teacher": net}
        >>> method = methods.make("gdd", nets=nets, process=cosine())
        >>> [(phase.name, phase.every, phase.offset) for phase in method.phases]
        [('student', 1, 0), ('disc', 1, 0), ('r1', 16, 16)]
    """
    student = nets["student"]
    if loss not in adversarial.LOSSES:
        raise registry.unknown("loss", loss, adversarial.LOSSES)
    diffaugment.check(augment)
    ada.check(ada_target, ada_steps)
    classifiers = extractors.classifiers(features, feature_files)
    table = joined.embedding(class_embedding, student.conditions, class_embedding_dim)
    readers = {}
    of_images = decoded.stands(student)
    for name in features:
        if name == "teacher":
            teacher = nets.get("teacher")
            readers |= extractors.of_teacher(teacher, process, noise_levels)
        else:
            readers[name] = extractors.of_classifier(name, student, of_images=of_images)
    heads = dict(
        width=width,
        num_classes=student.num_classes,
        cond_dim=student.cond_dim,
        group=virtual_local_batch,
        embedding_dim=class_embedding_dim,
        dtype=student.precision,
    )
    disc, state = joined.make(readers, student.conditions, **heads)

    def generate(params, ctx):
        z = rng.normal(ctx.keys, "z", ctx.batch["x0"].shape[1:])
        t_max = jnp.full(len(z), process.t_max, jnp.float32)
        return student.apply(params, process.z_scale * z, t_max, ctx.batch["y"])

    def views(ctx, x0):
        """What the feature networks read of x0, by `Extractor.of_images`."""
        found = {}
        for of_images in {e.of_images for e in readers.values()}:
            found[of_images] = x0
            if of_images:
                found[of_images] = decoded.images(
                    student, ctx.frozen, x0, batch_size=decode_batch
                )
        return found

    def changed(images, ctx, keys):
        """Augmented images; all views of an image alike."""
        images = diffaugment.diffaugment(images, rng.stream(keys, "augment"), augment)
        if ada_target:
            images = ada.augment(images, rng.stream(keys, "ada"), ctx.carry["ada_p"])
        return images

    def judge(params, state, ctx, seen, name):
        """Logits by feature network, and the state after the pass."""
        y, keys = ctx.batch["y"], rng.stream(ctx.keys, name)
        seen = {k: changed(images, ctx, keys) for k, images in seen.items()}
        maps = {
            k: e.maps(ctx.frozen, seen[e.of_images], y, keys)
            for k, e in readers.items()
        }
        judged: Any = disc.apply(params, state, maps, y)
        return judged

    def student_loss(params, ctx):
        x_gen = views(ctx, generate(params["student"], ctx))
        state = ctx.carry["spectral"]
        fake, state = judge(ctx.nets["disc"], state, ctx, x_gen, "fake")
        terms = [adversarial.generator(loss, fake[k]).mean() for k in fake]
        value = virtual_local_batch * jnp.stack(terms).sum()
        metrics = {"loss": value, "logit_fake": _mean(fake)}
        return value, Aux(metrics, {"spectral": state})

    def disc_loss(params, ctx):
        x_gen = views(ctx, generate(ctx.nets["student"], ctx))
        x_real = views(ctx, ctx.batch["x0"])
        state = ctx.carry["spectral"]
        # One after the other: each has its own statistics in the batch norms.
        fake, state = judge(params["disc"], state, ctx, x_gen, "fake")
        real, state = judge(params["disc"], state, ctx, x_real, "real")
        terms = [adversarial.discriminator(loss, real[k], fake[k]).mean() for k in real]
        value = virtual_local_batch * jnp.stack(terms).sum()
        metrics = {"loss": value, "logit_fake": _mean(fake), "logit_real": _mean(real)}
        carry = {"spectral": state}
        if ada_target:
            carry["ada_r"] = _mean(jax.tree.map(jnp.sign, real))
        return value, Aux(metrics, carry)

    def r1_loss(params, ctx):
        def judged(seen):
            return judge(params["disc"], ctx.carry["spectral"], ctx, seen, "real")

        def all_logits(seen):
            return jnp.concatenate(list(judged(seen)[0].values()), axis=1)

        x_real = views(ctx, ctx.batch["x0"])
        penalty = adversarial.r1(all_logits, x_real).mean()
        value = r1_every * r1_weight / 2 * penalty
        metrics = {"loss": value, "penalty": penalty}
        return value, Aux(metrics, {"spectral": judged(x_real)[1]})

    def adapt(params, ctx):
        del params  # it trains nothing
        p, r = ctx.carry["ada_p"], ctx.carry["ada_r"]
        p = ada.next_prob(p, r, target=ada_target, num_steps=ada_steps)
        return jnp.zeros(()), Aux({"p": p, "r": r}, {"ada_p": p})

    phases = (
        Phase("student", ("student",), student_loss),
        Phase("disc", ("disc",), disc_loss),
        Phase("r1", ("disc",), r1_loss, every=r1_every, offset=r1_every),
    )
    carry = {"spectral": state}
    if ada_target:
        # A phase of its own: the sign of r must be that of r's mean over all devices.
        phases = (*phases, Phase("ada", (), adapt))
        carry |= {"ada_p": jnp.float32(0), "ada_r": jnp.float32(0)}
    trainable: dict[str, Callable[[str], bool]] = {"disc": projected.trainable}
    if freeze:
        trainable["student"] = trains_with_frozen_convolutions
    return Method(
        nets={"student": student, "disc": disc},
        phases=phases,
        frozen=(*(("teacher",) if "teacher" in features else ()), *classifiers),
        init_from={"student": "teacher"},
        begin={"disc": joined.begin} if table else {},
        carry=carry,
        pretrained={**classifiers, **table},
        trainable=trainable,
    )


def _mean(logits):
    """The mean over the feature networks of that over images and logits."""
    return sum(x.mean() for x in logits.values()) / len(logits)
