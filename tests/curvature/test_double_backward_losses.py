"""Every loss of torch.nn: values and Hessians; and those composed anew agree with PyTorch's in value and gradient."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from central_differences import assert_measured, differences
from conftest import Net
from flatlib.curvature import HessianOperator
from flatlib.curvature.operators.double_backward_losses import ctc_loss, multi_margin_loss, multilabel_margin_loss

EXAMPLES = 5
CLASSES = torch.arange(EXAMPLES) % 3
generator = torch.Generator().manual_seed(0)
REAL = torch.randn(EXAMPLES, 3, generator=generator, dtype=torch.float64)
SHARES = torch.rand(EXAMPLES, 3, generator=generator, dtype=torch.float64)
SIGNS = (torch.arange(3 * EXAMPLES) % 2 * 2 - 1).double().view(EXAMPLES, 3)
LABELS = torch.tensor([[0, -1, 1], [2, 1, -1], [1, 0, 2], [-1, 0, 1], [2, -1, -1]])
WEIGHT = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def pair(loss: nn.Module):
    return lambda output, target: loss(output[:, :2], output[:, 1:], target)


def ctc(output: Tensor, target: Tensor) -> Tensor:
    scores = output.unflatten(1, (4, 3)).transpose(0, 1).log_softmax(2)
    return F.ctc_loss(scores, target, torch.full((len(output),), 4), torch.full((len(output),), 2), zero_infinity=True)


# Loss, targets, and what comes last in the network:
LOSSES = {
    "L1Loss": [(nn.L1Loss(), REAL)],
    "MSELoss": [(nn.MSELoss(), REAL)],
    "SmoothL1Loss": [(nn.SmoothL1Loss(beta=beta), REAL) for beta in (0.0, 0.7)],
    "HuberLoss": [(nn.HuberLoss(delta=0.6), REAL)],
    "NLLLoss": [(nn.NLLLoss(), CLASSES, nn.LogSoftmax(1))],
    "CrossEntropyLoss": [
        (nn.CrossEntropyLoss(), CLASSES),
        (nn.CrossEntropyLoss(label_smoothing=0.1), SHARES.softmax(1)),
    ],
    "KLDivLoss": [(nn.KLDivLoss(log_target=True), SHARES.log_softmax(1), nn.LogSoftmax(1))],
    "BCELoss": [(nn.BCELoss(), SHARES, nn.Sigmoid())],
    "BCEWithLogitsLoss": [(nn.BCEWithLogitsLoss(pos_weight=WEIGHT), SHARES)],
    "PoissonNLLLoss": [
        (nn.PoissonNLLLoss(), SHARES),
        (nn.PoissonNLLLoss(log_input=False, full=True), 4 * SHARES, nn.Softplus()),
    ],
    "GaussianNLLLoss": [(lambda f, y: F.gaussian_nll_loss(f[:, :1], y, f[:, 1:2].exp()), REAL[:, :1])],
    "SoftMarginLoss": [(nn.SoftMarginLoss(), SIGNS)],
    "HingeEmbeddingLoss": [(nn.HingeEmbeddingLoss(), SIGNS)],
    "MultiLabelMarginLoss": [(nn.MultiLabelMarginLoss(), LABELS)],
    "MultiLabelSoftMarginLoss": [(nn.MultiLabelSoftMarginLoss(), (SIGNS + 1) / 2)],
    "MultiMarginLoss": [(nn.MultiMarginLoss(p, weight=WEIGHT), CLASSES) for p in (1, 2)],
    "MarginRankingLoss": [(lambda f, y: F.margin_ranking_loss(f[:, 0] ** 2, f[:, 1], y, 2.0), SIGNS[:, 0])],
    "CosineEmbeddingLoss": [(pair(nn.CosineEmbeddingLoss(margin=-1.0)), SIGNS[:, 0])],
    "TripletMarginLoss": [
        (pair(nn.TripletMarginLoss(margin=9.0, swap=swap, p=3)), REAL[:, :2]) for swap in (True, False)
    ],
    "TripletMarginWithDistanceLoss": [(pair(nn.TripletMarginWithDistanceLoss(margin=9.0)), REAL[:, :2])],
    "CTCLoss": [(ctc, torch.tensor([[1, 2], [1, 1], [2, 1], [1, 2], [2, 2]]), nn.Linear(3, 12))],
}
SAME = {"NLLLoss2d", "LinearCrossEntropyLoss"}  # tested below: it holds weights


def test_every_loss_is_here():
    assert not set(nn.modules.loss.__all__) - set(LOSSES) - SAME


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # KLDivLoss recommends "batchmean"
@pytest.mark.parametrize("name", LOSSES)
def test_hessian_is_that_of_differences(name):
    for loss, target, *last in LOSSES[name]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), *last).double()
        assert_measured(model, loss, (torch.randn(EXAMPLES, 2, dtype=torch.float64), target))


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="new in torch 2.13")
def test_chunked_cross_entropy_of_a_linear_layer():
    """Its backward pass is computed in the forward pass, where nothing depends on it."""
    torch.manual_seed(0)
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    loss = nn.LinearCrossEntropyLoss(3, 4, options=options).double()
    model = Net(
        lambda net, x: net.loss(torch.tanh(net.linear(x)), CLASSES[: len(x)]), linear=nn.Linear(2, 3), loss=loss
    )
    x = torch.randn(EXAMPLES, 2, dtype=torch.float64)
    expected = differences(model.double(), lambda value, _: value, (x, CLASSES))
    found = HessianOperator(model, lambda value, _: value, (x, CLASSES)).to_dense()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("examples", [4, None])
def test_margin_losses_are_those_of_pytorch(reduction, examples):
    torch.manual_seed(0)
    scores = torch.randn(*([examples] if examples else []), 5, dtype=torch.float64)
    classes = torch.randint(0, 5, scores.shape[:-1])
    labels = torch.tensor([[3, 0, -1, 1, 2], [-1, 2, 2, 3, 1], [0, 1, 2, 3, 4], [2, -1, 0, 0, 0]])
    for p, weight in product((1, 2), (None, torch.rand(5, dtype=torch.float64))):
        arguments = scores, classes, p, 0.7, weight
        expected = F.multi_margin_loss(*arguments, reduction=reduction)
        torch.testing.assert_close(multi_margin_loss(*arguments, reduction=reduction), expected)
    arguments = scores, labels if examples else labels[0]
    expected = F.multilabel_margin_loss(*arguments, reduction=reduction)
    torch.testing.assert_close(multilabel_margin_loss(*arguments, reduction=reduction), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("zero_infinity", [True, False])
def test_ctc_loss_is_that_of_pytorch(reduction, padded, zero_infinity):
    """Also for an empty target, a repeated label, and a target that does not fit its input."""
    torch.manual_seed(0)
    scores = torch.randn(7, 4, 5, dtype=torch.float64, requires_grad=True)
    times, sizes = torch.tensor([7, 5, 6, 3]), torch.tensor([3, 2, 0, 4])
    target = torch.tensor([[2, 2, 2, -1], [1, 3, -1, -1], [-1, -1, -1, -1], [4, 1, 4, 3]])
    target = target if padded else target[target >= 0]
    arguments = target, times, sizes, 0, reduction, zero_infinity
    values = [loss(scores.log_softmax(2), *arguments) for loss in (ctc_loss, F.ctc_loss)]
    torch.testing.assert_close(*values)
    if zero_infinity:
        torch.testing.assert_close(*[torch.autograd.grad(value.sum(), scores)[0] for value in values])


def test_ctc_loss_of_one_example():
    torch.manual_seed(0)
    scores = torch.randn(7, 5, dtype=torch.float64).log_softmax(1)
    arguments = scores, torch.tensor([2, 1, 2]), torch.tensor(7), torch.tensor(3), 4
    torch.testing.assert_close(ctc_loss(*arguments), F.ctc_loss(*arguments))
