"""Reliability before and after a temperature
===========================================

A classifier that is right on all its training rows grows sure of itself. Among the test rows to
which it gives 0.9, fewer than nine in ten are right. Dividing the logits by one number, the
temperature, mends most of that and changes no prediction [1]_. That number is the one with the
smallest loss on rows held out: every loss of this library takes it as ``temperature=``.

.. [1] Guo et al., "On calibration of modern neural networks", 2017.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

from jax_softmax import SoftmaxClassifier, softmax_cross_entropy_with_integer_labels

rows = make_classification(
    4000, 60, n_informative=20, n_classes=4, flip_y=0.1, class_sep=1.2, random_state=0
)
X, y = rows[0].astype(np.float32), rows[1].astype(np.int32)
X_train, X_other, y_train, y_other = train_test_split(X, y, train_size=300, random_state=0)
X_held, X_test, y_held, y_test = train_test_split(X_other, y_other, test_size=0.7, random_state=0)

# Few rows and no penalty to speak of: sure of itself.
model = SoftmaxClassifier(C=100.0, max_iter=1000).fit(X_train, y_train)
held, test = (np.asarray(model.decision_function(part)) for part in (X_held, X_test))


def loss(temperature, logits=held, labels=y_held):
    options = {"temperature": float(temperature), "reduction": "mean"}
    return float(softmax_cross_entropy_with_integer_labels(logits, labels, **options))


best = minimize_scalar(loss, bounds=(0.2, 20), method="bounded").x
print(f"temperature {best:.2f}: test loss {loss(1, test, y_test):.3f} -> "
      f"{loss(best, test, y_test):.3f}")  # fmt: skip

# %%
# The share that is right against the probability that was said, and how often each was said.


def reliability(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    said, right = probabilities.max(1), probabilities.argmax(1) == y_test
    place = np.minimum((said * 10).astype(int), 9)
    filled = [k for k in range(10) if (place == k).sum() >= 20]
    return [(said[place == k].mean(), right[place == k].mean(), (place == k).sum()) for k in filled]


figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", sharey=True)
for ax, temperature, title in zip(axes, (1.0, best), ("as trained", "after"), strict=True):
    said, right, count = np.array(reliability(test / temperature)).T
    ax.plot([0, 1], [0, 1], "--", color="grey", label="as often right as said")
    ax.plot(said, right, color="#1b6ca8")
    ax.scatter(said, right, s=count / 4, color="#1b6ca8", label="test rows (area: how many)")
    ax.set(title=f"{title}: temperature {temperature:.2f}", xlabel="probability that was said")
axes[0].set_ylabel("share that was right")
axes[0].legend(loc="upper left")
plt.show()
