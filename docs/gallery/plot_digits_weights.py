"""What a softmax classifier looks for in a digit
================================================

A linear classifier has one weight for each class and pixel, so its kernel is ten pictures. Red
pixels speak for the class, blue ones against it: a zero must have a hole, a four no top.
"""

import matplotlib.pyplot as plt
import numpy as np

from jax_softmax import TrainConfig, evaluate, fit, load_dataset

digits = load_dataset("digits")
result = fit(digits.train, TrainConfig(learning_rate=0.5, batch_size=64, epochs=30))
print(evaluate(result, digits.test))

# %%
# The kernel is ``[features, classes]``. Adding one number to all weights of a pixel changes no
# probability, so what is drawn is the weight above the mean of the classes.

kernel = np.asarray(result.params["kernel"]).reshape(8, 8, 10)
kernel = kernel - kernel.mean(axis=-1, keepdims=True)
largest = np.abs(kernel).max()

figure, axes = plt.subplots(2, 5, figsize=(9, 4), layout="constrained")
for digit, ax in enumerate(axes.flat):
    image = ax.imshow(kernel[..., digit], cmap="RdBu_r", vmin=-largest, vmax=largest)
    ax.set(title=digits.class_names[digit], xticks=[], yticks=[])
figure.colorbar(image, ax=axes, label="weight above the mean of the classes")
figure.suptitle("Class weights of softmax regression on 8 × 8 digits")
plt.show()
