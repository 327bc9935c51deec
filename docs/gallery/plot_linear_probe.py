"""A linear probe, and how strong its penalty should be
======================================================

A linear probe asks how much of an answer lies in fixed features: a softmax classifier is fitted on
them, and nothing else is trained. Here the features are random ones of digits, ``relu(x @
random)``, at three widths. The penalty is chosen by cross-validation, each fit beginning where the
one before ended.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import StandardScaler

from jax_softmax import SoftmaxClassifierCV, load_dataset

digits = load_dataset("digits")
train, test = (
    part.features.reshape(len(part.labels), -1).astype(np.float32) / 16
    for part in (digits.train, digits.test)
)


def features_of(width):
    """Random features: as wide as a network's, and as little trained as can be."""
    random = np.random.default_rng(0).normal(size=(64, width)).astype(np.float32)
    scaler = StandardScaler().fit(np.maximum(train @ random, 0))
    return (scaler.transform(np.maximum(part @ random, 0)) for part in (train, test))


# %%
# For each ``C`` the mean accuracy over the folds, and the test accuracy of what was chosen.

strengths = np.logspace(-4, 0, 5)
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for width, colour in ((16, "#e58e26"), (64, "#3c9d4e"), (256, "#1b6ca8")):
    train_features, test_features = features_of(width)
    probe = SoftmaxClassifierCV(C=strengths, cv=3, tol=1e-3)
    probe.fit(train_features, digits.train.labels)
    scores = np.asarray(probe.scores_).mean(axis=0).ravel()
    score = probe.score(test_features, digits.test.labels)
    chosen = float(np.ravel(probe.C_)[0])
    print(f"{width:4} features: C = {chosen:g}, test accuracy {score:.3f}")
    ax.semilogx(strengths, scores, "o-", color=colour, label=f"{width} features")
    ax.semilogx(chosen, score, "*", color=colour, markersize=14)
ax.plot([], [], "k*", markersize=12, label="chosen: test accuracy")
ax.set(xlabel="C (to the left, a stronger penalty)", ylabel="accuracy over three folds")
ax.set(title="Linear probes on random features of digits")
ax.legend(loc="lower right")
plt.show()
