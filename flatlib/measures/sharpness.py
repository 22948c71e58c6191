"""Measures of sharpness beyond one Hessian's spectrum, of the weights and of the function."""

import torch

from flatlib.curvature.operators.empirical_risk import collect_batches
from flatlib.errors import NotDefined
from flatlib.measures.checkpoint import Checkpoint
from flatlib.measures.performance import Numbers
from flatlib.sharpness import (
    adaptive_sharpness,
    between_iterates,
    keskar_sharpness,
    margin,
    minimum_sharpness,
    sam_sharpness,
)
from flatlib.sharpness.jacobian import jacobian_norm


def weight_norm(checkpoint: Checkpoint) -> Numbers:
    """Euclidean norm of all trainable parameters."""
    squares = [p.detach().double().square().sum() for p in checkpoint.model.parameters() if p.requires_grad]
    return {"weight_norm": float(torch.stack(squares).sum().sqrt())}


def jacobian_norms(checkpoint: Checkpoint, *, softmax: bool) -> Numbers:
    """Spectral norm of the input-output Jacobian over the measured images, largest and mean; of the logits, or of the
    softmaxed model, whose largest norm MacDonald et al. 2023 follow in Figure 1."""
    images, *_ = collect_batches(checkpoint.examples)
    norms = jacobian_norm(checkpoint.model, images, softmax=softmax)
    name = "softmax_jacobian_norm" if softmax else "jacobian_norm"
    return {name: float(norms.max()), f"{name}_mean": float(norms.mean())}


def lambda_max_between(checkpoint: Checkpoint) -> Numbers:
    """The largest eigenvalue at 8 points from this iterate to the next, batch norm in train mode (Kaur et al. 2022)."""
    if checkpoint.after is None:
        raise NotDefined("between_iterates wants the network after one more step: this checkpoint has none")
    found = between_iterates(
        checkpoint.model,
        checkpoint.after(),
        checkpoint.loss,
        checkpoint.examples,
        engine=checkpoint.engine,
        tol=checkpoint.tolerance,
        seed=checkpoint.seed,
    )
    return {
        "between_iterates": found.value,
        "between_iterates_residual": found.residual,
        "between_iterates_products": found.products,
        "between_iterates_converged": found.converged,
    }


def least_trace(checkpoint: Checkpoint) -> Numbers:
    """Minimum sharpness (Bejan et al. 2022), the least trace over all rescalings of the layers."""
    found = minimum_sharpness(*checkpoint.subject, batch_norm=checkpoint.batch_norm, seed=checkpoint.seed)
    return {"minimum_sharpness": found.value, "minimum_sharpness_standard_error": found.standard_error}


def sam_rise(checkpoint: Checkpoint) -> Numbers:
    """The rise of the loss along SAM's step (Foret et al. 2021)."""
    return {"sam_sharpness": sam_sharpness(*checkpoint.subject, batch_norm=checkpoint.batch_norm).value}


def adaptive_rise(checkpoint: Checkpoint) -> Numbers:
    """The largest rise found in a ball measured in multiples of each weight (Kwon et al. 2021)."""
    found = adaptive_sharpness(*checkpoint.subject, batch_norm=checkpoint.batch_norm, seed=checkpoint.seed)
    return {"adaptive_sharpness": found.value, "adaptive_sharpness_alignment": found.alignment}


def box_rise(checkpoint: Checkpoint) -> Numbers:
    """The largest rise found in a small box, in percent (Keskar et al. 2017)."""
    found = keskar_sharpness(*checkpoint.subject, batch_norm=checkpoint.batch_norm, seed=checkpoint.seed)
    return {"keskar_sharpness": found.value, "keskar_sharpness_converged": found.converged}


def margins(checkpoint: Checkpoint) -> Numbers:
    """Distances of the measured images to the decision boundary: their median and their 10 % quantile."""
    quantiles = margin(checkpoint.model, checkpoint.examples).quantiles
    return {"margin": quantiles[0.5], "margin_low": quantiles[0.1]}
