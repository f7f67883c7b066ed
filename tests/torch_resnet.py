"""A CIFAR ResNet in numpy, NCHW, on PyTorch's names: the reference of two tests."""

import numpy as np


def random_weights(rng, *, num_blocks, num_classes=10):
    """All leaves of the network, random, the batch statistics included."""
    arrays = {}

    def conv(name, num_out, num_in):
        scale = 1 / np.sqrt(9 * num_in)
        arrays[f"{name}.weight"] = scale * rng.normal(size=(num_out, num_in, 3, 3))

    def norm(name, num):
        arrays[f"{name}.weight"] = 0.5 + 0.1 * rng.normal(size=num)
        arrays[f"{name}.bias"] = 0.1 * rng.normal(size=num)
        arrays[f"{name}.running_mean"] = 0.1 * rng.normal(size=num)
        arrays[f"{name}.running_var"] = rng.uniform(0.5, 1.5, size=num)

    conv("conv1", 16, 3)
    norm("bn1", 16)
    num_in = 16
    for stage, num_out in ((1, 16), (2, 32), (3, 64)):
        for i in range(num_blocks):
            block = f"layer{stage}.{i}"
            conv(f"{block}.conv1", num_out, num_in)
            norm(f"{block}.bn1", num_out)
            conv(f"{block}.conv2", num_out, num_out)
            norm(f"{block}.bn2", num_out)
            num_in = num_out
    arrays["linear.weight"] = rng.normal(size=(num_classes, 64)) / 8
    arrays["linear.bias"] = rng.normal(size=num_classes)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def forward(arrays, x, *, num_blocks):
    """Pooled features and logits of x [N, 3, H, W], in float64."""
    features = stages(arrays, x, num_blocks=num_blocks)[-1].mean(axis=(2, 3))
    return features, features @ arrays["linear.weight"].T + arrays["linear.bias"]


def stages(arrays, x, *, num_blocks):
    """The outputs of the three stages for x [N, 3, H, W], in float64."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def conv(name, x, stride=1):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        windows = windows[:, :, ::stride, ::stride]
        return np.einsum("nchwij,ocij->nohw", windows, arrays[f"{name}.weight"])

    def norm(name, x):
        scale, bias, mean, var = (
            arrays[f"{name}.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = np.maximum(norm("bn1", conv("conv1", x)), 0)
    outputs = []
    for stage in (1, 2, 3):
        for i in range(num_blocks):
            block, stride = f"layer{stage}.{i}", 2 if i == 0 and stage > 1 else 1
            h = np.maximum(norm(f"{block}.bn1", conv(f"{block}.conv1", x, stride)), 0)
            h = norm(f"{block}.bn2", conv(f"{block}.conv2", h))
            shortcut = np.zeros_like(h)
            first = (h.shape[1] - x.shape[1]) // 2
            shortcut[:, first : first + x.shape[1]] = x[:, :, ::stride, ::stride]
            x = np.maximum(h + shortcut, 0)
        outputs.append(x)
    return outputs
