r"""Error against confidence
========================

How many digits the loss and the label's gradient keep while the label's logit pulls ahead of the
others. The textbook's loss :math:`\log \sum_j e^{z_j} - z_y` and its gradient :math:`p_y - 1` are
differences of nearly equal numbers. From a lead of 17 on both round to 0 in float32: the row stops
learning, and its relative error is 1.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jax_softmax

# %%
# Three classes; the label, class 0, leads by each of 400 numbers. What is exact comes from NumPy in
# float64, in a form without a difference: the loss is ``log1p(r)`` and the label's gradient
# ``-r / (1 + r)``, with ``r = 2 exp(-lead)``.
leads = np.linspace(0.5, 40, 400, dtype=np.float32)
logits = jnp.stack([leads, 0 * leads, 0 * leads], axis=1)
labels = jnp.zeros(len(leads), int)

r = 2 * np.exp(-leads.astype(np.float64))
exact_loss, exact_gradient = np.log1p(r), -r / (1 + r)


# %%
# The same call for the three of them: a loss a row, and its gradient by the label's logit.
def textbook(z, y):
    return -jnp.take_along_axis(jnp.log(jax.nn.softmax(z)), y[:, None], axis=1)[:, 0]


losses = {
    "textbook": textbook,
    "optax": optax.softmax_cross_entropy_with_integer_labels,
    "jax_softmax": jax_softmax.softmax_cross_entropy_with_integer_labels,
}


def errors(loss):
    values = loss(logits, labels)
    gradients = jax.grad(lambda z: loss(z, labels).sum())(logits)[:, 0]
    return (
        np.abs(values - exact_loss) / exact_loss,
        np.abs(gradients - exact_gradient) / np.abs(exact_gradient),
    )


# %%
# Errors below half an epsilon are drawn at its line: float32 cannot hold less.
half_eps = np.finfo(np.float32).eps / 2
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for name, loss in losses.items():
    for panel, error in zip(axes, errors(loss), strict=True):
        panel.semilogy(leads, np.maximum(error, half_eps), label=name, lw=1.2)
for panel, title in zip(axes, ("loss", "gradient of the label's logit"), strict=True):
    panel.set(title=title, xlabel="lead of the label's logit")
    panel.axhline(half_eps, color="0.6", ls=":", lw=1)
    panel.grid(alpha=0.3)
axes[0].set_ylabel("relative error, float32")
axes[0].annotate("half an epsilon", (40, half_eps), (40, half_eps * 4), color="0.4", ha="right")
axes[1].legend(loc="center right")
plt.show()
