"""What a family of foreign checkpoints becomes before it is a model."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError, UserError
from kdiff_jax.formats.lazy import Lazy

# What reading a tree of unexpected make raises.
MALFORMED = (ArithmeticError, AttributeError, IndexError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the user says of a file that does not say it; None is "not said".

    Attributes:
        precondition: A name of `diffusion.precondition`.
        image_size: Height and width of the images, pixels.
        sampler: A name of `samplers`.
        num_steps: Number of sampling steps.
        config: Folder of a pipeline or network of diffusers, or a config.json, that
            says what a single file of Stable Diffusion does not.
        num_heads: Heads of the attention, of a DiT, or of a single file of Stable
            Diffusion where all levels have as many.
        variant: Variant of the weights in a folder of diffusers, as "fp16".

    Examples:
        >>> from kdiff_jax import interop
        >>> facts = interop.Facts(image_size=64, sampler="heun", num_steps=18)
        >>> facts.precondition is None
        True
    """

    precondition: str | None = None
    image_size: int | None = None
    sampler: str | None = None
    num_steps: int | None = None
    config: str | pathlib.Path | None = None
    num_heads: int | None = None
    variant: str | None = None

    def agree(self, **found) -> None:
        """What a file says itself must be what the user says, if he does.

        Raises:
            CheckpointError: Naming the first fact that differs.
        """
        for name, value in found.items():
            said = getattr(self, name)
            if said not in (None, value):
                raise CheckpointError(
                    f"{name}={said!r}: the checkpoint says {value!r}; leave it out"
                )

    def choose_sampler(self, name: str, num_steps: int, **more) -> dict[str, Any]:
        """The sampler of the spec: the family's own, unless the user wants another."""
        if self.sampler not in (None, name):
            name, more = self.sampler, {}
        return {"name": name, "num_steps": self.num_steps or num_steps, **more}


@dataclasses.dataclass(frozen=True)
class Source:
    """A foreign checkpoint in our terms.

    Attributes:
        spec: Plain values of the model's `Spec`, its sampler among them.
        leaves: {"a/b": array} in our layout; read one by one.
        assumed: One line for each fact that the file does not say.
        weights: The files of the weights, where the checkpoint is a folder.
    """

    spec: dict[str, Any]
    leaves: Mapping[str, Lazy]
    assumed: tuple[str, ...] = ()
    weights: tuple[pathlib.Path, ...] = ()


def reject_malformed(
    convert: Callable[[Any, Facts], Source],
) -> Callable[[Any, Facts], Source]:
    """A family's `convert`, to which a tree that is made otherwise is a damaged one."""

    @functools.wraps(convert)
    def guarded(content, facts):
        try:
            return convert(content, facts)
        except UserError:
            raise
        except KeyError as error:
            raise CheckpointError(
                f"its network has no {error.args[0]}; it is not whole, or of another"
                " code"
            ) from error
        except MALFORMED as error:
            why = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"its network is made otherwise than this family's ({why}); it is"
                " damaged, or of another code"
            ) from error

    return guarded
