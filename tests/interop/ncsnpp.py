"""NCSN++ after Song et al. 2021, appendix H: the numbers of its modules are Flax's own.

Only what a checkpoint can hold of public configs: BigGAN's residual blocks, sums scaled
by sqrt(1/2). Class and parameter names are those of the public code; it is not copied.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

TAPS = np.array([1, 3, 3, 1]) / 8


def norm(x):
    return nn.GroupNorm(min(x.shape[-1] // 4, 32))(x)


def conv(x, width, size=3):
    return nn.Conv(width, (size, size))(x)


def taps_along(x, axis):
    """Correlates with TAPS, without padding."""
    num = x.shape[axis] - 3
    parts = [jnp.take(x, jnp.arange(i, i + num), axis) for i in range(4)]
    return sum(tap * part for tap, part in zip(TAPS, parts, strict=True))


def resample(x, way, fir):
    for axis in (1, 2):
        num, pad = x.shape[axis], [(0, 0)] * 4
        if way == "down" and fir:
            pad[axis] = (1, 1)
            x = taps_along(jnp.pad(x, pad), axis)
            x = jnp.take(x, jnp.arange(0, num, 2), axis)
        elif way == "down":
            even, odd = jnp.arange(0, num, 2), jnp.arange(1, num, 2)
            x = (jnp.take(x, even, axis) + jnp.take(x, odd, axis)) / 2
        elif fir:
            x = jnp.stack([x, jnp.zeros_like(x)], axis + 1)
            x = x.reshape(*x.shape[:axis], 2 * num, *x.shape[axis + 2 :])
            pad[axis] = (2, 1)
            x = 2 * taps_along(jnp.pad(x, pad), axis)
        else:
            x = jnp.repeat(x, 2, axis)
    return x


class GaussianFourierProjection(nn.Module):
    width: int

    @nn.compact
    def __call__(self, t):
        freqs = self.param("W", nn.initializers.normal(16.0), (self.width,))
        angle = 2 * np.pi * t[:, None] * freqs[None]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class NIN(nn.Module):
    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        kernel = self.param("W", nn.initializers.lecun_normal(), (width, width))
        bias = self.param("b", nn.initializers.zeros, (width,))
        return x @ kernel + bias[None, None, None]


class AttnBlockpp(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = norm(x)
        q, k, v = (NIN()(h).reshape(len(x), -1, x.shape[-1]) for _ in range(3))
        weights = nn.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(x.shape[-1]))
        return (x + NIN()((weights @ v).reshape(x.shape))) * np.sqrt(0.5)


class ResnetBlockBigGANpp(nn.Module):
    width: int
    fir: bool
    way: str = ""

    @nn.compact
    def __call__(self, x, temb):
        h = nn.silu(norm(x))
        if self.way:
            h, x = resample(h, self.way, self.fir), resample(x, self.way, self.fir)
        h = conv(h, self.width)
        h = h + nn.Dense(self.width)(nn.silu(temb))[:, None, None, :]
        h = conv(nn.silu(norm(h)), self.width)
        if self.way or x.shape[-1] != self.width:
            x = conv(x, self.width, 1)
        return (x + h) * np.sqrt(0.5)


class Combine(nn.Module):
    @nn.compact
    def __call__(self, x, h):
        return conv(x, h.shape[-1], 1) + h


class NCSNpp(nn.Module):
    """F(x, c_noise)."""

    nf: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    fourier: bool
    fir: bool
    input_skip: bool
    output_skip: bool

    @nn.compact
    def __call__(self, x, t):
        def block(h, width=None, way=""):
            width = width or h.shape[-1]
            return ResnetBlockBigGANpp(width, self.fir, way)(h, temb)

        def attend(h):
            return AttnBlockpp()(h) if h.shape[1] in self.attn_resolutions else h

        def out(h):
            return conv(nn.silu(norm(h)), 3)

        if self.fourier:
            temb = GaussianFourierProjection(self.nf)(t)
        else:
            freqs = 1e4 ** -jnp.linspace(0, 1, self.nf // 2)
            angle = t[:, None] * freqs[None]
            temb = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
        temb = nn.Dense(4 * self.nf)(temb)
        temb = nn.Dense(4 * self.nf)(nn.silu(temb))

        smaller, last = x, len(self.ch_mult) - 1
        hs = [conv(x, self.nf)]
        for level, mult in enumerate(self.ch_mult):
            for _ in range(self.num_res_blocks):
                hs.append(attend(block(hs[-1], self.nf * mult)))
            if level < last:
                h = block(hs[-1], way="down")
                if self.input_skip:
                    smaller = resample(smaller, "down", self.fir)
                    h = Combine()(smaller, h)
                hs.append(h)
        h = block(AttnBlockpp()(block(hs[-1])))
        total = None
        for level in reversed(range(last + 1)):
            for _ in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, hs.pop()], -1)
                h = block(h, self.nf * self.ch_mult[level])
            h = attend(h)
            if self.output_skip:
                if total is not None:
                    total = resample(total, "up", self.fir)
                total = out(h) if total is None else total + out(h)
            if level > 0:
                h = block(h, way="up")
        return total if self.output_skip else out(h)
