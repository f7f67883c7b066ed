"""What `python -m kdiff_jax.doctor` looks at, one file for each part of a machine.

A check returns a `Finding` and raises what it likes: `finding.of` makes a finding of
that, too.
"""
