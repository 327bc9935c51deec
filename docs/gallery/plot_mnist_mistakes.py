"""The most confident mistakes on MNIST
=====================================

A softmax classifier on raw pixels is right on 92 of 100 test images. The others are worth a look:
above each image is what the model said, how sure it was, and what the label says. Needs MNIST (11
MB, downloaded and checked once; or a folder of files named by ``JAX_SOFTMAX_RAW_DIR``).
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jax_softmax import TrainConfig, fit, label_log_probs, load_dataset, predict_proba

mnist = load_dataset("mnist")
result = fit(mnist.train, TrainConfig(learning_rate=0.2, batch_size=256, epochs=8))
probabilities = np.asarray(predict_proba(result, mnist.test.features))
said = probabilities.argmax(1)
wrong = np.flatnonzero(said != mnist.test.labels)
print(f"{len(wrong)} of {len(said)} are wrong")

# %%
# The worst are those whose label had the smallest log-probability. That of a class a row comes
# from the logits, in which a probability of 1e-30 is still a number.

kernel, bias = (np.asarray(result.params[name]) for name in ("kernel", "bias"))
pixels = mnist.test.features.reshape(len(said), -1) * np.float32(mnist.test.feature_scale)
log_probs = np.asarray(label_log_probs(jnp.asarray(pixels @ kernel + bias), mnist.test.labels))
worst = wrong[np.argsort(log_probs[wrong])[:18]]

figure, axes = plt.subplots(3, 6, figsize=(9, 5.6), layout="constrained")
for row, ax in zip(worst, axes.flat, strict=True):
    ax.imshow(mnist.test.features[row].reshape(28, 28), cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"said {said[row]} ({probabilities[row].max():.3f})\nis {mnist.test.labels[row]}")
figure.suptitle("MNIST's test images with the smallest probability of their label")
plt.show()
