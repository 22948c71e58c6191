"""How exactly float32 numbers are multiplied: in full, unless a configuration asks for less in its training steps."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

ON_GPU = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
PRECISION_SWITCHES = (
    *ON_GPU,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.rnn,
)


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Products of float32 numbers in float32; PyTorch's default takes TF32 for convolutions on a GPU."""
    return _switched(PRECISION_SWITCHES, "ieee")


def step_precision(precision: str) -> contextlib.AbstractContextManager[None]:
    """How a training step of a `RunConfig.precision` multiplies float32 numbers; on a CPU there is no TF32, and
    nothing changes."""
    return _switched(ON_GPU, "tf32") if precision == "tf32" else contextlib.nullcontext()


@contextlib.contextmanager
def _switched(switches: tuple, precision: str) -> Iterator[None]:
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = precision
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            switch.fp32_precision = old


class Bfloat16(nn.Module):
    """A network whose forward pass is autocast to bfloat16 and gives float32; weights and gradients stay float32.

    Weights are cast at every use: PyTorch would keep the cast ones as long as any autocast lasts that surrounds this
    one, even one that is off, as `reproducible` opens it, and every step would train the weights of the first.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs, in float32."""
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.model(x).float()
