"""What each chunk weighs in the loss of all examples: found out from the loss itself, or refused."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from flatlib.curvature.operators.empirical_risk import EmpiricalRisk
from flatlib.curvature.operators.examples import FEW, Chunk
from flatlib.curvature.operators.forward import without_gradients
from flatlib.curvature.operators.loss_checks import (
    AS_ONE,
    TOLERANCE,
    Evaluate,
    Slopes,
    distance,
    elsewhere,
    norm,
    require_independent,
    require_mean,
    require_no_broadcast,
    slopes,
)
from flatlib.curvature.operators.nested import is_transparent, joined, leaves, per_example
from flatlib.errors import FlatlibError, NotFinite
from flatlib.losses import LOSSES, is_mean_of_examples

PLAIN = 1e-5  # relative difference of a share to that of a plain mean below which it is that
DISPLACEMENTS = 3  # points at which the loss of a whole batch is compared with those of its chunks
DISTANCE = 0.1  # of these points, of the size of the weights
ROUNDING = 1e2  # units in the last place by which a loss may be off
VISIBLE = 1e2  # least spread of the changes of the chunks' losses, of their rounding, that tells a mean from another


def risk_shares(operator: EmpiricalRisk) -> list[float]:
    """Check the loss of an operator, and return the weight of each of its chunks in the loss of all examples.

    Raises:
        FlatlibError: If the loss is a sum, compares each output with every target, or is no sum over the chunks that
            were asked for; if one example's output depends on the others of its chunk.
    """
    parts = [list(part.split(operator.chunk_size)) for part in operator.parts]
    chunks = list(itertools.chain(*parts))
    known = any(operator.loss is loss for loss in LOSSES.values())
    if not known:
        _check_sample(operator)
    if len(chunks) == 1:
        return [1.0]
    if not operator.takes_model:
        _check_independence(operator)
    plain = [chunk.size / operator.examples for chunk in chunks]
    if known and all(is_mean_of_examples(operator.loss, chunk.targets) for chunk in chunks):
        return plain
    shares = _shares_of_outputs(operator, parts) if not operator.takes_model else None
    if shares is not None and is_transparent(_output(operator, operator.few(FEW))):
        return shares
    if len(parts) > 1 and all(map(partial(_is_mean, operator), operator.parts, parts)):
        return plain
    for candidate in (shares or plain, plain):
        if len(parts) == 1 and _adds_up(operator, operator.parts[0], chunks, candidate):
            return candidate
    if len(parts) > 1 or not operator.may_take_one_chunk():
        raise FlatlibError(
            "the loss is not a mean over examples (it weights, ignores or compares some?), and its chunks do not add "
            f"up: {AS_ONE}" + (", with batches of one shape" if len(parts) > 1 else "")
        )
    return [1.0]


def _check_sample(operator: EmpiricalRisk) -> None:
    """Check on a few examples that the loss is no sum, and compares each output with its own target."""
    sample = operator.few(FEW)
    try:
        operator.chunk_loss(sample)
    except FlatlibError:  # nothing in it counts, or the loss takes all examples only
        sample = operator.few(operator.chunk_size)
        operator.chunk_loss(sample)
    output = None if operator.takes_model else _output(operator, sample)
    if output is not None and is_transparent(output) and _is_compared(output, sample):
        require_no_broadcast(operator.checked_loss, output, sample.targets)
        output = elsewhere(operator.checked_loss, output, sample.targets, torch.Generator().manual_seed(0))

        def repeated_slopes(copies: int) -> Slopes:
            found = slopes(operator.checked_loss, joined([output] * copies), joined([sample.targets] * copies))
            return [torch.stack(leaf.split(sample.size)).sum(0) for leaf in found]

    elif sample.divisible:

        def repeated_slopes(copies: int) -> Slopes:
            return operator.chunk_slopes(sample.repeated(copies))

    else:
        return

    try:
        repeated_slopes(2)
    except FlatlibError:
        if sample.size == operator.examples:
            return  # it takes these examples and no others
        raise
    require_mean(repeated_slopes)


def _is_compared(output: Any, chunk: Chunk) -> bool:
    """Return whether outputs and targets have tensors, of one entry an example."""
    return any(True for _ in leaves(output)) and per_example((output, chunk.targets), chunk.size)


def _check_independence(operator: EmpiricalRisk) -> None:
    first = operator.few(FEW)
    if first.divisible and first.size > 1:
        last = first.at(slice(max(1, first.size // 3), first.size))
        require_independent(_output(operator, first), _output(operator, last), last.size)


def _output(operator: EmpiricalRisk, chunk: Chunk) -> Any:
    return without_gradients(lambda: operator.output(chunk.inputs))


def _shares_of_outputs(operator: EmpiricalRisk, parts: list[list[Chunk]]) -> list[float] | None:
    """Return the chunks' weights from the slopes of the loss in the outputs; parts of other shapes count by examples,
    which is right where the loss is a plain mean in every part."""
    shares: list[float] = []
    for chunks in parts:
        size = sum(chunk.size for chunk in chunks)
        cast = [operator.cast(chunk) for chunk in chunks]
        compared = [chunk._replace(inputs=_output(operator, chunk)) for chunk in cast]
        is_whole = len(parts) > 1 and len(chunks) == 1
        if is_whole:
            compared = _halves(compared[0])
        try:
            found = chunk_shares(operator.checked_loss, [chunk.inputs for chunk in compared], compared)
        except FlatlibError:
            if is_transparent(compared[0].inputs):
                raise
            return None  # the loss uses what cannot be joined
        plain = [chunk.size / size for chunk in compared]
        if found is None or (len(parts) > 1 and found != plain):
            return None
        shares += [share * size / operator.examples for share in ([1.0] if is_whole else found)]
    return shares


def _halves(chunk: Chunk) -> list[Chunk]:
    return list(chunk.split((chunk.size + 1) // 2))


def _is_mean(operator: EmpiricalRisk, part: Chunk, chunks: list[Chunk]) -> bool:
    """Return whether the loss of a part is a mean over its examples."""
    chunks = chunks if len(chunks) > 1 else _halves(part)
    return part.size == 1 or _adds_up(operator, part, chunks, [chunk.size / part.size for chunk in chunks])


def _adds_up(operator: EmpiricalRisk, whole: Chunk, chunks: list[Chunk], shares: list[float]) -> bool:
    """Return whether the loss of all examples is this sum of the chunks' losses, but for a constant.

    Losses are compared at random weights near the model's, in how they change between them.
    """
    counted = [(chunk, share) for chunk, share in zip(chunks, shares, strict=True) if share]
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(DISPLACEMENTS):
        displaced = {}
        for name, p in operator.parameters.items():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
            displaced[name] = p.detach() + DISTANCE * p.detach().square().mean().sqrt() * noise
        with operator.frozen.displaced(displaced):
            try:
                pieces = [operator.cast(chunk) for chunk in (whole, *(chunk for chunk, _ in counted))]
                rows.append([float(without_gradients(partial(operator.chunk_loss, piece))) for piece in pieces])
            except NotFinite:  # nothing counts in a chunk
                return False
    losses = torch.tensor(rows, dtype=torch.float64)
    changes = losses - losses.mean(0)
    together, apart = changes[:, 0], changes[:, 1:]
    spread = (apart - together[:, None]).abs().amax(1)
    errors = (apart @ together.new_tensor([share for _, share in counted]) - together).abs()
    rounding = ROUNDING * torch.finfo(operator.torch_dtype).eps * losses.abs().max()
    return bool((spread.max() > VISIBLE * rounding) & (errors <= TOLERANCE * spread.max() + rounding).all())


def chunk_shares(loss: Evaluate, outputs: Sequence[Any], chunks: Sequence[Chunk]) -> list[float] | None:
    r"""Return the weight $a_c$ of each chunk in $L = \sum_c a_c L_c$, or None where there is no such sum.

    The slopes of the loss of the whole at a chunk's outputs are $a_c$ times those of the loss of the chunk, whatever
    the loss counts: examples, pixels, tokens that are not ignored, or weights. They are compared at the outputs and at
    random ones; a chunk in which nothing counts has no slope, and weighs nothing.
    """
    count = sum(chunk.size for chunk in chunks)
    plain = [chunk.size / count for chunk in chunks]
    if not all(map(_is_compared, outputs, chunks)):
        return None
    generator = torch.Generator().manual_seed(0)
    shares: list[list[float]] = []
    others = [elsewhere(loss, o, chunk.targets, generator) for o, chunk in zip(outputs, chunks, strict=True)]
    for around in (outputs, others):
        whole = slopes(loss, joined(list(around)), joined([chunk.targets for chunk in chunks]))
        found = _shares(loss, around, chunks, whole)
        if found is None:
            return None
        shares.append(found)
    weights = [a or b for a, b in zip(*shares, strict=True)]
    if any(abs((b or a) - (a or b)) > TOLERANCE * (a or b) for a, b in zip(*shares, strict=True)):
        return None
    counted = [(a, b) for a, b in zip(weights, plain, strict=True) if a]
    if all(abs(a - b) <= PLAIN * b for a, b in counted):  # a chunk without slope may have one at other weights
        return plain
    return [a / sum(weights) for a in weights] if abs(sum(weights) - 1) <= TOLERANCE else None


def _shares(loss: Evaluate, outputs: Sequence[Any], chunks: Sequence[Chunk], whole: Slopes) -> list[float] | None:
    """Return the factor between the slopes in the whole and in each chunk, or None where they are not parallel."""
    found = []
    ends = [0, *itertools.accumulate(chunk.size for chunk in chunks)]
    for output, chunk, (a, b) in zip(outputs, chunks, itertools.pairwise(ends), strict=True):
        here = [leaf[a:b] for leaf in whole]
        size = norm(here)
        if size == 0:
            found.append(0.0)
            continue
        alone = slopes(loss, output, chunk.targets)
        square = norm(alone) ** 2
        inner = sum(float((p.conj() * q).sum().real) for p, q in zip(here, alone, strict=True))
        share = inner / (square or 1.0)
        if not distance(here, [share * leaf for leaf in alone]) <= TOLERANCE * size:
            return None
        found.append(share)
    return found
