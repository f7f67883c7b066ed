"""What `python -m kdiff_jax.demo` shows, and the page that shows it."""
