"""What tells one set of images from another, at the price of reading a few of them."""

import hashlib

import numpy as np

from kdiff_jax.data.images import Images

NUM_SAMPLES = 64  # evenly spaced, of sets above the limit
MAX_HASHED = 256 * 2**20  # bytes in memory that are taken whole


def of(images: Images) -> dict[str, object]:
    """Number, shape and classes, and a digest of labels and content; plain values.

    Of image files the digest takes names and bytes of a sample, not pixels, which
    another version of a decoder may round otherwise. Where the set lies does not count.
    """
    digest = hashlib.sha256(np.ascontiguousarray(images.labels, "<i4").tobytes())
    sample = np.unique(np.linspace(0, images.num - 1, NUM_SAMPLES).astype(np.int64))
    if images.encoded is not None:
        for number in sample.tolist():
            name, content = images.encoded(number)
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(hashlib.sha256(content).digest())
    else:
        whole = images.in_memory
        if whole is None or whole.nbytes > MAX_HASHED:
            whole = images.read(sample)
        digest.update(whole.tobytes())
    return {
        "num_images": images.num,
        "shape": list(images.shape),
        "num_classes": images.num_classes,
        "sha256": digest.hexdigest(),
    }
