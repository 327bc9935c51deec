"""The recipes and the page on teachers: each program runs, and agrees with the textbook."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.docs.test_linear_loss import PRESENT, agree, falls, imported, optax_mean, programs
from tests.ops.test_sharding import collectives

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {
    name: (DOCS / name).read_text(encoding="utf-8") for name in ("distillation.md", "recipes.md")
}
PROGRAMS = {name: programs(text) for name, text in PAGES.items()}


def graded(f, argnums=0):
    return jax.jit(jax.value_and_grad(f, argnums))


def divergences(logits, teacher_logits):
    log_p, log_q = jax.nn.log_softmax(teacher_logits), jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def from_logits(page):
    def plain(logits):
        soft = divergences(logits / 2, page["teacher_logits"] / 2).mean()
        return 0.9 * 4 * soft + 0.1 * optax_mean(logits, page["labels"])

    agree((page["loss"], page["gradient"]), graded(plain)(page["logits"]))


def from_hidden_states(page):
    features, teacher = page["teacher_features"], page["teacher_features"] @ page["teacher_kernel"]

    def plain(params):
        return divergences(jnp.tanh(features @ params["hidden"]) @ params["kernel"], teacher).mean()

    ours, theirs = graded(page["loss_fn"]), graded(plain)
    for params in (page["start"], page["params"]):
        agree(ours(params), theirs(params))
    falls(page["losses"])


def from_the_likeliest(page):
    """Against the whole distributions that each way to treat the rest stands for."""
    p = jax.nn.softmax(page["teacher_features"] @ page["teacher_kernel"] / 2)
    likeliest = jnp.argsort(-p, axis=-1)[:, :8]
    np.testing.assert_array_equal(page["stored"]["indices"], likeliest)
    agree(page["logits_had"][0], page["stored"]["log_probs"])
    kept = jnp.zeros(p.shape, bool).at[jnp.arange(64)[:, None], likeliest].set(True)
    mass = jnp.sum(jnp.where(kept, p, 0), -1, keepdims=True)
    assert 0.2 < mass.mean() < 0.9
    targets = {
        "ignore": jnp.where(kept, p, 0),
        "uniform": jnp.where(kept, p, (1 - mass) / (200 - 8)),
        "renormalise": jnp.where(kept, p / mass, 0),
    }
    assert set(page["found"]) == set(targets)
    for rest, target in targets.items():

        def plain(features, kernel, target=target):
            return 4 * optax.softmax_cross_entropy(features @ kernel / 2, target).mean()

        desired = graded(plain, (0, 1))(page["features"], page["kernel"])
        agree(page["found"][rest], desired)
        assert f'| `"{rest}"` |' in PAGES["distillation.md"]


def nearly_equal_rows(page):
    table = re.findall(
        r"^\| (1|0\.\d+) \| (\S+) \| (\S+) \| (\S+) \|$", PAGES["distillation.md"], re.M
    )
    shown = np.array(table, np.float64)
    found = np.array(page["rows"])
    np.testing.assert_array_equal(shown[:, 0], found[:, 0])
    np.testing.assert_allclose(shown[:, 1:3], found[:, 1:3], rtol=2e-6)
    exact, ours, textbook = found[:, 1:].T
    assert (abs(ours / exact - 1) < 5 * np.finfo(np.float32).eps).all()
    # As wrong as the page shows it, in whichever digits.
    errors, shown_errors = abs(textbook / exact - 1), abs(shown[:, 3] / shown[:, 1] - 1)
    assert errors[-1] > 1 and shown_errors[-1] > 1
    assert (errors[2:] > 1e-4).all() and (shown_errors[2:] > 1e-4).all()


def two_towers(page):
    def plain(params):
        a, b = (page["tower"](params[name], page[name]) for name in ("images", "texts"))
        similarities = a @ b.T * jnp.exp(jnp.minimum(params["log_scale"], jnp.log(100.0)))
        labels = jnp.arange(64)
        return (optax_mean(similarities, labels) + optax_mean(similarities.T, labels)) / 2

    ours, theirs = graded(page["loss_fn"]), graded(plain)
    for params in (page["start"], page["params"]):
        agree(ours(params), theirs(params))
    assert page["losses"][-1] < page["losses"][0] / 4
    assert page["params"]["log_scale"] != page["start"]["log_scale"]


def accumulation(page):
    tokens, segments = np.asarray(page["tokens"]), np.asarray(page["segment_ids"])
    pairs = [
        (i, t)
        for i in range(8)
        for t in range(11)
        if segments[i, t] == segments[i, t + 1] != 0  # a document's next token
    ]
    rows, places = np.array(pairs).T

    def plain(params):
        features = jnp.tanh(params["embedding"][tokens[rows, places]] @ params["hidden"])
        return optax_mean(features @ params["embedding"].T, tokens[rows, places + 1])

    desired = graded(plain)(page["params"])
    agree((page["loss"], page["gradients"]), desired)
    agree((page["whole_loss"], page["whole_gradients"]), desired)
    assert page["logged"]["count"] == len(pairs)
    agree(page["logged"]["loss"], page["loss"])
    assert abs(page["mean_of_means"] - page["loss"]) > 1e-3


def trained_as_on_one_device(page):
    """The losses of five steps, and where parameters and the optimiser's numbers are."""

    def plain(params, x, labels):
        return optax_mean(jnp.tanh(x @ params["hidden"]) @ params["kernel"], labels)

    params = jax.device_get(page["start"])
    step, state, losses = graded(plain), page["optimizer"].init(params), []
    for _ in range(5):
        loss, gradients = step(params, page["x"], page["labels"])
        updates, state = page["optimizer"].update(gradients, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(page["losses"], losses, rtol=1e-5)
    falls(page["losses"])
    held = {name: x.addressable_shards[0].data.size for name, x in page["params"].items()}
    moments = page["state"][0].mu
    assert held == {name: x.addressable_shards[0].data.size for name, x in moments.items()}
    return held


def sent_in_a_step(page):
    lowered = page["train_step"].lower(page["params"], page["state"], *page["batch"])
    return list(collectives(lowered.compile().as_text()))


def fsdp_with_a_mesh(page):
    held = trained_as_on_one_device(page)
    assert held == {"hidden": 12 * 8 / 4, "kernel": 8 * 50 / 8}
    with jax.set_mesh(page["mesh"]):
        found = sent_in_a_step(page)
    # A device's rows are 8 and its classes 25: their logits are sent nowhere, nor all the features.
    assert max(sent for kind, sent in found if kind == "all-gather") <= 8 * 25
    assert all(kind != "all-to-all" for kind, _ in found)


def fsdp_with_jit(page):
    held = trained_as_on_one_device(page)
    assert held == {"hidden": 16 * 8 / 8, "kernel": 8 * 50 / 8}
    # The kernels are gathered, and no more: there are 32 x 50 logits.
    gathered = [sent for kind, sent in sent_in_a_step(page) if kind == "all-gather"]
    assert max(gathered) <= 8 * 50


def nnx_with_a_mesh(page):
    from flax import nnx

    def plain(model, x, labels):
        return optax_mean(model(x), labels)

    arrays = jax.device_get((page["x"], page["labels"]))
    model = page["Model"](nnx.Rngs(0))
    agree(
        nnx.value_and_grad(page["loss_fn"])(model, *arrays),
        nnx.value_and_grad(plain)(model, *arrays),
    )
    falls(page["losses"])
    kernel = page["model"].head.kernel[...]
    assert kernel.addressable_shards[0].data.size == 8 * 50 / 8


CHECKS = {
    "distillation.md": {
        "From logits": from_logits,
        "From hidden states": from_hidden_states,
        "From the likeliest classes, stored once": from_the_likeliest,
        "Nearly equal rows": nearly_equal_rows,
    },
    "recipes.md": {
        "Two towers with a learnt scale": two_towers,
        "Packed documents and gradient accumulation": accumulation,
        "FSDP with a mesh that is set": fsdp_with_a_mesh,
        "FSDP with jit alone": fsdp_with_jit,
        "Flax NNX with a mesh": nnx_with_a_mesh,
    },
}


def test_every_program_of_the_recipes_has_a_check():
    assert {page: list(found) for page, found in PROGRAMS.items()} == {
        page: list(checks) for page, checks in CHECKS.items()
    }


@pytest.mark.parametrize(
    ("page", "heading"), [(page, heading) for page, found in CHECKS.items() for heading in found]
)
def test_recipe_runs_and_agrees_with_the_textbook(page, heading):
    program = PROGRAMS[page][heading]
    for package in sorted(set(imported(program)) - PRESENT):
        pytest.importorskip(package)
    if "make_mesh" in program and jax.device_count() != 8:
        pytest.skip("needs 8 devices: tests/conftest.py simulates them on a CPU")
    names = {"__name__": "page"}
    exec(compile(program, DOCS / page, "exec"), names)
    CHECKS[page][heading](names)
