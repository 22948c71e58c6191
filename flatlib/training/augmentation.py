"""Random flips, shifts and mixtures of a batch of images, on their device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlib.config import RunConfig


def augmented(
    x: Tensor, y: Tensor, classes: int, config: RunConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return one batch with the augmentation and mixup of the configuration.

    Args:
        x: Images (N, C, H, W).
        y: Classes (N,).
        classes: Number of classes.
        config: Settings.
        generator: Generator on the CPU, so that every device draws the same.
    """
    if "flip" in config.augmentation:
        x = flipped(x, generator)
    if "crop" in config.augmentation:
        x = cropped(x, generator, config.crop_padding)
    return mixed(x, y, classes, config.mixup, generator) if config.mixup else (x, y)


def flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, each mirrored left to right with probability one half."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device, non_blocking=True)[:, None, None, None], x.flip(-1), x)


def cropped(x: Tensor, generator: torch.Generator, padding: int) -> Tensor:
    """Return the images, each shifted by up to `padding` pixels; the border is 0, the mean of standardized images."""
    n, _, height, width = x.shape
    down, right = torch.randint(2 * padding + 1, (2, n), generator=generator).to(x.device, non_blocking=True)
    rows = down[:, None] + torch.arange(height, device=x.device)
    columns = right[:, None] + torch.arange(width, device=x.device)
    images = torch.arange(n, device=x.device)[:, None, None]
    padded = F.pad(x, (padding,) * 4)
    cut = padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return cut.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def mixed(x: Tensor, y: Tensor, classes: int, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Return $\lambda x + (1 - \lambda) x'$ with another image x' of the batch, and the same of the one-hot labels.

    One $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ is drawn for the whole batch (Zhang et al. 2018).
    """
    # PyTorch's Beta distribution takes no generator; its Gamma sampler does.
    a, b = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    share = float(a / (a + b))
    other = torch.randperm(len(x), generator=generator).to(x.device, non_blocking=True)
    labels = F.one_hot(y, classes).to(x.dtype)
    return share * x + (1 - share) * x[other], share * labels + (1 - share) * labels[other]
