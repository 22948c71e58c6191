"""Proof that a network is piecewise linear in each parameter, read from autograd's graph."""

import functools
import operator
import re
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from torch import Tensor, nn

MOVES = ["T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "Squeeze", "Unsqueeze", "Slice", "Select"]
SPLITS = ["Split", "SplitWithSizes", "Unbind", "Cat", "Stack", "Index", "IndexSelect", "Gather"]
COPIES = ["Clone", "Alias", "Repeat", "Roll"]
SUMS = ["Add", "Sub", "Rsub", "Neg", "Mean", "Sum", "AvgPool2D", "AdaptiveAvgPool2D", "ConstantPadNd", "Flip", "ToCopy"]
KINKS = ["Relu", "LeakyRelu", "Threshold", "Hardtanh", "Abs", "Clamp", "ClampMin", "ClampMax", "Where", "MaskedFill"]
MAXIMA = ["Maximum", "Minimum", "Max", "Min", "Amax", "Amin", "MaxPool2DWithIndices", "AdaptiveMaxPool2D"]
# Linear, or linear between kinks at which autograd, too, has no second derivative:
LINEAR = frozenset([*MOVES, *SPLITS, *COPIES, *SUMS, *KINKS, *MAXIMA])
# Linear in each input with the others fixed:
MULTILINEAR = frozenset({"Mul", "Mm", "Bmm", "Mv", "Addmm", "Addmv", "Baddbmm", "Dot", "Convolution", "PreluKernel"})
# Multilinear in input, weight and bias with running statistics; not linear with those of the batch:
BATCH_NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})
BUILT_IN = re.compile(r"(\w+)Backward\d+")  # torch's own operations; a custom ``autograd.Function`` has no number


class GraphStructure(NamedTuple):
    """How a block's parameters enter an output."""

    uses: dict[str, int]  # operations that take each parameter, by name; 0 if the output does not depend on it
    nodes: set  # the graph's operations between the parameters and the output
    linear: bool  # whether the output is known to be piecewise linear in each parameter with the others fixed


def analyze_graph(output: Tensor, parameters: dict[str, nn.Parameter]) -> GraphStructure:
    r"""Walk from the output to the parameters and collect how these enter it.

    The graph has every operation downstream of the parameters, also those in a custom ``forward``. Linearity is proved
    by induction: where each input of an operation is piecewise linear in a parameter tensor with the others fixed, so
    is its result if the operation is linear, or multilinear with the parameter in at most one input. A residual
    connection adds, and is linear; a gate $x \cdot g(x)$ or a weight used twice in a row puts one parameter in both
    factors, and is not. Operations not listed above, such as a custom ``autograd.Function``, count as not linear.
    """
    bits = {id(p): 1 << i for i, p in enumerate(parameters.values())}
    names = {id(p): name for name, p in parameters.items()}
    uses = dict.fromkeys(parameters, 0)
    inputs: dict[Any, list] = {None: []}  # of each operation; None stands for a constant
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node not in inputs:
            inputs[node] = [following for following, _ in node.next_functions]
            waiting += inputs[node]
    reach: dict[Any, int] = {}  # the parameters that each operation depends on, as bits
    linear = True
    for node in TopologicalSorter(inputs).static_order():
        if hasattr(node, "variable"):  # a leaf
            reach[node] = bits.get(id(node.variable), 0)
            continue
        for following in inputs[node]:
            if id(getattr(following, "variable", None)) in names:
                uses[names[id(following.variable)]] += 1
        masks = [reach[following] for following in inputs[node]]
        reach[node] = _union(masks)
        linear = linear and _is_linear(node, masks)
    return GraphStructure(uses, {node for node, mask in reach.items() if mask}, linear)


def _is_linear(node: Any, masks: list[int]) -> bool:
    """Return whether an operation whose inputs depend on these parameters is linear in each of them."""
    if not any(masks):
        return True
    built_in = BUILT_IN.fullmatch(type(node).__name__)
    name = built_in[1] if built_in else None
    if name in MULTILINEAR or (name in BATCH_NORMS and node._saved_training is False):
        return sum(mask.bit_count() for mask in masks) == _union(masks).bit_count()
    return name in LINEAR or (name == "Div" and not any(masks[1:]))


def _union(masks: list[int]) -> int:
    return functools.reduce(operator.or_, masks, 0)
