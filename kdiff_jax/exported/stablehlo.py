"""A model as one program of StableHLO, which runs with JAX alone.

What is exported treats each image by itself (`vmap`), so that networks and samplers are
traced as they are, and only the number of images is open.
"""

import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from kdiff_jax.errors import ConfigError
from kdiff_jax.exported import about
from kdiff_jax.exported.about import Images, Read
from kdiff_jax.interop import asked, trees
from kdiff_jax.interop.model import Model
from kdiff_jax.samplers import Sampler
from kdiff_jax.train import generate

PLATFORMS = ("cpu", "cuda", "tpu")
# A serialised program, and XLA's own form of one, end at 2 GiB; constants stand in it
# more than once while it is made.
MAX_INSIDE = 2**30

Start = Literal["seed", "noise"]


class Program(NamedTuple):
    """A function of arrays, exported.

    Attributes:
        exported: `exported.call(*arrays)` runs it.
        weights: What it takes as its first argument, {name: array}; empty where the
            parameters are constants of the program.
        arguments: Names of its other arguments, in their order.
    """

    exported: export.Exported
    weights: Mapping[str, np.ndarray]
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """The signature, as images(seed i32[], y i32[B]) -> u8[B, 8, 8, 1]."""
        avals = self.exported.in_avals[len(self.weights) :]
        pairs = zip(self.arguments, avals, strict=True)
        arguments = [f"{name} {_shown(aval)}" for name, aval in pairs]
        first = ["weights"] if self.weights else []
        (result,) = self.exported.out_avals
        return f"({', '.join(first + arguments)}) -> {_shown(result)}"

    def serialized(self) -> bytes:
        """The program as bytes, for `jax.export.deserialize`."""
        return bytes(self.exported.serialize())

    def write_weights(self, file: BinaryIO) -> None:
        """Writes the weights as an .npz, one array at a time."""
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in self.weights.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array)


def generator(
    model: Model,
    sampler: Sampler,
    *,
    start: Start = "seed",
    images: Images = "uint8",
    read: Read | None = None,
    inside: bool | None = None,
) -> Program:
    """Images by a sampler, of the number of images that the arguments have.

    Of (seed i32[], y) it gives the images that `sample` gives: image i of a seed is the
    same in every batch. Of (z f32[B, h, w, D], y) it gives those of noise ~ N(0, I);
    a sampler that draws more noise then takes (z, seed, y).

    Among students that share the classes every image is made by the owner of its
    label. A call runs each student that is asked, once, for all images of the call: it
    is fastest with labels of one student.

    Args:
        model: The model.
        sampler: Sampler that makes the images.
        start: What images start from: a seed, or noise that is given.
        images: What is left: uint8 pixels, float32 in [-1, 1] but for overshoots, or
            x0 as the denoiser has it, "latents".
        read: What `y` is: numbers i32[B] (labels, or rows of the model's table; any
            without either), vectors f32[B, D] or f32[B, L, D], or tokens i32[B, L].
            None is tokens of a model with a text encoder, vectors of one that has
            no table of them, and else numbers.
        inside: Whether parameters are constants of the program; None does so if they
            are less than 1 GiB.

    Raises:
        ConfigError: If the model has no such `y`, cannot be decoded, or vectors or
            texts have no owner among several students.
    """
    net, partition = model.net, model.partition
    y, frozen = about.y_of(model, read), model.frozen
    if images != "latents":
        about.check_decoder(model, images)
    draws = about.draws_noise(sampler)

    def run(weights, places, z, seed, y):
        params, frozen = weights["params"], weights["frozen"]
        if start == "seed" or draws:
            key = seed.astype(jnp.uint32)
            drawn, keys = generate.noise(key, places, net.image_shape, "sample")
            z = drawn if start == "seed" else z
        else:
            keys = None

        def of_group(group):
            own = _of_group(params, group, partition)
            denoise = generate.denoiser(net, own, partition)

            def one(z, y, key):
                more = {} if key is None else dict(keys=key[None])
                cond = net.conditions.take(frozen, y[None])
                return sampler.sample(denoise, z[None], cond, **more)[0]

            return jax.vmap(one)(z, y, keys)

        groups = partition.group_of(y) if partition.groups else None
        x0 = _routed(of_group, partition.num_groups, groups, z.shape)
        return x0 if images == "latents" else jax.vmap(leave, (None, 0))(frozen, x0)

    def leave(frozen, x0):
        out = net.space.to_pixels if images == "uint8" else net.space.to_images
        return out(frozen, x0[None])[0]

    batch, *_ = export.symbolic_shape("B")
    z = jax.ShapeDtypeStruct((batch, *net.image_shape), jnp.float32)
    seed = jax.ShapeDtypeStruct((), jnp.int32)
    given = {"seed": seed} if start == "seed" else {"z": z}
    given |= {"seed": seed} if draws else {}
    given |= {"y": jax.ShapeDtypeStruct((batch, *y.shape), y.dtype)}

    def images_of(weights, arguments):
        places = jnp.arange(arguments["y"].shape[0], dtype=jnp.int32)
        z, seed = arguments.get("z"), arguments.get("seed")
        return run(weights, places, z, seed, arguments["y"])

    weights = dict(params=model.params, frozen=dict(frozen))
    return _export(images_of, "images", weights, given, inside)


def denoiser(
    model: Model, *, read: Read | None = None, inside: bool | None = None
) -> Program:
    """x0_hat of (x_t f32[B, h, w, D], t f32[B], y), as `Model.apply` gives it.

    Args:
        model: The model; t is in its own time.
        read: See `generator`.
        inside: See `generator`.

    Raises:
        ConfigError: See `generator`.
    """
    net, partition = model.net, model.partition
    y, num = about.y_of(model, read), model.num_students

    def denoised(weights, arguments):
        params, frozen = weights["params"], weights["frozen"]
        x_t, t, y = (arguments[name] for name in ("x_t", "t", "y"))
        t = 1 - t if model.is_reversed else t

        def of_student(k):
            own = params if num == 1 else jax.tree.map(lambda x: x[k], params)

            def one(x_t, t, y):
                told = asked.guidance_keyword(None, 1, model.spec)
                cond = net.conditions.take(frozen, y[None])
                return net.apply(own, x_t[None], t[None], cond, **told)[0]

            return jax.vmap(one)(x_t, t, y)

        owners = partition.owner(t, y) if num > 1 else None
        return _routed(of_student, num, owners, x_t.shape)

    batch, *_ = export.symbolic_shape("B")
    shapes = {
        "x_t": jax.ShapeDtypeStruct((batch, *net.image_shape), jnp.float32),
        "t": jax.ShapeDtypeStruct((batch,), jnp.float32),
        "y": jax.ShapeDtypeStruct((batch, *y.shape), y.dtype),
    }
    weights = dict(params=model.params, frozen=dict(model.frozen))
    return _export(denoised, "denoised", weights, shapes, inside)


def _export(function, name: str, weights, shapes, inside: bool | None) -> Program:
    """The program of function(weights, {argument: array}), of positional arguments."""
    flat = {k: np.asarray(x) for k, x in trees.flatten(weights).items()}
    size = sum(x.nbytes for x in flat.values())
    if inside is None:
        inside = size < MAX_INSIDE
    if inside and size >= MAX_INSIDE:
        raise ConfigError(
            f"--weights=inside: they take {size / 1e9:.3g} GB, and a program holds"
            f" {MAX_INSIDE / 1e9:.3g} GB at most; take --weights=beside"
        )
    order = tuple(shapes)

    def whole(flat):
        return {"params": {}, "frozen": {}, **trees.unflatten(flat)}

    def closed(*arrays):
        constants = {k: jnp.asarray(x) for k, x in flat.items()}
        return function(whole(constants), dict(zip(order, arrays, strict=True)))

    def opened(flat, *arrays):
        return function(whole(flat), dict(zip(order, arrays, strict=True)))

    program = closed if inside else opened
    program.__name__ = name
    arguments: list[Any] = list(shapes.values())
    if not inside:
        shape = jax.ShapeDtypeStruct
        arguments = [{k: shape(x.shape, x.dtype) for k, x in flat.items()}, *arguments]
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(*arguments)
    return Program(exported, {} if inside else flat, order)


def _routed(of_owner: Callable[[Any], Any], num: int, owners, shape):
    """f32[shape] of of_owner(k), image by image of its owner i32[B]."""
    if num == 1:
        return of_owner(0)

    def add(made, k):
        mine = owners == k
        own = jax.lax.cond(mine.any(), lambda: of_owner(k), lambda: made)
        return jnp.where(mine.reshape(-1, *[1] * (len(shape) - 1)), own, made), None

    made, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), jnp.arange(num))
    return made


def _of_group(params, group, partition):
    """Parameters of a group's student, or of those of all its ranges of time."""
    if partition.num_students == 1:
        return params
    ranges = partition.num_ranges
    if ranges == 1:
        return jax.tree.map(lambda x: x[group], params)
    return jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, group * ranges, ranges), params
    )


def _shown(aval) -> str:
    """A shape as i32[B, 3]."""
    kind = np.dtype(aval.dtype)
    letter = {"f": "f", "i": "i", "u": "u"}[kind.kind]
    sizes = ", ".join(map(str, aval.shape))
    return f"{letter}{8 * kind.itemsize}[{sizes}]"
