"""The memory of this host: what cannot fit is refused before it is asked for."""

from kdiff_jax import arrays
from kdiff_jax.errors import ConfigError


def check(argument: str, need: int, way_out: str) -> None:
    """Raises ConfigError if `need` bytes are more than the memory.

    Args:
        argument: Option and value that ask for it.
        need: Bytes.
        way_out: What to do instead.
    """
    there = arrays.memory()
    if need > there:
        raise ConfigError(
            f"{argument}: needs {need / 1e9:.4g} GB of memory, and there are"
            f" {there / 1e9:.4g} GB; {way_out}"
        )
