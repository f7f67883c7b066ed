"""One module per method; the module's name is the method's name."""

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from kdiff_jax import arguments, registry
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Method, Net


def names(stage: str = "train") -> list[str]:
    """The methods that stages of one kind train by: modules of this package.

    Args:
        stage: "train" for denoisers, or "autoencoder".

    Examples:
        >>> from kdiff_jax import methods
        >>> "dmd2" in methods.names(), methods.names("autoencoder")
        (True, ['autoencoder'])
    """
    return [name for name in registry.names(__name__) if kind_of(name) == stage]


def kind_of(name: str) -> str:
    """The kind of the stages that train by this method, "train" for denoisers."""
    return _says(name, "STAGE", "train")


def check_kind(name: str, stage: str) -> None:
    """Refuses a method that a stage of this kind does not train by.

    Raises:
        ConfigError: Names those that it does.
    """
    if (kind := kind_of(name)) != stage:
        raise ConfigError(
            f"name={name!r}: a stage of kind {kind!r} trains by it, and this one is of"
            f" kind {stage!r}; choose one of {', '.join(names(stage))}"
        )


def make(name: str, **keywords) -> Method:
    """The method `name`, one of `names()`.

    Args:
        name: A file of this folder.
        **keywords: Keywords of that file's `make`: the networks by role, the forward
            process, and options.

    Returns:
        The networks that it trains, and its updates in their order.

    Raises:
        ConfigError: If there is no such method, a keyword is not one of its or out of
            range, or a network that it needs is missing.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> mlp = networks.make("mlp", out_channels=2, num_classes=4)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2), num_classes=4)
        >>> nets = {"student": net, "teacher": net}
        >>> method = methods.make("dmd2", nets=nets, process=cosine())
        >>> [(phase.name, phase.trains, phase.every) for phase in method.phases]
        [('student', ('student',), 5), ('guidance', ('fake_score', 'disc'), 1)]
    """
    function = make_function(name)
    parts = [key for key in ("nets", "process") if key in keywords]  # no options
    own = {key: value for key, value in keywords.items() if key not in parts}
    arguments.check(function, own, what=f"method {name!r}", hidden=parts)
    if "nets" in keywords:
        keywords |= {"nets": _Nets(keywords["nets"], name)}
    method = function(**keywords)
    if takes_times(name) and "t_range" not in method.draws:
        raise ConfigError(
            f"method {name!r}: its file says TAKES_TIMES, and it does not draw from"
            ' ctx.share.t_range; add draws=("t_range",), or take the line out'
        )
    return method


class _Nets(dict[str, Net]):
    """Networks by role, which says in one line that one is missing."""

    def __init__(self, nets: Mapping[str, Net], method: str):
        super().__init__(nets)
        self._method = method

    def __missing__(self, role: str):
        raise ConfigError(
            f"nets: has no {role!r}, which the method {self._method!r} needs; it has"
            f" {', '.join(self) or 'none'}: add {role}=Net(...)"
        )


def takes_times(name: str) -> bool:
    """Whether the method can train a part of the times: its setting `t_range`.

    Its module says so, because the method itself needs networks to be made.
    """
    return _says(name, "TAKES_TIMES")


def scores_pairs(name: str) -> bool:
    """Whether the loss of the method's one phase can score a student on pairs.

    It reads nothing beside them but frozen networks and settings. Its module says so.
    """
    return _says(name, "SCORES_PAIRS")


def takes_guidance(name: str) -> bool:
    """Whether the method trains students that read the strength of their guidance.

    Its module says so, and draws one for each example: see `guidance.drawn`.
    """
    return _says(name, "TAKES_GUIDANCE")


def makes_teachers(name: str) -> bool:
    """Whether the method's models are teachers: they learn from data alone.

    Its module says so; what other methods train are students.

    Args:
        name: A method of `names()`.

    Examples:
        >>> from kdiff_jax import methods
        >>> methods.makes_teachers("denoise"), methods.makes_teachers("dmd2")
        (True, False)
    """
    return _says(name, "MAKES_TEACHERS")


def roles(name: str) -> tuple[str, ...]:
    """The roles that a method trains, by some options or by all.

    Args:
        name: A method of `names()`.

    Examples:
        >>> from kdiff_jax import methods
        >>> methods.roles("dmd2")
        ('student', 'fake_score', 'disc')
    """
    return ("student", *_says(name, "ROLES", ()))


def keywords(name: str) -> tuple[str, ...]:
    """Names of the keywords of a method's `make`.

    Args:
        name: A method of `names()`.

    Examples:
        >>> from kdiff_jax import methods
        >>> methods.keywords("progressive")
        ('nets', 'process', 'weight', 'guidance', 'guidance_interval')
    """
    return tuple(inspect.signature(make_function(name)).parameters)


def _says(name: str, what: str, default: Any = False) -> Any:
    return getattr(_module(name), what, default)


def make_function(name: str) -> Callable[..., Method]:
    """What `make` calls; its keywords are the schema of a config's section `method`."""
    return _module(name).make


def _module(name: str) -> ModuleType:
    return registry.module(__name__, name, what="method")
