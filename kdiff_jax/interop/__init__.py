"""Models as files: load what people have, save what others read.

```python
model = interop.load(path)
x0_hat = model.apply(x_t, t, y)
```
"""

from kdiff_jax.interop.beside import ROLES as NETWORKS_BESIDE
from kdiff_jax.interop.built import (
    build,
    check_guidance,
    check_revision,
    sampler_of,
)
from kdiff_jax.interop.checkpoint import load
from kdiff_jax.interop.conditions import FILE as CONDITIONS
from kdiff_jax.interop.conditions import digest as digest_of_conditions
from kdiff_jax.interop.folder import save
from kdiff_jax.interop.model import Model
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.training import STAGE

__all__ = [
    "CONDITIONS",
    "NETWORKS_BESIDE",
    "STAGE",
    "Facts",
    "Model",
    "Spec",
    "build",
    "check_guidance",
    "check_revision",
    "digest_of_conditions",
    "load",
    "sampler_of",
    "save",
]
