"""`python -m jax_softmax`: the same as `jax-softmax`."""

from jax_softmax.cli import entry

if __name__ == "__main__":
    entry()
