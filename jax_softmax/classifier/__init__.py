"""Softmax regression in scikit-learn's words: `SoftmaxClassifier`."""

from jax_softmax.classifier.estimator import SoftmaxClassifier

__all__ = ["SoftmaxClassifier"]
