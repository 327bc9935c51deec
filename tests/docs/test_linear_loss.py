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


def the_line_that_changes(guide, rng):
    kernel, bias, features = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in [(8, 50), (50,), (32, 8)]
    )
    labels = jnp.asarray(rng.integers(0, 50, 32))
    before, after = (
        jax.value_and_grad(guide[name], (0, 1, 2))(kernel, bias, features, labels)
        for name in ("before", "after")
    )
    agree(after, before)


def plain_arrays(guide, rng):
    def plain(params, x, labels):
        features = guide["features_of"](params, x)
        return optax_mean(features @ params["kernel"] + params["bias"], labels)

    args = guide["params"], guide["x"], guide["labels"]
    agree(jax.value_and_grad(guide["loss_fn"])(*args), jax.value_and_grad(plain)(*args))
    falls(guide["losses"])


def flax_nnx(guide, rng):
    from flax import nnx

    def plain(model, x, labels):
        return optax_mean(model(x), labels)

    args = guide["model"], guide["x"], guide["labels"]
    agree(nnx.value_and_grad(guide["loss_fn"])(*args), nnx.value_and_grad(plain)(*args))
    falls(guide["losses"])


def equinox(guide, rng):
    import equinox as eqx

    def plain(model, x, labels):
        return optax_mean(jax.vmap(model)(x), labels)

    args = guide["model"], guide["x"], guide["labels"]
    ours, theirs = (eqx.filter_value_and_grad(f)(*args) for f in (guide["loss_fn"], plain))
    agree(ours, theirs)
    falls(guide["losses"])


def tied_embeddings(guide, rng):
    def plain(params, tokens):
        features = guide["features_of"](params, tokens[:, :-1])
        return optax_mean(features @ params["embedding"].T, tokens[:, 1:])

    desired = jax.value_and_grad(plain)(guide["params"], guide["tokens"])
    agree((guide["loss"], guide["gradients"]), desired)


def options(guide, rng):
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


def half_precision(guide, rng):
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


def block_sizes(guide, rng):
    logits = 4 * 512 * 4096
    small, smaller = (guide["temporaries"](512, 8, 4096, size) for size in (64, (64, 1024)))
    assert smaller < small < logits / 2
    # What the table says: 2**24 // 65536 would be 256 rows, 512 are chosen, and all rows are 2048.
    chosen, half, whole = (guide["temporaries"](2048, 8, 65536, size) for size in (None, 512, 2048))
    assert chosen == half < whole / 2


def many_devices(guide, rng):
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
    sizes = sum(size for _, size in found)
    assert sizes == 1 + rows + 2 * rows + rows * width + 1 + (width + 1) * held


def second_derivatives(guide, rng):
    def plain(kernel):
        return optax_mean(guide["features"] @ kernel, guide["labels"])

    hessian = jax.hessian(plain)(guide["kernel"])
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
    "Half precision": half_precision,
    "Choosing block_size": block_sizes,
    "Over many devices": many_devices,
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
def test_program_runs_and_agrees_with_optax(heading):
    program = PROGRAMS[heading]
    for package in sorted(set(imported(program)) - PRESENT):
        pytest.importorskip(package)
    if heading == "Over many devices" and jax.device_count() != 8:
        pytest.skip("needs 8 devices: tests/conftest.py simulates them on a CPU")
    guide = {"__name__": "guide"}
    exec(compile(program, GUIDE, "exec"), guide)
    CHECKS[heading](guide, np.random.default_rng(0))
