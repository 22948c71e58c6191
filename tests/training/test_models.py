"""Networks by name: their sizes, the images they refuse, their training and their curvature."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import conv3x3
from torchvision.models.vgg import cfgs

from flatlib.config import RunConfig
from flatlib.curvature import HessianOperator
from flatlib.errors import FlatlibError
from flatlib.names import MODELS
from flatlib.training.models import build
from flatlib.training.models.layers import scale_width
from flatlib.training.train import train
from image_files import save

MNIST, CIFAR, GREY = (1, 28, 28), (3, 32, 32), (1, 32, 32)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def chain(channels: int, outputs: list[int], batch_norm: bool = False) -> int:
    """Convolutions 3 x 3 with biases, one after the other; batch norm adds a scale and a shift."""
    return sum(9 * i * o + o + 2 * o * batch_norm for i, o in zip([channels, *outputs], outputs, strict=False))


def vgg(letter: str, channels: int, batch_norm: bool) -> int:
    """The convolutions, then 512 -> 512 -> 512 -> 10."""
    plan = [item for item in cfgs[letter] if item != "M"]
    return chain(channels, plan, batch_norm) + 2 * (512 * 512 + 512) + 512 * 10 + 10


def bejan(channels: int, outputs: list[int], side: int, hidden: int) -> int:
    """The convolutions with batch norm, then side x side pixels -> hidden -> 10."""
    return chain(channels, outputs, True) + (outputs[-1] * side**2 + 1) * hidden + (hidden + 1) * 10


SIMPLE, MIDDLE = [16, 32, 64, 128], [16, 32, 64, 128, 256, 512]
COMPLEX = [16, 32, 32, 64, 128, 128, 256, 512, 512]


@pytest.mark.parametrize(
    ("settings", "shape", "count"),
    [
        ({"model": "softmax_regression"}, MNIST, 7850),
        ({"model": "mlp"}, MNIST, 785 * 200 + 201 * 200 + 201 * 10),
        ({"model": "mlp", "depth": 1, "width": 0.1}, (1, 8, 8), 65 * 20 + 21 * 10),
        ({"model": "mlp", "depth": 4, "width": 0.5}, MNIST, 785 * 100 + 3 * 101 * 100 + 101 * 10),
        ({"model": "small_cnn"}, CIFAR, 20794),
        ({"model": "small_cnn_bn"}, CIFAR, 20970),
        ({"model": "vgg11"}, CIFAR, vgg("A", 3, False)),
        ({"model": "vgg11_bn"}, CIFAR, vgg("A", 3, True)),
        ({"model": "vgg11"}, GREY, vgg("A", 1, False)),
        ({"model": "vgg16"}, CIFAR, vgg("D", 3, False)),
        ({"model": "vgg16_bn"}, GREY, vgg("D", 1, True)),
        ({"model": "bejan_simple"}, MNIST, bejan(1, SIMPLE, 4, 128)),
        ({"model": "bejan_simple"}, CIFAR, bejan(3, SIMPLE, 5, 128)),
        ({"model": "bejan_middle"}, MNIST, bejan(1, MIDDLE, 3, 512)),
        ({"model": "bejan_middle"}, CIFAR, bejan(3, MIDDLE, 4, 512)),
        ({"model": "bejan_complex"}, MNIST, bejan(1, COMPLEX, 3, 512)),
        ({"model": "bejan_complex"}, CIFAR, bejan(3, COMPLEX, 4, 512)),
    ],
    ids=str,
)
def test_number_of_parameters(settings, shape, count):
    network = build(RunConfig(**settings), shape, 10)
    assert parameters(network) == count
    assert network(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("model", "published"), [("allcnn", 1_387_108), ("preresnet164", 1_726_388), ("wideresnet28x10", 36_546_980)]
)
def test_published_number_of_parameters(model, published):
    network = build(RunConfig(model=model), CIFAR, 100)
    assert parameters(network) == published
    assert network(torch.zeros(1, *CIFAR)).shape == (1, 100)


def test_resnet18_equals_torchvision():
    reference = resnet18(num_classes=10)
    reference.conv1, reference.maxpool = conv3x3(3, 64), nn.Identity()
    network = build(RunConfig(model="resnet18"), CIFAR, 10)
    assert parameters(network) == parameters(resnet18(num_classes=10)) - 64 * 3 * (49 - 9)
    values = zip(network.state_dict(), reference.state_dict().values(), strict=True)
    network.load_state_dict(dict(values))
    x = torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("model", MODELS)
def test_seed_determines_initialization(model):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, same, other = (build(RunConfig(model=model, width=0.1, seed=seed), CIFAR, 10) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    first, again, second = (nn.utils.parameters_to_vector(net.parameters()) for net in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("model", MODELS[1:])
@pytest.mark.parametrize("width", [0.5, 2.0])
def test_width(model, width):
    """All sizes but those that the images and the classes give."""
    with torch.device("meta"):
        network, full = (build(RunConfig(model=model, width=w), CIFAR, 7) for w in (width, 1.0))
    weights = [[p for p in net.parameters() if p.ndim > 1] for net in (network, full)]
    for i, (weight, whole) in enumerate(zip(*weights, strict=True)):
        outputs, inputs = whole.shape[:2]
        assert weight.shape[0] == (outputs if outputs == 7 else outputs * width)
        assert weight.shape[1] == (inputs if i == 0 else inputs * width)


def test_width_is_rounded():
    assert [scale_width(200, width) for width in (0.001, 0.0021, 0.0124, 0.0126)] == [1, 1, 2, 3]


LEAST = {"small_cnn": 7, "small_cnn_bn": 7, "allcnn": 9, "bejan_simple": 16, "bejan_middle": 8, "bejan_complex": 8}
LEAST |= dict.fromkeys(("vgg11", "vgg11_bn", "vgg16", "vgg16_bn"), 32)


@pytest.mark.parametrize(("model", "least"), LEAST.items())
@pytest.mark.parametrize("missing", [(1, 1), (1, 0), (0, 1), (-20, 1)])
def test_small_images_are_refused(model, least, missing):
    with pytest.raises(FlatlibError, match=f"{model}: needs images of at least {least} x {least} pixels"):
        build(RunConfig(model=model, width=0.1), (1, *(least - pixels for pixels in missing)), 10)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("extra", [(0, 0), (1, 0), (3, 9), (20, 17)])
def test_smallest_images_fit(model, extra):
    shape = (2, *(LEAST.get(model, 1) + more for more in extra))
    network = build(RunConfig(model=model, width=0.05), shape, 4)
    assert network.eval()(torch.zeros(2, *shape)).shape == (2, 4)


WIDTH = {"preresnet164": 0.12, "wideresnet28x10": 0.02, "bejan_simple": 0.2}
PLAIN = ("softmax_regression", "mlp", "small_cnn", "vgg11", "vgg16", "allcnn")  # without batch norm
MODES = [(model, mode) for model in MODELS for mode in ("eval", "train") if mode == "eval" or model not in PLAIN]
SIDES = [(model, 32) for model in MODELS] + [(model, 28) for model in MODELS if not model.startswith("vgg")]


def tiny(model: str, **settings) -> RunConfig:
    return RunConfig(model=model, width=WIDTH.get(model, 0.05), **settings)


@pytest.mark.parametrize(("model", "side"), SIDES)
def test_every_parameter_trains(model, side, tmp_path):
    """One step of gradient descent, on grey images of 28 pixels or colour images of 32."""
    images = save(tmp_path / "x.npz", (side, side, 3) if side == 32 else (side, side))
    settings = {"batch_size": 0, "max_epochs": 1, "stop": "epochs", "measures": ("performance",)}
    config = tiny(model, dataset=images, train_size=12, **settings)
    trained = train(config, device="cpu")
    assert (trained.status, trained.updates) == ("reached", 1)
    assert np.isfinite(trained.measures["train_loss"])
    start = build(config, trained.data.image_shape, 4)
    moved = [not torch.equal(p, q) for p, q in zip(trained.model.parameters(), start.parameters(), strict=True)]
    assert sum(moved) >= 0.9 * len(moved)  # a bias before batch norm moves by rounding errors only


@pytest.mark.parametrize(("model", "batch_norm"), MODES)
def test_hessian_product_by_differences(model, batch_norm):
    """In float64, by central differences along a random direction, so short that no ReLU switches."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    network = build(tiny(model), (3, 32, 32), 5).double()
    start = nn.utils.parameters_to_vector(network.parameters()).detach()
    weights = start + 0.01 * noise(len(start))  # off the kink where a zero bias meets an image patch of zeros
    x, y, v = noise(6, 3, 32, 32), torch.arange(6) % 5, nn.functional.normalize(noise(len(start)), dim=0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network(x)  # the running statistics are now those of these images: after one step at 0.1 deep nets explode

    def operator(shift: float) -> HessianOperator:
        nn.utils.vector_to_parameters(weights + shift * v, network.parameters())
        return HessianOperator(network, "cross_entropy", (x, y), batch_norm=batch_norm)

    product = operator(0.0).matvec(v)
    change = (operator(1e-8).gradient() - operator(-1e-8).gradient()) / 2e-8
    assert torch.isfinite(product).all()
    assert (product - change).norm() <= 1e-4 * product.norm()
    assert product.norm() > 0
