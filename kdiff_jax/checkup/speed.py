"""A matrix product and a convolution: whether they are right, and how fast.

Operands are -1, 0 and 1, so that every sum is exact in float32, whatever their type: a
product that is another than NumPy's is that of a broken device.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import chips
from kdiff_jax.checkup.finding import Finding

SECONDS = 0.3  # of each timed loop, about
# Shares of the peak below which something is likely to be off. A large product reaches
# 0.7 to 0.9 of it, a convolution of this shape about half.
ENOUGH = {"matmul": 0.5, "convolution": 0.2}
SLOW = (
    "see what else uses the device, its power limit and its temperature (nvidia-smi),"
    " and unset XLA_FLAGS"
)
WRONG = "take the device out of use: its memory or its cores are faulty"


class Work(NamedTuple):
    """One operation with its operands, host arrays of int8.

    Attributes:
        apply: Function of the operands, to be compiled.
        operands: The arrays.
        flops: Floating-point operations of a call.
        is_right: Whether a result, as a host array, is what it must be.
    """

    apply: Callable[..., jax.Array]
    operands: tuple[np.ndarray, ...]
    flops: float
    is_right: Callable[[np.ndarray], bool]


def check(kind: str) -> Finding:
    """Times one kind of work on the first device, and checks it on all of this host.

    Args:
        kind: "matmul" or "convolution".
    """
    devices = jax.local_devices()
    chip = chips.of_kind(devices[0].device_kind)
    on_cpu = devices[0].platform == "cpu"
    dtype = "float32" if on_cpu else chip.dtype if chip else "bfloat16"
    work = {"matmul": matmul, "convolution": convolution}[kind](small=on_cpu)
    call, wrong, rate = jax.jit(work.apply), [], 0.0
    for i, device in enumerate(devices):
        operands = [jax.device_put(x, device).astype(dtype) for x in work.operands]
        if not work.is_right(np.asarray(call(*operands))):
            wrong.append(i)
        if i == 0:
            rate = work.flops / _seconds(call, operands)
    facts = {"dtype": dtype, "tflops": rate / 1e12, "wrong_devices": wrong}
    if wrong:
        text = f"wrong results on device {', '.join(map(str, wrong))} of {len(devices)}"
        return Finding(kind, text, WRONG, facts, exit_code=5)
    return _judged(kind, rate, dtype, None if on_cpu else chip, facts)


def _judged(kind, rate, dtype, chip, facts) -> Finding:
    if chip is None:
        text = f"{rate / 1e9:.4g} GFLOP/s in {dtype}, right; the peak is not known here"
        return Finding(kind, text, facts=facts)
    share = rate / chip.flops
    facts |= {"peak_tflops": chip.flops / 1e12, "share_of_peak": share}
    text = (
        f"{rate / 1e12:.4g} TFLOP/s in {dtype}, {share:.0%} of the peak of"
        f" {chip.flops / 1e12:g}, right"
    )
    return Finding(kind, text, "" if share >= ENOUGH[kind] else SLOW, facts)


def matmul(*, small: bool) -> Work:
    """A square matrix product, of 0.9 GFLOP where `small`, else 1.1 TFLOP.

    Every entry of the result is checked, by the sums of the columns.
    """
    n = 768 if small else 8192
    a, b = _signs(0, (n, n)), _signs(1, (n, n))
    sums = a.sum(axis=0, dtype=np.float64) @ b.astype(np.float64)

    def apply(a, b):
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    def is_right(found) -> bool:
        return np.array_equal(found.sum(axis=0, dtype=np.float64), sums)

    return Work(apply, (a, b), 2.0 * n**3, is_right)


def convolution(*, small: bool) -> Work:
    """A 3x3 convolution, NHWC, of 0.6 GFLOP where `small`, else 1.2 TFLOP.

    One pixel of each image is checked, to 1: libraries may take algorithms that round.
    """
    batch, side, channels = (32, 16, 64) if small else (256, 32, 512)
    x = _signs(2, (batch, side, side, channels))
    kernel = _signs(3, (3, 3, channels, channels))
    patches = x[:, 4:7, 4:7].astype(np.float32)
    pixels = np.tensordot(patches, kernel.astype(np.float32), axes=3)

    def apply(x, kernel):
        order = ("NHWC", "HWIO", "NHWC")
        conv = jax.lax.conv_general_dilated
        return conv(x, kernel, (1, 1), "SAME", dimension_numbers=order)

    def is_right(found) -> bool:
        return np.allclose(found[:, 5, 5].astype(np.float32), pixels, rtol=0, atol=1)

    return Work(apply, (x, kernel), 2.0 * x.size * 9 * channels, is_right)


def _signs(seed: int, shape) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, shape, np.int8)


def _seconds(call: Callable[..., jax.Array], operands) -> float:
    """Seconds of a call that is compiled: the best of several loops."""

    def loop(num: int) -> float:
        began = time.perf_counter()
        for _ in range(num - 1):
            call(*operands)
        call(*operands).block_until_ready()
        return (time.perf_counter() - began) / num

    once = loop(1)
    num = max(1, min(100, int(SECONDS / 3 / max(once, 1e-6))))
    return min(once, *(loop(num) for _ in range(3)))
