"""Callbacks for Lightning and transformers: with stand-ins of both, and with the real ones where they are installed."""

import importlib.util
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.errors import FlatlibError
from flatlib.measures.callbacks import lightning_callback, trainer_callback

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3))


class Base:
    """Base class of callbacks in either package: every event exists."""

    def __getattr__(self, event):
        if event.startswith("on_"):
            return lambda *arguments, **context: None
        raise AttributeError(event)


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins under the names of the packages."""
    for name in ("lightning", "lightning.pytorch", "transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lightning.pytorch"].Callback = Base
    sys.modules["transformers"].TrainerCallback = Base


def train(model, optimizer, updates, after=lambda update: None):
    torch.manual_seed(1)
    model.train()
    for update in range(1, updates + 1):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        after(update)


class LightningLoop:
    """Calls the events of a callback as Lightning's trainer does, with two batches to an update."""

    def __init__(self, callback, module, optimizers, is_global_zero=True):
        self.callback, self.module, self.optimizers, self.is_global_zero = callback, module, optimizers, is_global_zero
        self.global_step, self.loggers, self.logged = 0, [self, self], []

    def log_metrics(self, numbers, step):
        self.logged.append((step, numbers))

    def fit(self, model, optimizer, updates):
        self.callback.on_train_start(self, self.module)
        train(model, optimizer, updates, self.end)

    def end(self, update):
        self.callback.on_train_batch_end(self, self.module, None, (X, Y), 0)
        self.global_step = update
        self.callback.on_train_batch_end(self, self.module, None, (X, Y), 1)


def transformers_fit(callback, model, optimizer, updates, is_world_process_zero=True):
    state = SimpleNamespace(global_step=0, is_world_process_zero=is_world_process_zero, log_history=[])
    wrapped = SimpleNamespace(optimizer=optimizer)  # as accelerate does
    callback.on_train_begin(None, state, None, model=model, optimizer=wrapped)

    def end(update):
        state.global_step = update
        callback.on_step_end(None, state, None, model=model, optimizer=wrapped)

    train(model, optimizer, updates, end)
    return state


def check(table, model, unwatched):
    """Looks at 0, 3 and 6; numbers of the model as it is now; the same weights as without a callback."""
    assert table["update"].tolist() == [0, 3, 6]
    fresh = top_eigenvalues(HessianOperator(model, "cross_entropy", (X, Y)), seed=5)
    assert table["lambda_max"].iloc[-1] == pytest.approx(float(fresh.values[0]), rel=2e-3)
    assert table["stability_threshold"].tolist() == pytest.approx([20.0] * 3)
    for one, other in zip(model.parameters(), unwatched.parameters(), strict=True):
        assert torch.equal(one, other)


def unwatched_network():
    model = network()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 6)
    return model


def test_lightning(packages):
    model = network()
    module = SimpleNamespace(net=model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = lightning_callback("cross_entropy", (X, Y), every=3, network=lambda module: module.net)
    assert callback.table().empty
    loop = LightningLoop(callback, module, [optimizer])
    loop.fit(model, optimizer, 6)
    check(callback.table(), model, unwatched_network())
    assert [step for step, _ in loop.logged] == [0, 0, 3, 3, 6, 6]  # two loggers
    assert loop.logged[-1][1]["flatlib/lambda_max"] == callback.table()["lambda_max"].iloc[-1]


def test_lightning_with_several_optimizers_or_processes(packages):
    model = network()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)] * 2
    callback = lightning_callback("cross_entropy", [(X[:9], Y[:9]), (X[9:], Y[9:])], measures=["train_loss"])
    LightningLoop(callback, model, optimizers).fit(model, optimizers[0], 1)
    assert list(callback.table()) == ["update", "train_loss", "train_accuracy"]
    other = lightning_callback("cross_entropy", (X, Y))
    LightningLoop(other, model, optimizers, is_global_zero=False).fit(model, optimizers[0], 1)
    assert other.table().empty


def test_transformers(packages):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = trainer_callback("cross_entropy", (X, Y), every=3, above="stability")
    state = transformers_fit(callback, model, optimizer, 6)
    check(callback.table(), model, unwatched_network())
    assert [entry["step"] for entry in state.log_history] == [0, 3, 6]
    assert state.log_history[-1]["flatlib/lambda_max"] == callback.table()["lambda_max"].iloc[-1]
    assert state.log_history[-1]["flatlib/eigenvalues_above"] == 0
    other = trainer_callback("cross_entropy", (X, Y))
    assert not transformers_fit(other, model, optimizer, 1, is_world_process_zero=False).log_history


def test_a_second_training_starts_afresh(packages):
    callback = trainer_callback("cross_entropy", (X, Y), every=2, measures=["train_loss"])
    for _ in range(2):
        model = network()
        transformers_fit(callback, model, torch.optim.Adam(model.parameters()), 2)
    assert callback.table()["update"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("make", "name"), [(lightning_callback, "lightning.pytorch"), (trainer_callback, "transformers")]
)
def test_refusals(packages, monkeypatch, make, name):
    with pytest.raises(FlatlibError, match="every=0"):
        make("cross_entropy", (X, Y), every=0)
    for missing in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(FlatlibError, match=f"{name} is not installed"):
        make("cross_entropy", (X, Y))


def test_neither_package_is_imported_before_a_callback_is_made():
    names = {"lightning", "pytorch_lightning", "transformers"}
    code = f"import sys, flatlib.measures.callbacks; print({names} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_real_lightning(tmp_path):
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(callbacks):
        module = Module()
        logger = pl.loggers.CSVLogger(tmp_path)
        options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(max_steps=6, accelerator="cpu", callbacks=callbacks, logger=logger, **options)
        torch.manual_seed(1)
        trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=24))
        return module

    callback = lightning_callback("cross_entropy", (X, Y), every=3, network=lambda module: module.net)
    watched, alone = fit([callback]), fit([])
    check(callback.table(), watched.net, alone.net)
    assert "flatlib/lambda_max" in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_real_transformers(tmp_path):
    import transformers

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def fit(callbacks):
        model = Model()
        options = {"per_device_train_batch_size": 24, "max_steps": 6, "report_to": [], "use_cpu": True, "seed": 1}
        options |= {"disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "optim": "sgd"}
        arguments = transformers.TrainingArguments(
            str(tmp_path), learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0, **options
        )
        data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
        trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=callbacks)
        trainer.train()
        return model, trainer.state.log_history

    callback = trainer_callback("cross_entropy", (X, Y), every=3, network=lambda model: model.net)
    (watched, history), (alone, _) = fit([callback]), fit([])
    check(callback.table(), watched.net, alone.net)
    assert [entry["step"] for entry in history if "flatlib/lambda_max" in entry] == [0, 3, 6]
