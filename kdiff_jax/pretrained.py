"""Frozen networks that several methods read of files, named by shapes and a reader."""

from kdiff_jax.errors import UserError
from kdiff_jax.features import lpips as distances
from kdiff_jax.method import Pretrained


def lpips(weights: str | None, heads: str | None) -> Pretrained:
    """LPIPS of VGG, to be read from its files; they are the options `lpips_...`."""

    def checked(function):
        try:
            return function("vgg", weights, heads)
        except UserError as error:  # which begins with `weights` or `heads`
            raise type(error)(f"lpips_{error}") from error

    checked(distances.check_files)
    return Pretrained(distances.shapes("vgg"), lambda: checked(distances.load))
