"""Names shared by every floor. Imports nothing of ours.

The keys of a batch, and their shapes, stand here once:

=============  ==================  ==================================================
key            shape               meaning
=============  ==================  ==================================================
``x0``         f32[B, H, W, C]     clean images in [-1, 1]
``y``          i32[B]              their labels; zeros when the data has none. f32[B, D]
                                   where conditions are vectors
``y_gen``      as ``y``            labels asked of a student
``z``          f32[B, H, W, C]     a student's input noise, N(0, I)
``augment``    f32[B, 9]           EDM's augmentation label; absent when not augmented
=============  ==================  ==================================================
"""

from collections.abc import Callable, Mapping
from typing import Any

Params = Any  # tree of arrays
Batch = Mapping[str, Any]
Keys = Any  # typed PRNG keys, one per example: Key[B]
Metrics = Mapping[str, Any]  # name -> f32[]
Denoise = Callable[[Any, Any, Any], Any]  # (x_t [B, ...], t [B], y [B]) -> x0_hat
