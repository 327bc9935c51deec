"""Draws the pictures of recorded results again.

python benchmarks/redraw.py RECORDS.json FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from jax_softmax.benchmark import SUITES, Record
from jax_softmax.benchmark.pictures import NothingToDrawError


def read_records(file: Path) -> list[Record]:
    """The records in a file that `jax-softmax bench --json` or the programs here wrote."""
    known = {field.name for field in dataclasses.fields(Record)}
    return [
        Record(**{name: value for name, value in fields.items() if name in known})
        for fields in json.loads(file.read_text())
        if "suite" in fields
    ]


def main(file: str, folder: str) -> None:
    records = read_records(Path(file))
    for name, suite in SUITES.items():
        of_suite = [record for record in records if record.suite == name]
        if not of_suite:
            continue
        path = Path(folder) / f"{name}.png"
        try:
            suite.draw(of_suite).savefig(path)
            print(f"{path} drawn")
        except NothingToDrawError as reason:
            print(f"{path} not drawn: {reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
