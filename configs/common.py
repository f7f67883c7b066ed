"""What several recipes share. Values only: a default lives in the function it is for.

Marks say where a setting or a figure comes from: [paper] read in the paper, [code] in
the authors' code, [secondary] quoted by others, [memory] recalled, [digitised] read off
a figure, [computed] from shapes, [inferred] this project's choice where no source could
be had, [measured] by this project, with the command in docs/results.md. One mark holds
for all that stands before it in a sentence.

A GPU of a header has 80 GB where nothing else is said; `num_microbatches` are as many
as its machines need, in float32, and change a result by rounding alone. Fewer are
faster where memory allows.

Figures that headers expect are FID of 50,000 images, and so is the metric that they end
with, see `evaluate`.
"""

from ml_collections import ConfigDict

from kdiff_jax import build


def check_size(size: str, sizes=("full", "tiny")) -> None:
    """Refuses an argument that the recipe does not have."""
    if size not in sizes:
        raise ValueError(f"config argument {size!r}; choose one of {', '.join(sizes)}")


def config(name: str, *, order, **sections) -> ConfigDict:
    """A locked config with all defaults, so that misspelt overrides are refused.

    Args:
        name: Of the recipe.
        order: The stages to run, in order.
        **sections: data, model, stages, train, evaluate, init.
    """
    sections = {"init": {"teacher": "teacher"}, "train": {}, "evaluate": {}} | sections
    values = {"name": name, "seed": 0, "order": tuple(order), **sections}
    values = _unshared(build.complete(values))
    found = ConfigDict(values, convert_dict=True)
    build.lock(found)
    return found


def _unshared(value):
    """Sections of their own: a ConfigDict keeps those that are one object as one."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return value


def evaluate(tiny: bool) -> dict:
    """FID of 50,000 images; of a tiny run no metric, but speed and pictures.

    Where the file of Inception's weights is not there, a line says so and all else is
    measured; `evaluate.fetch` downloads it, and `evaluate.features` "pixels" is a
    Frechet distance on pixels, "" none.
    """
    if tiny:
        return dict(num_images=20, features="")
    return dict(num_images=50_000, features="inception")


def tiny_train() -> dict:
    """So short that every recipe runs on a CPU in seconds."""
    return dict(log_every=2, sample_every=4, save_every=2)


def tiny_rounds() -> dict:
    """Two rounds of progressive distillation, 4 -> 2 -> 1 steps."""
    return dict(start_steps=4, end_steps=1, last_train_steps=2)


def tiny_pairs() -> dict:
    return dict(kind="pairs", num_pairs=24, num_held_out=8, shard_size=16, batch_size=8)


def tiny_network(name: str, **keywords) -> dict:
    """A network of the family `name` with one level of eight channels."""
    shared = dict(name=name, channels=8, channel_mult=(1,), num_blocks=1)
    return shared | {"attn_resolutions": ()} | keywords


def tiny_data(shape) -> dict:
    """Coloured shapes, made on the spot.

    Only what every source takes, so that --config.data.name names another.
    """
    return dict(name="synthetic", path="", size=shape[0], channels=shape[-1])
