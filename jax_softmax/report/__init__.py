"""A page about a run: what it learnt, how it does on examples, and where it errs."""

from jax_softmax.report.examined import Examined, Mistake, examine, worst_confusions
from jax_softmax.report.page import class_records, report_page

__all__ = ["Examined", "Mistake", "class_records", "examine", "report_page", "worst_confusions"]
