"""What recipes for tests share that are about everything but the network.

Points in the plane and a network of dense layers: a U-Net takes ten times as long to
trace, again in every process that a test starts.
"""


def sections() -> dict:
    """data, model and evaluate, with a process that every method knows."""
    return dict(
        data=dict(name="mixture", num_images=256),
        model=dict(
            network=dict(name="mlp", channels=8, num_blocks=2),
            precondition=dict(name="v"),
            process=dict(name="cosine"),
            image_shape=(1, 1, 2),
            num_classes=8,
            sampler=dict(name="ddim", num_steps=4),
        ),
        evaluate=dict(num_images=20),
    )
