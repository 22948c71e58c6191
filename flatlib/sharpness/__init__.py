"""Sharpness of the training loss beyond one Hessian's spectrum: rises of the loss, rescalings, pictures.

Every measure takes (model, loss, data), leaves the model as it was, and returns its value with what certifies it.
"""

from flatlib.sharpness.between_iterates import BetweenIterates, between_iterates
from flatlib.sharpness.keskar import BoxSharpness, keskar_sharpness
from flatlib.sharpness.landscape import Lines, Plane, loss_along_eigenvectors, loss_in_eigenplane
from flatlib.sharpness.margin import Margins, margin
from flatlib.sharpness.minimum import MinimumSharpness, minimum_sharpness
from flatlib.sharpness.sam import LossIncrease, adaptive_sharpness, sam_sharpness
from flatlib.sharpness.slices import loss_along, loss_in_plane

__all__ = [  # noqa: RUF022 -- grouped by subject
    # the largest eigenvalue between two iterates
    "BetweenIterates",
    "between_iterates",
    # the least trace of all rescalings of the layers
    "MinimumSharpness",
    "minimum_sharpness",
    # the rise of the loss around the weights
    "LossIncrease",
    "sam_sharpness",
    "adaptive_sharpness",
    "BoxSharpness",
    "keskar_sharpness",
    # margins of the samples
    "Margins",
    "margin",
    # the loss along eigenvectors
    "Lines",
    "Plane",
    "loss_along_eigenvectors",
    "loss_in_eigenplane",
    # the loss along any directions
    "loss_along",
    "loss_in_plane",
]
