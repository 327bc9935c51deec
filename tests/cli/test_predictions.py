"""The table that `predict --output` writes."""

import numpy as np

from jax_softmax.cli.predictions import as_bytes, is_ours, likeliest, table_of


def test_a_table_is_known_again_whose_classes_are_numbers_and_then_words(tmp_path):
    names = [*map(str, range(10)), "other"]
    probabilities = np.eye(11)[np.repeat([3, 10], [300, 1])]
    table = table_of(probabilities, likeliest(probabilities, 1), names, each=False)
    file = tmp_path / "classes.csv"
    file.write_bytes(as_bytes(table, file))
    assert is_ours(file)
    file.write_text("class,other\n1,2\n")
    assert not is_ours(file)
