"""Eight pretend devices, strict shapes, and a compilation cache that outlives a run."""

import functools
import gc
