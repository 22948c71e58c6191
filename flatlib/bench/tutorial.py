"""The loop of PyTorch's tutorials, in a process of its own: nothing that this package sets reaches it."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.precision import Bfloat16, full_precision, step_precision
from flatlib.training.data import Data, load
from flatlib.training.models import build


class Pictures(Dataset):
    """Images as a data set on disk gives them, and torchvision's usual transforms."""

    def __init__(self, data: Data):
        low, high = data.x_train.min(), data.x_train.max()
        pixels = ((data.x_train - low) / (high - low) * 255).byte().permute(0, 2, 3, 1).cpu().contiguous().numpy()
        self._images = [Image.fromarray(image.squeeze()) for image in pixels]
        self._labels = data.y_train.tolist()
        channels = data.x_train.shape[1]
        self._transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,) * channels, (0.25,) * channels)]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._images[index]), self._labels[index]


@contextmanager
def tutorial(config: RunConfig, device: torch.device) -> Iterator[Callable[[int], None]]:
    """A call that takes one epoch, as long as the process lives.

    It has the images, the network, the precision and the number of threads of `flatlib.training.train`, and otherwise PyTorch as
    it comes: its kernels need not be deterministic, and the C library gives freed memory back.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_epochs, args=(there, config, device, torch.get_num_threads()), daemon=True)
    process.start()
    there.close()

    def epoch(repeat: int) -> None:
        try:
            here.send(repeat)
            here.recv()
        except (EOFError, OSError):
            raise FlatlibError("the process of the tutorial's loop ended early; what it met is printed above") from None

    try:
        yield epoch
    finally:
        here.close()
        process.join()


def _epochs(asked: Connection, config: RunConfig, device: torch.device, threads: int) -> None:
    torch.set_num_threads(threads)
    data = load(config, device)
    network = build(config, tuple(data.x_train.shape[1:]), data.classes).to(device).train()
    epoch = tutorial_epoch(network, config, data)
    with full_precision():
        while True:
            try:
                repeat = asked.recv()
            except EOFError:  # nobody asks any more
                return
            epoch()
            asked.send(repeat)


def tutorial_epoch(network: nn.Module, config: RunConfig, data: Data) -> Callable[[], None]:
    """PyTorch's "Training a classifier": a loader in this process, and the loss asked for at every step."""
    place = data.x_train.device
    loader = DataLoader(Pictures(data), batch_size=config.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=config.learning_rate)
    criterion = nn.CrossEntropyLoss()
    called = Bfloat16(network) if config.precision == "bfloat16" else network

    def epoch() -> None:
        running = 0.0
        for inputs, labels in loader:
            inputs, labels = inputs.to(place), labels.to(place)
            with step_precision(config.precision):
                optimizer.zero_grad()
                loss = criterion(called(inputs), labels)
                loss.backward()
                optimizer.step()
            running += loss.item()

    return epoch
