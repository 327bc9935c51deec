"""`python -m jax_softmax`: the same as `jax-softmax`."""

import sys

from jax_softmax.cli import main

if __name__ == "__main__":
    sys.exit(main())
