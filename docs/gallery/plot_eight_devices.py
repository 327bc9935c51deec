"""Eight devices on one machine
=============================

JAX can split a CPU into several devices, which is how programs for many chips are tried at home.
Here the classes of a last layer are spread over four devices and its rows over two: each holds an
eighth of the logits' work and a quarter of the kernel, and the loss is that of one device.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jax_softmax import (
    linear_softmax_cross_entropy,
    sharded_linear_softmax_cross_entropy,
)

jax.config.update("jax_num_cpu_devices", 8)  # before anything is computed

mesh = jax.make_mesh((2, 4), ("data", "model"))
keys = jax.random.split(jax.random.key(0), 3)
features = jax.random.normal(keys[0], (512, 64))
kernel = jax.random.normal(keys[1], (64, 4096))
labels = jax.random.randint(keys[2], (512,), 0, 4096)


def put(x, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


spread = put(features, "data"), put(kernel, None, "model"), put(labels, "data")
loss, (by_features, by_kernel) = jax.jit(
    jax.value_and_grad(
        lambda features, kernel, labels: sharded_linear_softmax_cross_entropy(
            features, kernel, labels, mesh=mesh, axis_name="model", data_axis_name="data"
        ),
        (0, 1),
    )
)(*spread)
alone, (_, kernel_gradient) = jax.value_and_grad(linear_softmax_cross_entropy, (0, 1))(
    features, kernel, labels
)
print(f"eight devices {loss:.6f}, one device {alone:.6f}")
print("largest difference of the kernel's gradient:", jnp.abs(by_kernel - kernel_gradient).max())

# %%
# Who holds what: the numbers are the devices'. Rows are held by every device of a row of the mesh,
# and gradients lie where what they belong to does.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
pictures = {"features [512, 64]": spread[0], "kernel [64, 4096]": spread[1]}
pictures |= {"the kernel's gradient": by_kernel}
for ax, (name, array) in zip(axes, pictures.items(), strict=True):
    holders = {}
    for shard in array.addressable_shards:
        box = tuple(
            part.indices(size)[:2] for part, size in zip(shard.index, array.shape, strict=True)
        )
        holders.setdefault(box, []).append(shard.device.id)
    for colour, (((top, bottom), (left, right)), ids) in enumerate(sorted(holders.items())):
        at = (left, top), right - left, bottom - top
        ax.add_patch(plt.Rectangle(*at, facecolor=plt.cm.Set2(colour), edgecolor="white"))
        middle = (left + right) / 2, (top + bottom) / 2
        ax.text(*middle, "\n".join(map(str, sorted(ids))), ha="center", va="center")
    ax.set(title=name, xlim=(0, array.shape[1]), ylim=(array.shape[0], 0))
assert np.isclose(loss, alone, rtol=1e-6)
plt.show()
