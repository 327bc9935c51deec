"""Decision regions on iris
=========================

Softmax regression cuts the plane by straight lines: where two classes are as likely, their logits
are equal, and both are linear. The colour is the likeliest class, its strength the probability.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jax_softmax import SoftmaxClassifier, load_dataset

iris = load_dataset("iris")
# Of the four measures, the petal's length and width tell the flowers apart best.
features, labels = iris.train.features[:, 2:], iris.train.labels
model = make_pipeline(StandardScaler(), SoftmaxClassifier(C=10.0)).fit(features, labels)
test_score = model.score(iris.test.features[:, 2:], iris.test.labels)
print(f"test accuracy with two of the four features: {test_score:.3f}")

# %%
# The probabilities of each point of a grid, and the colours that they mix.

lengths, widths = np.meshgrid(np.linspace(0.5, 7.5, 400), np.linspace(-0.1, 2.8, 300))
grid = np.stack([lengths.ravel(), widths.ravel()], axis=1).astype(np.float32)
probabilities = model.predict_proba(grid).reshape(*lengths.shape, 3)
colours = np.array([to_rgb(name) for name in ("#1b6ca8", "#e58e26", "#3c9d4e")])
likeliest = probabilities.argmax(-1)
# White where all three are as likely, the class's colour where it is certain.
strength = (1.5 * (probabilities.max(-1, keepdims=True) - 1 / 3)) * 0.7

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
ax.imshow(
    1 - strength * (1 - colours[likeliest]),
    origin="lower",
    extent=(0.5, 7.5, -0.1, 2.8),
    aspect="auto",
)
edge = np.sort(probabilities, axis=-1)
ax.contour(lengths, widths, edge[..., -1] - edge[..., -2], levels=[0.02], colors="white")
for k, name in enumerate(iris.class_names):
    mine = labels == k
    ax.scatter(*features[mine].T, s=22, color=colours[k], edgecolor="white", label=name)
ax.set(xlabel="petal length (cm)", ylabel="petal width (cm)", title="Iris by softmax regression")
ax.legend(loc="upper left")
plt.show()
