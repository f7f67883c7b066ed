"""Models as programs for other runtimes.

program = exported.generator(model, model.sampler())     # StableHLO, by `jax.export`
images = program.exported.call(seed, labels)
"""

from kdiff_jax.exported.onnx_file import onnx
from kdiff_jax.exported.stablehlo import PLATFORMS, Program, denoiser, generator

__all__ = ["PLATFORMS", "Program", "denoiser", "generator", "onnx"]
