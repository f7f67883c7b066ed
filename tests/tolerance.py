"""The tolerances of the suite, written once. Never loosened: explain, or fix."""

IDENTITY = dict(rtol=1e-6, atol=1e-6)  # the same numbers by another name, float32
REORDER = dict(rtol=2e-5, atol=2e-6)  # the same mathematics in another order
BLOCK = dict(rtol=0, atol=1e-5)  # parity of one block
UNET = dict(rtol=0, atol=1e-4)  # parity of a whole U-Net
GRADIENT = dict(rtol=1e-3, atol=1e-5)  # parity of gradients
LOSS = dict(rtol=1e-4, atol=0)  # parity of losses
