def pytest_collection_modifyitems(config, items):
    """Leaves scikit-learn's own tests of other solvers out; "saga" is our proximal one."""
    left_out = [item for item in items if _of_another_solver(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _of_another_solver(item):
    if item.path.name != "test_scikit_learn.py" or not hasattr(item, "callspec"):
        return False
    ours = {"lbfgs"}
    if item.originalname not in ("test_max_iter", "test_large_sparse_matrix"):
        ours.add("saga")  # not its messages, nor its refusals
    return item.callspec.params.get("solver", "lbfgs") not in ours
