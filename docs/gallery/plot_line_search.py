"""The loss along a line search
=============================

Along a direction in the space of the coefficients the loss is convex: the logits are linear in the
step, and softmax cross-entropy is convex in the logits. A step of gradient descent may fall short
of the lowest point or overshoot it; L-BFGS measures the slope and knows. The logits at the start
and along the direction are kept, so each point of the curve costs no matrix product.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jax_softmax import load_dataset, softmax_cross_entropy_with_integer_labels

digits = load_dataset("digits").train
features = jnp.asarray(digits.features.reshape(-1, 64) * np.float32(digits.feature_scale))
labels = jnp.asarray(digits.labels)


def loss_of(logits):
    return softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


@jax.jit
def gradient_step(kernel):
    """The direction of steepest descent, and the logits there."""
    direction = -jax.grad(lambda kernel: loss_of(features @ kernel))(kernel)
    return direction, features @ kernel, features @ direction


@jax.jit
def along(logits, change, steps):
    values = jax.vmap(lambda step: loss_of(logits + step * change))(steps)
    slopes = jax.vmap(jax.grad(lambda step: loss_of(logits + step * change)))(steps)
    return values, slopes


# %%
# Three steps, each from where the last one ended, which is the lowest point of its curve.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
kernel = jnp.zeros((64, 10))
for number, (longest, ax) in enumerate(zip((60, 7, 16), axes, strict=True), start=1):
    direction, logits, change = gradient_step(kernel)
    steps = jnp.linspace(0, longest, 10 * longest + 1)
    values, slopes = along(logits, change, steps)
    low = int(jnp.argmin(values))
    print(f"step {number}: loss {values[0]:.4f} -> {values[low]:.4f}, slope {slopes[low]:+.1e}")
    ax.plot(steps, values, color="#1b6ca8")
    # Armijo: the loss must fall by a tenth of what the slope promised.
    promised = values[0] + 0.1 * steps * slopes[0]
    ax.plot(steps, promised, "--", color="grey", label="falls enough below this line")
    for step, name, colour in (
        (1.0, "step 1", "#e58e26"),
        (float(steps[low]), "lowest", "#3c9d4e"),
    ):
        at = int(step * 10)
        ax.scatter(steps[at], values[at], color=colour, zorder=3, label=f"{name}: {values[at]:.3f}")
    ax.set(title=f"iteration {number}", xlabel="step")
    ax.set_ylim(float(values[low]) * 0.95, float(values[0]) * 1.1 + 0.03)
    ax.legend(loc="upper center")
    kernel = kernel + steps[low] * direction
axes[0].set_ylabel("mean loss on digits")
plt.show()
