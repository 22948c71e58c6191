"""A tiny GPT as language models are trained: tied weights, masks, padded labels, adapters, batches of every class."""

from collections import OrderedDict, UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues, trace
from flatlib.errors import FlatlibError
from flatlib.training.models.gpt import GPT, add_adapters
from flatlib.training.sums import ALPHABET, IGNORED, sums

BATCH = sums(7, digits=1, seed=0)
IDS, MASK, LABELS = BATCH["input_ids"], BATCH["attention_mask"], BATCH["labels"]
STEP = 1e-5


def gpt(kind=GPT):
    torch.manual_seed(0)
    model = kind(len(ALPHABET), context=6, width=4, heads=2, layers=1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model.double()


def token_mean(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def differences(model, value):
    """The Hessian in all that requires grad from central differences of the gradient, in the model's own call."""
    weights = [p for p in model.parameters() if p.requires_grad]
    flat = nn.utils.parameters_to_vector(weights).detach().clone()

    def gradient(at):
        nn.utils.vector_to_parameters(at, weights)
        return torch.cat([slope.flatten() for slope in torch.autograd.grad(value(), weights)])

    steps = STEP * torch.eye(len(flat), dtype=torch.float64)
    rows = [(gradient(flat + step) - gradient(flat - step)) / (2 * STEP) for step in steps]
    nn.utils.vector_to_parameters(flat, weights)
    return torch.stack(rows)


@pytest.fixture(scope="module")
def truth():
    model = gpt()
    return differences(model, lambda: token_mean(model(IDS, MASK), LABELS))


def assert_close(found, expected, tolerance=1e-6):
    assert (found - expected).norm() <= tolerance * expected.norm()


def assert_products(operator, expected, tolerance=1e-6):
    """A few products are as certain as all entries, in a hundredth of the time."""
    V = torch.randn(len(expected), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_close(operator.matmat(V).double(), expected @ V, tolerance)


def test_the_batch_has_what_language_models_have(truth):
    model = gpt()
    counts = (LABELS != IGNORED).sum(1)
    assert counts.min() < counts.max()
    assert 0 < (MASK == 0).sum() < MASK.numel() / 2
    assert model.head.weight is model.tokens.weight
    assert len(truth) == sum(p.numel() for p in model.parameters())
    padded = IDS.where(MASK == 1, 5)
    torch.testing.assert_close(token_mean(model(padded, MASK), LABELS), token_mean(model(IDS, MASK), LABELS))


@pytest.mark.parametrize("chunk_size", [None, 4, 1])
def test_hessian_of_a_mean_over_tokens(truth, chunk_size):
    operator = HessianOperator(gpt(), token_mean, BATCH, chunk_size=chunk_size)
    assert_products(operator, truth)
    if chunk_size is None:
        assert_close(operator.to_dense(), truth)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_gauss_newton_of_a_mean_over_tokens(chunk_size):
    """Of the logits' Hessian, diag(p) - p p', and the Jacobian of the counted tokens by `torch.func`."""
    model = gpt()
    operator = GaussNewtonOperator(model, token_mean, BATCH, chunk_size=chunk_size)
    named = dict(model.named_parameters())

    def counted(flat):
        pieces = flat.split([p.numel() for p in named.values()])
        weights = {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces, strict=True)}
        return torch.func.functional_call(model, weights, (IDS, MASK))[LABELS != IGNORED]

    flat = torch.cat([p.detach().flatten() for p in named.values()])
    steps = STEP * torch.eye(len(flat), dtype=torch.float64)
    with torch.no_grad():
        jacobian = torch.stack([(counted(flat + step) - counted(flat - step)) / (2 * STEP) for step in steps], -1)
        p = counted(flat).softmax(1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    assert_products(operator, (jacobian.mT @ curvature @ jacobian).mean(0))


def test_adapters_are_a_block_of_the_whole():
    model = gpt()
    add_adapters(model, rank=1)
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert [p.shape for p in adapters] == [(1, 4), (12, 1)]
    for p in adapters:
        nn.init.normal_(p)
    expected = differences(model, lambda: token_mean(model(IDS, MASK), LABELS))
    everything = [name for name, _ in model.named_parameters()]
    whole = HessianOperator(model, token_mean, BATCH, parameters=everything)
    places = torch.cat([torch.full((p.numel(),), name.endswith((".A", ".B"))) for name, p in whole.parameters.items()])
    block = whole.to_dense()[places][:, places]
    assert_close(block, expected)
    for chosen in (None, ["*.A", "*.B"]):
        assert_close(HessianOperator(model, token_mean, BATCH, parameters=chosen, chunk_size=3).to_dense(), block, 1e-9)


class Output(OrderedDict):
    """Items that are attributes as well, as the outputs of Hugging Face's models."""

    def __getattr__(self, name):
        return self[name]


class Encoding(UserDict):
    """A batch as Hugging Face's tokenizers return it."""

    def __getattr__(self, name):
        return self.data[name]


class LanguageModel(GPT):
    """A GPT called as Hugging Face calls its own."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = super().forward(input_ids, attention_mask)
        output = Output(logits=logits, past_key_values=((logits, logits),))
        return output if labels is None else Output(loss=token_mean(logits, labels), **output)


FORMS = {
    "mapping": lambda: BATCH,
    "mappings": lambda: [{name: t[i : i + 3] for name, t in BATCH.items()} for i in (0, 3, 6)],
    "encoding": lambda: Encoding(BATCH),
    "encodings": lambda: [Encoding({name: t[i : i + 3] for name, t in BATCH.items()}) for i in (0, 3, 6)],
    "pairs": lambda: [((IDS, MASK), LABELS)],
    "named inputs": lambda: [(Encoding(input_ids=IDS, attention_mask=MASK), LABELS)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_batches_and_outputs_as_of_hugging_face(truth, form, chunk_size):
    loss = lambda output, labels: token_mean(output.logits, labels)  # noqa: E731
    assert_products(HessianOperator(gpt(LanguageModel), loss, FORMS[form](), chunk_size=chunk_size), truth)


@pytest.mark.parametrize("form", ["mapping", "encoding", "encodings"])
def test_the_models_own_loss(truth, form):
    loss = lambda model, batch: model(**batch).loss  # noqa: E731
    assert_products(HessianOperator(gpt(LanguageModel), loss, FORMS[form]()), truth)
    with pytest.raises(FlatlibError, match="do not add up"):
        HessianOperator(gpt(LanguageModel), loss, FORMS[form](), chunk_size=2).gradient()
    with pytest.raises(FlatlibError, match="no outputs to linearize"):
        GaussNewtonOperator(gpt(LanguageModel), loss, FORMS[form]()).gradient()


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_padding_on_the_left(chunk_size):
    """The first rows of attention are masked out as a whole."""
    model, counts = gpt(), MASK.sum(1)
    ids, mask, labels = (
        torch.stack([row.roll(6 - int(count)) for row, count in zip(rows, counts, strict=True)])
        for rows in (IDS, MASK, LABELS)
    )
    assert (mask[:, 0] == 0).any()
    expected = differences(model, lambda: token_mean(model(ids, mask), labels))
    assert_products(HessianOperator(model, token_mean, [((ids, mask), labels)], chunk_size=chunk_size), expected)


class RootMeanSquareNorm(nn.Module):
    """Computed in float32 as in Llama, T5 and most that came after, or in the type of its input."""

    def __init__(self, norm, dtype):
        super().__init__()
        self.weight, self.dtype = norm.weight, dtype

    def forward(self, x):
        wide = x.to(self.dtype)
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def with_root_mean_squares(dtype):
    model = gpt()
    for module in model.modules():
        for name, norm in module.named_children():
            if isinstance(norm, nn.LayerNorm):
                setattr(module, name, RootMeanSquareNorm(norm, dtype))
    return model


def test_parts_in_float32():
    """What rounds to float32 inside is compared with differences that are longer than the rounding."""
    model = with_root_mean_squares(torch.float64)
    expected = differences(model, lambda: token_mean(model(IDS, MASK), LABELS))
    mixed, loss = with_root_mean_squares(torch.float32), lambda logits, labels: token_mean(logits.float(), labels)
    for dtype in (torch.float32, torch.float64):
        assert_products(HessianOperator(mixed, loss, BATCH, dtype=dtype), expected, 1e-4)


def test_wrong_derivatives_of_parts_in_float32_are_refused():
    model = with_root_mean_squares(torch.float32)
    inner = model.blocks[0].norm2.forward
    model.blocks[0].norm2.forward = lambda x: 1.1 * inner(x) - 0.1 * inner(x).detach()
    with pytest.raises(FlatlibError, match="not the derivative of the loss"):
        HessianOperator(model, token_mean, BATCH).gradient()


def test_estimates(truth):
    operator = HessianOperator(gpt(), token_mean, BATCH)
    values = torch.linalg.eigvalsh(truth)
    found = top_eigenvalues(operator, which="both", tol=1e-6)
    torch.testing.assert_close(found.values.sort().values, values[[0, -1]], rtol=1e-4, atol=0)
    estimate = trace(operator, probes=100)
    assert not estimate.exact
    assert abs(estimate.value - values.sum()) <= 4 * estimate.standard_error
