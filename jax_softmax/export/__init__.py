"""A trained model as a file that other programs run, without this package."""

from jax_softmax.export.file import DTYPES, FORMATS, export_model

__all__ = ["DTYPES", "FORMATS", "export_model"]
