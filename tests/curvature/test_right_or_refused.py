"""Random models, losses, batches and chunks: the matrix of the reader's own call, or one line; never another number.

``python tests/curvature/test_right_or_refused.py 2000`` draws that many cases and counts what comes out.
"""

import collections
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a run without pytest
from brought import CLASSES, MODELS, NUMBERS, SUMS, Brought
from flatlib.curvature import GaussNewtonOperator, HessianOperator
from flatlib.errors import FlatlibError

SHORT = 60  # cases in the suite
CLOSE = 1e-5  # relative; measured 1e-9

cases = st.fixed_dictionaries(
    {
        "model": st.sampled_from(sorted(MODELS)),
        "returned": st.sampled_from(["tensor", "dictionary", "tuple", "data class", "object", "partly hidden"]),
        "habit": st.sampled_from(
            ["none", "none", "decorated", "hooked", "reparametrised", "in place", "remembering", "mixing"]
        ),
        "loss": st.one_of(
            st.tuples(st.just("classes"), st.sampled_from(sorted(CLASSES))),
            st.tuples(st.just("numbers"), st.sampled_from(sorted(NUMBERS))),
        ),
        "form": st.sampled_from(["output", "model and batch", "penalised"]),
        "batch": st.sampled_from(["pair", "uneven", "mapping", "two inputs", "arrays"]),
        "examples": st.integers(3, 13),
        "outputs": st.integers(2, 4),
        "chunk_size": st.sampled_from([None, 1, 2, 3, 5, 100]),
        "kind": st.sampled_from([HessianOperator, HessianOperator, GaussNewtonOperator]),
        "seed": st.integers(0, 10**6),
    }
)


def outcome(case: dict[str, Any]) -> str:
    """Return "right", "refused", or what is wrong."""
    brought = Brought(case)
    brought.model.eval()
    truth = brought.truth()
    brought.model.train()
    before = copy.deepcopy({"state": brought.model.state_dict(), "x": brought.x, "y": brought.y})
    places = {name: (id(vars(m)), set(vars(m)), m.training) for name, m in brought.model.named_modules()}
    try:
        operator = case["kind"](brought.model, brought.loss(), brought.data(), chunk_size=case["chunk_size"])
        found = operator.to_dense()
    except FlatlibError as error:
        found, message = None, str(error)
        if "\n" in message:
            return f"several lines: {message}"
    after = {"state": brought.model.state_dict(), "x": brought.x, "y": brought.y}
    if not all(torch.equal(after["state"][k], v) for k, v in before["state"].items()):
        return "the model is changed"
    if not (torch.equal(before["x"], after["x"]) and torch.equal(before["y"], after["y"])):
        return "the data are changed"
    if places != {name: (id(vars(m)), set(vars(m)), m.training) for name, m in brought.model.named_modules()}:
        return "the modules are changed"
    if found is None:
        return "refused"
    if case["loss"][1] in SUMS:
        return "a sum is measured"
    error = float((found - truth).norm() / truth.norm().clamp_min(1e-12))
    return "right" if error <= CLOSE else f"off by {error:.1e}"


options: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}


@settings(max_examples=SHORT, derandomize=True, **options)
@given(case=cases)
def test_right_or_refused(case):
    assert outcome(case) in ("right", "refused")


def main(count: int) -> None:
    """Print how many of so many cases are right, refused or wrong, and each that is wrong."""
    counts: collections.Counter[str] = collections.Counter()

    @settings(max_examples=count, **options)
    @given(case=cases)
    def draw(case):
        try:
            found = outcome(case)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        kind = found if found in ("right", "refused") else "wrong"
        counts[kind] += 1
        if kind == "wrong":
            print(found, {**case, "kind": case["kind"].__name__}, flush=True)

    draw()
    print(f"{counts['right']} right, {counts['refused']} refused, {counts['wrong']} wrong")
    sys.exit(counts["wrong"] > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]))
