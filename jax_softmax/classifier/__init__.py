"""Softmax regression in scikit-learn's words: `SoftmaxClassifier`, `SoftmaxClassifierCV`."""

from jax_softmax._extras import needs_train_extra

with needs_train_extra():
    from jax_softmax.classifier.cross_validation import SoftmaxClassifierCV
    from jax_softmax.classifier.estimator import SoftmaxClassifier

__all__ = ["SoftmaxClassifier", "SoftmaxClassifierCV"]
