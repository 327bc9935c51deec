"""What each of 256 chips would hold: compiled for TPUs that are not here, on any Linux machine."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import replace

from jax_softmax.benchmark.cases import Context, Step, UnavailableError
from jax_softmax.benchmark.children import run_child
from jax_softmax.benchmark.pod_memory import TOPOLOGY, UNFUSED
from jax_softmax.benchmark.results import OURS, Record

_CHIPS = 256
_ROWS, _WIDTH = 2**20, 4096
_CLASSES = (2**16, 2**17, 2**18, 2**19, 2**20)


def steps(context: Context) -> list[Step]:
    """A number of classes each; they take some 20 s each to compile, so one where it is quick."""
    return [
        Step(f"{_CHIPS} chips, {classes:,} classes", functools.partial(run_size, classes))
        for classes in ((2**18,) if context.quick else _CLASSES)
    ]


def run_size(classes: int, rows: int = _ROWS, width: int = _WIDTH) -> list[Record]:
    """Compiles the fused loss and unfused ones, in a process of its own."""
    about = Record(
        suite="pod",
        case=f"value and gradients, {rows:,}×{width:,}×classes bfloat16 on {TOPOLOGY}, a chip",
        contender=OURS,
        ours=True,
        rows=rows,
        width=width,
        classes=classes,
        dtype="bfloat16",
        devices=_CHIPS,
        logits_bytes=rows * classes * 2 // _CHIPS,
    )
    try:
        if importlib.util.find_spec("libtpu") is None:
            raise UnavailableError('TPU\'s compiler is not installed: pip install "jax[tpu]"')
        found = run_child(
            "jax_softmax.benchmark.pod_memory",
            *map(str, (rows, width, classes)),
            # Without the first it would wait for a server that only a TPU's machine has.
            environment={"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"},
        )
    except UnavailableError as reason:
        return [replace(about, skipped=str(reason))]
    return with_ratios(
        [replace(about, **fields, ours=fields["contender"] == OURS) for fields in found]
    )


def with_ratios(records: Sequence[Record]) -> list[Record]:
    """The records with their temporaries over the logits, and over those of `UNFUSED`."""
    base = next((r.temporary_bytes for r in records if r.contender == UNFUSED), None)
    return [
        record
        if record.temporary_bytes is None or record.logits_bytes is None
        else replace(
            record,
            temporary_fraction=record.temporary_bytes / record.logits_bytes,
            ratio_to=UNFUSED if base else None,
            temporary_ratio=record.temporary_bytes / base if base else None,
        )
        for record in records
    ]
