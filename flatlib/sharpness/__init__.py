"""Sharpness of the training loss beyond one Hessian's spectrum, its landscape, and the network's Jacobian.

Every measure takes the model first, leaves it as it was, and returns its value with what certifies it.
"""

from flatlib.sharpness.adaptive import MeanLossIncrease, adaptive_sharpness, average_adaptive_sharpness
from flatlib.sharpness.batch_sharpness import batch_sharpness
from flatlib.sharpness.between_iterates import BetweenIterates, between_iterates
from flatlib.sharpness.critical_sharpness import CriticalSharpness, critical_sharpness
from flatlib.sharpness.filter_normalisation import filter_normalised_directions
from flatlib.sharpness.input_curvature import InputCurvature, input_lambda_max
from flatlib.sharpness.jacobian import JacobianNorms, Stretch, jacobian_norm, jacobian_norms, most_stretched
from flatlib.sharpness.jacobian_bound import JacobianBound, jacobian_lower_bound
from flatlib.sharpness.keskar import BoxSharpness, keskar_sharpness
from flatlib.sharpness.landscape import Lines, loss_along, loss_along_eigenvectors, loss_in_plane
from flatlib.sharpness.logit_normalization import of_normalized_logits
from flatlib.sharpness.margin import Margins, margin
from flatlib.sharpness.minimum import MinimumSharpness, minimum_sharpness
from flatlib.sharpness.sam import LossIncrease, sam_sharpness

__all__ = [  # noqa: RUF022 -- grouped by subject
    # rise of the loss around the weights
    "sam_sharpness",
    "adaptive_sharpness",
    "LossIncrease",
    "average_adaptive_sharpness",
    "MeanLossIncrease",
    "of_normalized_logits",
    "keskar_sharpness",
    "BoxSharpness",
    # least trace of all rescalings of the layers
    "minimum_sharpness",
    "MinimumSharpness",
    # curvature along a training step
    "batch_sharpness",
    "critical_sharpness",
    "CriticalSharpness",
    # largest eigenvalue between two iterates
    "between_iterates",
    "BetweenIterates",
    # loss along directions and in planes
    "loss_along_eigenvectors",
    "Lines",
    "loss_along",
    "loss_in_plane",
    "filter_normalised_directions",
    # margins of the samples
    "margin",
    "Margins",
    # curvature in the inputs
    "input_lambda_max",
    "InputCurvature",
    # input-output Jacobian
    "jacobian_norm",
    "jacobian_norms",
    "JacobianNorms",
    "most_stretched",
    "Stretch",
    "jacobian_lower_bound",
    "JacobianBound",
]
