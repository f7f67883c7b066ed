"""One layer of FID's Inception-v3 alone: what pytorch-fid calls --dims."""

from jax import Array
from jaxtyping import Float, Num

from kdiff_jax.features import Extractor, inception
from kdiff_jax.types import Params


def only(layer: str) -> Extractor:
    """What metrics read of a layer; the network is computed no further.

    Args:
        layer: One of `inception.DIMS`.
    """

    def extract(
        params: Params, images: Num[Array, "B H W 3"], preprocessing: str
    ) -> dict[str, Float[Array, "B D"]]:
        return {layer: inception.extract(params, images, preprocessing)[layer]}

    return inception.EXTRACTOR._replace(
        dims={layer: inception.DIMS[layer]},
        main=layer,
        extract=extract,
        logits=None,
        spatial=None,
        figures={},
    )
