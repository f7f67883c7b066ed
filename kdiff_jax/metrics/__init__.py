"""Sample-quality metrics: distances and scores on features, in float64 on the host."""

from kdiff_jax.metrics.features import Features as Features
from kdiff_jax.metrics.features import figure_name as figure_name
from kdiff_jax.metrics.features import make as make
from kdiff_jax.metrics.frechet import frechet_distance as frechet_distance
from kdiff_jax.metrics.inception_score import inception_score as inception_score
from kdiff_jax.metrics.kd import kernel_distance as kernel_distance
from kdiff_jax.metrics.kd import kernel_distance_subsets as kernel_distance_subsets
from kdiff_jax.metrics.manifold import density_coverage as density_coverage
from kdiff_jax.metrics.manifold import precision_recall as precision_recall
from kdiff_jax.metrics.moments import Moments as Moments
from kdiff_jax.metrics.stats import Stats as Stats
from kdiff_jax.metrics.stats import load_stats as load_stats
from kdiff_jax.metrics.stats import save_stats as save_stats
