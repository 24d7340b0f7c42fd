"""Generative recommendation on JAX.

Import the part you need (`from oxyrec_jax import losses`); importing the package
itself does no work.
"""

__version__ = "0.1.0"
