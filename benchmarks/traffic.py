"""What a compiled program moves, read from its text: bytes of memory, and bytes between devices.

XLA's own count takes the body of a loop once, and on GPUs there is none. Here a body counts as
often as it runs. A fused operation reads of an array what it slices, and writes what it updates.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]\d+\w*|bf16)\[([\d,]*)\](\{[^}]*\})?")
# What moves nothing: names for arrays, and ends of what was counted at its start.
_NAMES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
_COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
# Bytes that a device sends for each byte of the whole array, around a ring of n devices.
_SENT = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1}


class Operation(NamedTuple):
    """A line of a compiled program."""

    name: str
    result: str
    kind: str
    operands: tuple[str, ...]
    rest: str
    root: bool


class Collective(NamedTuple):
    """What devices exchange: the kind, over how many devices, and each one's bytes."""

    kind: str
    devices: int
    sent: float


class Program:
    """The text of a compiled program, as computations of operations."""

    def __init__(self, text: str) -> None:
        self._computations: dict[str, dict[str, Operation]] = {}
        self._entry, inside = "", {}
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                inside = self._computations[head[2]] = {}
                self._entry = head[2] if head[1] else self._entry
            elif found := _OPERATION.match(line):
                inside[found[2]] = _operation(*found.groups())

    @cached_property
    def memory_bytes(self) -> float:
        """What is read from and written to a device's memory, each array once an operation."""
        return sum(times * self._moved(where, op) for times, where, op in self._run(self._entry))

    @cached_property
    def memory_bytes_once(self) -> float:
        """The part of `memory_bytes` that no loop repeats."""
        found = self._run(self._entry)
        return sum(self._moved(where, op) for times, where, op in found if times == 1)

    @cached_property
    def collectives(self) -> Counter[Collective]:
        """What devices exchange, and how often."""
        found: Counter[Collective] = Counter()
        for times, where, op in self._run(self._entry):
            kind = op.kind.removesuffix("-start")
            if kind in _COLLECTIVES:
                found[self._collective(where, op, kind)] += times
        return found

    def _run(self, name: str, times: int = 1) -> Iterator[tuple[int, str, Operation]]:
        """The operations that run, in order, with how often."""
        for op in self._computations[name].values():
            if op.kind == "while":
                yield from self._run(_called(op, "body"), times * self._trips(op))
            elif op.kind in ("call", "async-start"):
                yield from self._run(_called(op, "to_apply|calls"), times)
            elif op.kind not in _NAMES and not op.kind.endswith(("-done", "-update")):
                yield times, name, op

    def _trips(self, loop: Operation) -> int:
        """How often the body of a loop runs."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self._computations[_called(loop, "condition")].values()
        bounds = {int(op.rest.partition(")")[0]) for op in condition if op.kind == "constant"}
        if len(bounds) != 1:
            raise ValueError(f"{loop.name}: expected one bound of the loop, got {sorted(bounds)}.")
        return bounds.pop()

    def _moved(self, where: str, op: Operation) -> float:
        if op.kind == "fusion":
            inner = _called(op, "calls")
            read = sum(self._read(inner, i) for i in range(len(op.operands)))
            return read + self._written(inner)
        if "AllocateBuffer" in op.rest:
            return 0
        if op.kind == "dynamic-slice":
            return 2 * _size(op.result)
        if op.kind == "dynamic-update-slice":
            return 2 * self._held(where, op.operands[1])
        return _size(op.result) + sum(self._held(where, name) for name in op.operands)

    def _held(self, where: str, name: str) -> float:
        op = self._computations[where].get(name)
        return 0 if op is None or op.kind == "constant" else _size(op.result)

    def _read(self, fused: str, index: int) -> float:
        """What a fused computation reads of an operand."""
        inside = self._computations[fused]
        names = [op.name for op in inside.values() if _is_parameter(op, index)]
        whole, parts = (_size(inside[names[0]].result) if names else 0), 0.0
        while names:
            name = names.pop()
            if inside[name].root:
                return whole  # under another name
            for op in inside.values():
                if name not in op.operands:
                    continue
                if op.kind == "bitcast":
                    names.append(op.name)
                elif op.kind == "dynamic-slice":
                    parts += _size(op.result)
                elif op.kind == "fusion":
                    parts += self._read(_called(op, "calls"), op.operands.index(name))
                elif not (op.kind == "dynamic-update-slice" and op.operands[0] == name):
                    return whole
        return min(whole, parts)

    def _written(self, fused: str) -> float:
        """What a fused computation writes of its result."""
        inside = self._computations[fused]
        names, written = [op.name for op in inside.values() if op.root], 0.0
        while names:
            op = inside[names.pop()]
            if op.kind in ("tuple", "bitcast"):
                names += op.operands
            elif op.kind == "dynamic-update-slice":
                written += self._held(fused, op.operands[1])
            elif op.kind == "fusion":
                written += self._written(_called(op, "calls"))
            else:
                written += _size(op.result)
        return written

    def _collective(self, where: str, op: Operation, kind: str) -> Collective:
        whole = sum(_bytes(self._computations[where][name].result) for name in op.operands)
        devices = _group_size(op.rest)
        whole *= devices if kind == "all-gather" else 1
        sent = whole * _SENT.get(kind, 1)
        if kind != "collective-permute":
            sent *= (devices - 1) / devices
        return Collective(kind, devices, sent)


def _operation(root: str, name: str, result: str, kind: str, rest: str) -> Operation:
    depth, end = 1, 0
    while depth and end < len(rest):
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
    return Operation(name, result, kind, operands, rest, bool(root))


def _is_parameter(op: Operation, index: int) -> bool:
    return op.kind == "parameter" and op.rest.startswith(f"{index})")


def _called(op: Operation, attribute: str) -> str:
    found = re.search(rf"\b(?:{attribute})=%?([\w.\-]+)", op.rest)
    assert found is not None, op
    return found[1]


def _bytes(result: str, elsewhere: bool = True) -> float:
    """The bytes of an array or a tuple; with `elsewhere` also of what is not in main memory."""
    return sum(
        math.prod(int(n) for n in shape.split(",") if n) * _item_bytes(dtype)
        for dtype, shape, layout in _ARRAY.findall(result)
        if elsewhere or not re.search(r"S\([1-9]", layout)
    )


def _size(result: str) -> float:
    """The bytes in the main memory: TPUs name their others S(1), S(2), ..."""
    return _bytes(result, elsewhere=False)


def _item_bytes(dtype: str) -> float:
    bits = re.search(r"\d+", dtype)
    return 1 if bits is None else int(bits[0]) / 8


def _group_size(rest: str) -> int:
    """Over how many devices a collective goes, of the three ways to write it."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(iota[1])
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(groups[1].split(","))
    return 2  # the pairs of a collective-permute
