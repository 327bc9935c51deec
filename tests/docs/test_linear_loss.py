"""The guide to the fused loss: each of its programs runs, and agrees with the optax line."""

import ast
import itertools
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding

from jax_softmax import linear_softmax_cross_entropy
from jax_softmax.ops._linear.blocks import choose_block_size
from tests.ops.test_sharding import collectives
from tests.tolerances import assert_close

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "linear_loss.md"
# Whoever has jax_softmax has these; what else a block imports may be missing.
PRESENT = sys.stdlib_module_names | {"jax", "jax_softmax", "numpy", "optax"}


def programs(text):
    """The Python blocks of a page, by the heading that each stands under."""
    found, heading = {}, None
    for part in re.finditer(r"^## ([^\n]+)$|^```python\n(.*?)^```$", text, re.M | re.S):
        if part[1]:
            heading = part[1]
        else:
            assert heading not in found, "a block a heading"
            # The lines before it, for tracebacks to name the guide's.
            found[heading] = "\n" * text[: part.start(2)].count("\n") + part[2]
    return found


PROGRAMS = programs(GUIDE.read_text(encoding="utf-8"))


def optax_mean(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def agree(actual, desired, dtype=np.float32):
    """Two trees of numbers, leaf by leaf."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        assert a.shape == b.shape
        assert_close(a, b, dtype)


def falls(losses):
    assert len(losses) > 1 and all(a > b for a, b in itertools.pairwise(losses))


def the_line_that_changes(guide, rng, printed):
    kernel, bias, features = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in [(8, 50), (50,), (32, 8)]
    )
    labels = jnp.asarray(rng.integers(0, 50, 32))
    before, after = (
        jax.value_and_grad(guide[name], (0, 1, 2))(kernel, bias, features, labels)
        for name in ("before", "after")
    )
    agree(after, before)


def plain_arrays(guide, rng, printed):
    def plain(params, x, labels):
        features = guide["features_of"](params, x)
        return optax_mean(features @ params["kernel"] + params["bias"], labels)

    args = guide["params"], guide["x"], guide["labels"]
    agree(jax.value_and_grad(guide["loss_fn"])(*args), jax.value_and_grad(plain)(*args))
    falls(guide["losses"])


def flax_nnx(guide, rng, printed):
    from flax import nnx

    def plain(model, x, labels):
        return optax_mean(model(x), labels)

    args = guide["model"], guide["x"], guide["labels"]
    agree(nnx.value_and_grad(guide["loss_fn"])(*args), nnx.value_and_grad(plain)(*args))
    falls(guide["losses"])


def equinox(guide, rng, printed):
    import equinox as eqx

    def plain(model, x, labels):
        return optax_mean(jax.vmap(model)(x), labels)

    args = guide["model"], guide["x"], guide["labels"]
    ours, theirs = (eqx.filter_value_and_grad(f)(*args) for f in (guide["loss_fn"], plain))
    agree(ours, theirs)
    falls(guide["losses"])


def tied_embeddings(guide, rng, printed):
    def plain(params, tokens):
        features = guide["features_of"](params, tokens[:, :-1])
        return optax_mean(features @ params["embedding"].T, tokens[:, 1:])

    desired = jax.value_and_grad(plain)(guide["params"], guide["tokens"])
    agree((guide["loss"], guide["gradients"]), desired)


def options(guide, rng, printed):
    labels = guide["labels"]
    kept = labels != -1
    assert 0 < kept.sum() < kept.size

    def plain(kernel, features, labels):
        logits = 30 * jnp.tanh(features @ kernel / 30)
        lse = jax.nn.logsumexp(logits, -1)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(kept, labels, 0))
        log_p = jax.nn.log_softmax(logits)

        def mean(x):
            return jnp.sum(jnp.where(kept, x, 0)) / jnp.sum(kept)

        return mean(nll + 1e-4 * lse**2), {
            "accuracy": mean(jnp.argmax(logits, -1) == labels),
            "perplexity": jnp.exp(mean(nll)),
            "entropy": mean(-jnp.sum(jnp.exp(log_p) * log_p, -1)),
        }

    arguments = guide["kernel"], guide["features"], labels
    desired = jax.value_and_grad(plain, has_aux=True)(*arguments)
    agree(((guide["loss"], guide["logged"]), guide["gradient"]), desired)


def class_probabilities(guide, rng, printed):
    kept = guide["where"]
    assert 0 < kept.sum() < kept.size

    def plain(features, kernel, teacher):
        losses = optax.softmax_cross_entropy(features @ kernel, teacher)
        return jnp.sum(jnp.where(kept, losses, 0)) / jnp.sum(kept)

    arrays = tuple(guide[name] for name in ("features", "kernel", "teacher"))
    desired = jax.value_and_grad(plain, (0, 1, 2))(*arrays)
    agree((guide["loss"], guide["gradients"]), desired)


def half_precision(guide, rng, printed):
    """Against float32 arithmetic on the same numbers."""
    features, kernel = (
        guide[name].astype(jnp.bfloat16).astype(jnp.float32) for name in ("features", "kernel")
    )
    labels = guide["labels"]
    agree(guide["loss"], optax_mean(features @ kernel, labels))
    G = jax.grad(optax_mean)(features @ kernel, labels)
    half_eps = float(jnp.finfo(jnp.bfloat16).eps) / 2
    for name, dtype, a, b in (
        ("to_features", jnp.bfloat16, G, kernel.T),
        ("to_kernel", jnp.float32, features.T, G),
    ):
        assert guide[name].dtype == dtype
        # A rounding of G, one of the result, and float32's own.
        allowed = 1.01 * half_eps * (abs(a) @ abs(b) + abs(a @ b))
        assert (abs(guide[name].astype(jnp.float32) - a @ b) <= allowed).all()
    assert guide["loss"].dtype == jnp.float32
    assert printed == "float32 bfloat16 float32\n"


def block_sizes(guide, rng, printed):
    logits = 4 * 512 * 4096
    default, small, smaller = ast.literal_eval(printed)
    assert smaller < small < logits / 2 < default
    # The table, at the last number of classes of each line and the first of the next.
    rows = 2**30
    for classes, block in (
        (1024, (16384, None)),
        (32768, (512, None)),
        (524288, (512, None)),
        (524289, (511, None)),
        (2097152, (128, None)),
        (2097153, (512, 524288)),
    ):
        assert choose_block_size(rows, classes) == block


def rows_over_devices(guide, rng, printed):
    def plain(features, kernel, labels):
        return optax_mean(features @ kernel, labels)

    arrays = tuple(guide[name] for name in ("features", "kernel", "labels"))
    desired = jax.value_and_grad(plain, (0, 1))(*arrays)
    agree(jax.device_get((guide["loss"], guide["gradients"])), desired)
    size = guide["kernel"].size
    found = list(collectives(guide["step"].lower(*guide["args"]).compile().as_text()))
    # The rows' weights, the loss and the kernel's gradient.
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert sum(sent for _, sent in found) == 1 + 1 + size

    # Under plain jit too, no row leaves its device.
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shardings = tuple(NamedSharding(mesh, spec) for spec in guide["specs"])
    step = jax.jit(jax.value_and_grad(linear_softmax_cross_entropy, (0, 1)))
    step = step.lower(*jax.device_put(arrays, shardings)).compile()
    found = list(collectives(step.as_text()))
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert {sent for _, sent in found} <= {1, size, 1 + size}
    agree(jax.device_get(step(*jax.device_put(arrays, shardings))), desired)


def classes_over_devices(guide, rng, printed):
    arrays = tuple(guide[name] for name in ("features", "kernel", "bias", "labels"))

    def plain(features, kernel, bias, labels):
        return optax_mean(features @ kernel + bias, labels)

    loss, (features, kernel, bias) = jax.device_get((guide["loss"], guide["gradients"]))
    assert not kernel[:, 50:].any() and not bias[50:].any()
    desired = jax.value_and_grad(plain, (0, 1, 2))(*arrays)
    agree((loss, (features, kernel[:, :50], bias[:50])), desired)

    rows, width, held = 16 // 2, 8, 52 // 4
    found = sorted(collectives(guide["step"].lower(*guide["args"]).compile().as_text()))
    assert {kind for kind, _ in found} == {"all-reduce"}
    # The rows' weights; the maximum; the two sums; the features' gradient; the loss, with the
    # gradients of kernel and bias, which the compiler may send in one or in three.
    sizes = sum(sent for _, sent in found)
    assert sizes == 1 + rows + 2 * rows + rows * width + 1 + (width + 1) * held


def second_derivatives(guide, rng, printed):
    def plain(kernel):
        return optax_mean(guide["features"] @ kernel, guide["labels"])

    hessian = jax.jit(jax.hessian(plain))(guide["kernel"])
    agree(guide["hessian"], hessian)
    agree(guide["hessian_product"], jnp.tensordot(hessian, guide["direction"], 2))
    agree(guide["slope"], jnp.vdot(jax.grad(plain)(guide["kernel"]), guide["direction"]))


CHECKS = {
    "The line that changes": the_line_that_changes,
    "A model of plain arrays": plain_arrays,
    "Flax NNX": flax_nnx,
    "Equinox": equinox,
    "Tied embeddings": tied_embeddings,
    "Options": options,
    "Class probabilities": class_probabilities,
    "Half precision": half_precision,
    "Choosing block_size": block_sizes,
    "Rows over many devices": rows_over_devices,
    "Classes over many devices": classes_over_devices,
    "Forward mode and second derivatives": second_derivatives,
}


def imported(program):
    """The packages that a program imports."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_every_program_has_a_check():
    assert list(PROGRAMS) == list(CHECKS)


@pytest.mark.parametrize("heading", PROGRAMS)
def test_program_runs_and_agrees_with_optax(heading, capsys):
    program = PROGRAMS[heading]
    for package in sorted(set(imported(program)) - PRESENT):
        pytest.importorskip(package)
    if "many devices" in heading and jax.device_count() != 8:
        pytest.skip("needs 8 devices: tests/conftest.py simulates them on a CPU")
    guide = {"__name__": "guide"}
    exec(compile(program, GUIDE, "exec"), guide)
    CHECKS[heading](guide, np.random.default_rng(0), capsys.readouterr().out)
