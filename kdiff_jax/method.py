"""The contract between a distillation method and the training machinery.

A method is a value: its networks, and an ordered tuple of phases. A phase is one
gradient update: which roles it trains, with which loss, how often. Nothing here trains;
`kdiff_jax.train.step` does.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax import domain, rng
from kdiff_jax.domain import Cond, Conditions, Share, Space
from kdiff_jax.types import Batch, Keys, Metrics, Params


class Net(NamedTuple):
    """A network as a pair of pure functions; methods never see a Flax module.

    Attributes:
        init: (key) -> params.
        apply: A denoiser: (params, x_t, t, y, *, dropout_keys=None, augment=None) ->
            x0_hat. `x_t` is f32[B, H, W, C], `t` f32[B] in the process' own time, `y`
            a `domain.Cond`. Dropout is off without keys, which are Key[B].
            With a `guidance_range` it takes `guidance`, f32[B], too; None is 1.
            Networks that are no denoisers have another, see `encoders.trained.net`.
        encode: As `apply`, but gives the features of the network's encoder, one
            f32[B, H_i, W_i, C_i] per level and one of the bottleneck; None without.
        image_shape: (H, W, C) of a denoiser's images.
        num_classes: Number of classes; 0 if unconditional.
        with_features: As `apply`, but gives (x0_hat, features): those of `encode`, and
            one for each level on the way back; None without levels. A network without
            bottleneck has none of it here.
        precision: Type that it computes in, "float32" or "bfloat16", as do the networks
            that a method makes beside it; parameters and x0_hat are float32.
        own_space: Where its images live, if not as pixels.
        cond_dim: Length of the vectors that `y` is, f32[B, cond_dim]; 0 for labels.
        guidance_range: (low, high), the strengths of guidance that it was made for, if
            it reads one and answers with that guidance in a single call.
        reader: What makes `y` of a table of texts; None where `y` is no text.

    Examples:
        A denoiser of one parameter, the share of x_t that it takes for x0:

        >>> import jax.numpy as jnp
        >>> from kdiff_jax.method import Net
        >>> def init(key):
        ...     return {"share": jnp.float32(0.5)}
        >>> def apply(params, x_t, t, y, *, dropout_keys=None, augment=None):
        ...     return params["share"] * x_t
        >>> net = Net(init, apply, image_shape=(1, 1, 2))
        >>> net.apply(net.init(None), jnp.ones((3, 1, 1, 2)), jnp.ones(3), None).shape
        (3, 1, 1, 2)
    """

    init: Callable[..., Params]
    apply: Callable[..., Array]
    encode: Callable[..., Any] | None = None
    image_shape: tuple[int, ...] = ()
    num_classes: int = 0
    with_features: Callable[..., Any] | None = None
    precision: str = "float32"
    own_space: Space | None = None
    cond_dim: int = 0
    guidance_range: tuple[float | int, float | int] | None = None
    reader: domain.Reader | None = None

    @property
    def conditions(self) -> Conditions:
        """What it may be asked for."""
        return Conditions(self.num_classes, self.cond_dim, self.reader)

    @property
    def reads(self) -> dict[str, Any]:
        """Shapes of the frozen arrays of its conditions and its space, by role."""
        return {**self.conditions.shapes, **self.space.shapes()}

    @property
    def space(self) -> Space:
        """Where x0 lives: the way from data to it, and the way to pixels."""
        return self.own_space or domain.pixel_space(self.image_shape)


class Numbers(NamedTuple):
    """What differs between runs of one compiled program.

    Attributes:
        share: What the student owns.
        num_steps: i32[], the length of the training in train steps.
        settings: The method's own numbers by name, such as the sampling steps of a
            round of progressive distillation.

    Examples:
        >>> from kdiff_jax import domain
        >>> from kdiff_jax.method import Numbers
        >>> numbers = Numbers(domain.whole(4, (0.0, 1.0)), num_steps=100)
        >>> numbers.share.conditions.tolist()
        [0, 1, 2, 3]
    """

    share: Share
    num_steps: Any
    settings: Mapping[str, Any] = {}

    @property
    def round_steps(self) -> Any:
        """Sampling steps of a round, of methods that have them; None of others."""
        return self.settings.get("num_steps")


class Context(NamedTuple):
    """Everything a loss may read. No gradient flows into any of it.

    Attributes:
        nets: Role -> current parameters, of every trained role.
        ema: Role -> name -> moving average, of the roles that keep some.
        frozen: Role -> parameters of teachers and feature extractors.
        carry: State without a gradient: batch statistics, ADA's probability.
        batch: See `types`, and what `Method.prepare` has added.
        keys: Key[B], already specific to this phase.
        share: What the student owns: conditions to ask it for, times to train it at.
        step: i32[], the number of steps made before this one.
        num_steps: i32[], the length of the training.
        settings: Numbers of the method, see `Method.settings`.

    Examples:
        A loss on a batch of eight, without a trainer:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import domain, rng
        >>> from kdiff_jax.method import Aux, Context, Net
        >>> net = Net(lambda key: 0.0, lambda params, x_t, t, y: x_t, num_classes=4)
        >>> def loss(params, ctx):
        ...     y = ctx.draw_y(net)
        ...     value = jnp.square(params["student"] - y).mean()
        ...     return value, Aux({"loss": value})
        >>> keys = rng.example_keys(jax.random.key(0), 0, jnp.arange(8))
        >>> share = domain.whole(4, (0.0, 1.0))
        >>> ctx = Context({}, {}, {}, {}, batch={}, keys=keys, share=share)
        >>> ctx.draw_y(net).shape, loss({"student": 1.0}, ctx)[0].shape
        ((8,), ())
    """

    nets: Mapping[str, Params]
    ema: Mapping[str, Mapping[str, Params]]
    frozen: Mapping[str, Params]
    carry: Mapping[str, Any]
    batch: Batch
    keys: Keys
    share: Share
    step: Any = 0
    num_steps: Any = 1
    settings: Mapping[str, Any] = {}

    def draw_y(self, net: Net) -> Cond:
        """One of the student's conditions for each image, as networks read it.

        Args:
            net: The network that will read it.

        Returns:
            i32[B] labels, f32[B, D] vectors, or a `domain.Prompt`.
        """
        numbers = rng.choice(self.keys, "y_gen", self.share.conditions)
        return net.conditions.take(self.frozen, numbers)


class Aux(NamedTuple):
    """What a loss returns beside its value; both are averaged over devices.

    Attributes:
        metrics: Name -> f32[], what is logged.
        carry: Name -> new value of entries of `Context.carry`.

    Examples:
        >>> from kdiff_jax.method import Aux
        >>> aux = Aux({"loss": 0.5, "logit": 1.0}, {"mean_logit": 1.0})
        >>> sorted(aux.metrics), aux.carry
        (['logit', 'loss'], {'mean_logit': 1.0})
    """

    metrics: Metrics
    carry: Mapping[str, Any] = {}


LossFn = Callable[[Mapping[str, Params], Context], tuple[Float[Array, ""], Aux]]


class Phase(NamedTuple):
    """One gradient update: `loss` is differentiated with respect to `trains`.

    Those may be none: such a phase only carries state on. It reads what the phases
    before it left in `carry`, by then averaged over the whole batch, and may put that
    through what is not linear; the value of its loss counts for nothing.

    Runs at the steps offset, offset + every, offset + 2 every, ...; the first is 0.

    Attributes:
        name: Prefix of its metrics in the log.
        trains: Roles whose parameters it moves.
        loss: (params, ctx) -> (f32[], `Aux`); `params` are those of `trains`.
        every: Period, in steps.
        offset: First step that it runs at.

    Examples:
        >>> from kdiff_jax.method import Aux, Phase
        >>> from kdiff_jax.train.step import due
        >>> def loss(params, ctx):
        ...     return sum(params.values()), Aux({})
        >>> student = Phase("student", ("student",), loss, every=5)
        >>> disc = Phase("disc", ("disc",), loss)
        >>> [[phase.name for phase in due((student, disc), step)] for step in (0, 1)]
        [['student', 'disc'], ['disc']]
    """

    name: str
    trains: tuple[str, ...]
    loss: LossFn
    every: int = 1
    offset: int = 0


class Pretrained(NamedTuple):
    """Parameters that lie in a file, which a method names and a stage reads.

    Attributes:
        shapes: Their shapes, as `jax.eval_shape` gives; known without the file.
        read: () -> the parameters.
    """

    shapes: Params
    read: Callable[[], Params]


class Method(NamedTuple):
    """A distillation method: its networks, and the updates made in one step.

    Attributes:
        nets: The trained roles.
        phases: In order; a later phase sees the earlier update.
        frozen: Roles whose params the losses read and nothing trains.
        init_from: role -> role that it starts as a copy of.
        begin: role -> (its random parameters, what is given by role) -> those that it
            starts with.
        prepare: Drawn once per step and shared by the phases.
        carry: Initial non-gradient state.
        sampler: Keywords of the one sampler that the student is trained for, its name
            among them; {} leaves the choice to the stage.
        settings: Default of every number that `Context.settings` must hold.
        draws: Fields of `Context.share` that the losses draw from: "conditions" of
            labels asked of the student, "t_range" of times to train at.
        averages: Names of moving averages of the student that the losses read.
        batch_keys: The entries of the batch that the losses read, see `types`.
        pretrained: Roles whose params lie in files that the keywords name: frozen ones,
            and those that `begin` is given.
        encodes_texts: Whether the losses encode texts themselves: those of a batch are
            then a `domain.Prompt` of rows of the table, such as token ids.
        trainable: role -> predicate of a leaf's path, "a/b/kernel"; leaves that fail it
            stay as they are, bit for bit, and have no optimizer state. Default: all.

    Examples:
        A student that learns what its teacher answers:

        >>> import jax.numpy as jnp
        >>> from kdiff_jax.method import Aux, Method, Net, Phase
        >>> def make(*, nets, process):
        ...     student, teacher = nets["student"], nets["teacher"]
        ...     def loss(params, ctx):
        ...         z, y = ctx.batch["z"], ctx.batch["y"]
        ...         asked = z, jnp.full(len(z), process.t_max), y
        ...         x0 = teacher.apply(ctx.frozen["teacher"], *asked)
        ...         x0_hat = student.apply(params["student"], *asked)
        ...         error = jnp.square(x0_hat - x0).mean()
        ...         return error, Aux({"loss": error})
        ...     phases = (Phase("copy", ("student",), loss),)
        ...     trained = {"student": student}
        ...     read = ("z", "y")
        ...     return Method(trained, phases, frozen=("teacher",), batch_keys=read)
        >>> net = Net(lambda key: {}, lambda params, x_t, t, y: x_t)
        >>> make(nets={"student": net, "teacher": net}, process=None).frozen
        ('teacher',)
    """

    nets: Mapping[str, Net]
    phases: tuple[Phase, ...]
    frozen: tuple[str, ...] = ()
    init_from: Mapping[str, str] = {}
    begin: Mapping[str, Callable[[Params, Mapping[str, Params]], Params]] = {}
    prepare: Callable[[Context], Batch] = lambda ctx: ctx.batch
    carry: Mapping[str, Any] = {}
    sampler: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}
    draws: tuple[str, ...] = ()
    averages: tuple[str, ...] = ()
    batch_keys: tuple[str, ...] = ("x0", "y")
    pretrained: Mapping[str, Pretrained] = {}
    trainable: Mapping[str, Callable[[str], bool]] = {}
    encodes_texts: bool = False

    @property
    def begins_with(self) -> dict[str, Pretrained]:
        """What of `pretrained` the first state is made of, and no loss reads."""
        found = self.pretrained.items()
        return {role: one for role, one in found if role not in self.frozen}

    @property
    def conditions(self) -> Conditions:
        """What the numbers `y` of its batches become."""
        own = self.nets["student"].conditions
        return own.unread() if self.encodes_texts else own


def updates_before(phases: tuple[Phase, ...], role: str) -> Callable[[Any], Any]:
    """step -> the number of updates of a role in the steps before it; traceable.

    Phases of one step that train the same role are one update.
    """
    own = [phase for phase in phases if role in phase.trains]
    first = max(phase.offset for phase in own)
    period = math.lcm(*(phase.every for phase in own))
    updated = [
        any(s >= p.offset and (s - p.offset) % p.every == 0 for p in own)
        for s in range(first + period)
    ]
    # Up to `first` phases may not have begun; from there on they repeat.
    counts = np.concatenate([[0], np.cumsum(updated)])
    per_period = counts[first + period] - counts[first]

    def before(step):
        periods = jnp.maximum(step - first, 0) // period
        rest = step - periods * period
        return periods * per_period + jnp.asarray(counts)[rest]

    return before
