"""Sizes of images and layers."""

from flatlib.errors import FlatlibError

Shape = tuple[int, int, int]  # channels, height, width of one image


def scale_width(units: int, width: float) -> int:
    """Return a layer's size times the width multiplier, at least one."""
    return max(1, round(units * width))


def require_image_size(model: str, shape: Shape, least: int) -> None:
    """Raise a `FlatlibError` unless both sides of an image have `least` pixels."""
    _, height, width = shape
    if min(height, width) < least:
        raise FlatlibError(f"model {model}: needs images of at least {least} x {least} pixels, got {height} x {width}")
