"""What the papers report, for the tables and overlays of the book. Facts as published; nothing here is measured."""

import pandas as pd

from flatlib.errors import FlatlibError

REPORTED = {
    "Kaur et al. 2022, section 3.1": [
        ("Figure 1", "VGG-11, CIFAR-10, batch 100", "accuracy rises with the learning rate, λ_max falls"),
        ("Figure 1", "the same, batch 5000", "accuracy reaches a plateau, λ_max lies on 2/η"),
        ("Figure 2", "both batch sizes", "at equal λ_max, batch 100 has the much better accuracy"),
        ("Figure 3", "batch sizes in between", "the benefit of a large rate fades, λ_max falls throughout"),
    ],
    "Kaur et al. 2022, section 3.2": [
        ("Figure 4", "VGG-11, CIFAR-10, fixed batch size / η", "similar accuracies, λ_max falls as both grow"),
        ("Figure 5", "the same at 20,000, η from .005 to .025", "λ_max smallest at .025, largest at .005, throughout"),
    ],
    "Kaur et al. 2022, section 3.3": [
        ("Figure 6", "VGG-11, CIFAR-10, SAM at η = 0.005", "λ_max falls with ρ at batch 100 and 5000"),
        ("Figure 6", "the same", "accuracy rises with ρ at batch 100, falls slightly at 5000"),
        ("Figure 7", "the same at η = 0.05", "consistent with Figure 6"),
    ],
    "Kaur et al. 2022, section 3.4": [
        ("Figure 8", "MLP, CIFAR-10, batch 100", "slight benefits up to p = 0.2, λ_max falls with p"),
        ("Figure 8", "the same at η = 0.1", "p = 0.7 is flatter than p = 0.1, and worse"),
        ("Figure 9", "the same, larger batch", "consistent with Figure 8"),
    ],
    "Kaur et al. 2022, section 3.5": [
        ("Figure 10", "VGG-11 with and without BN, batch 100", "λ_max highly similar for most η"),
        ("Figure 11", "the same, batch 5000", "λ_max equivalent for most η"),
        ("Figures 10, 11", "both batch sizes", "BN is worse at small η and better at large η"),
    ],
    "Granziol 2020, section 4": [
        ("Figure 1", "softmax regression, MNIST, γ = 0, 1e-4, 5e-4", "test accuracy 93.48, 94, 94.08 %"),
        ("Figure 1", "the same", "λ_max 12.26, 14.17, 15.84"),
        ("Figure 2", "MLP of 100 units, MNIST", "accuracy 94.4, 96.46, 96.7 %; gap .48, .51, .04 points"),
        ("Figure 3", "All-CNN, CIFAR-100", "training 86.3, 87.9, 86.0 %; gap 32.4, 32.5, 31.1 points"),
        ("Figure 4", "PreResNet-164, CIFAR-100", "test accuracy 72.78, 75.56, 76.76 %"),
        ("Figure 5", "WideResNet-28x10, CIFAR-100", "validation accuracy 75.2, 79.5, 80.6 %"),
    ],
    "Granziol 2020, section 5": [
        ("Figure 6", "VGG-16-BN, CIFAR-100, SGD / Adam", "validation 73.5 / 75.8 %, training 99.64 / 99.81 %"),
        ("Figure 6", "the same", "spectrum in [-1.43, 10.11] / [-62.2, 387.8]"),
        ("Figure 7", "VGG-16-BN, CIFAR-10, SGD / Adam", "validation 94.3 / 95.1 %, ‖H‖²/n 1.43e-5 / 1.55e-3"),
    ],
    "Bejan et al. 2022, section III.D": [
        ("Figure 4", "CIFAR-10, test accuracy, adaptive or not", "Kolmogorov-Smirnov p = .48"),
        ("Figure 4", "the same, minimum sharpness", "Kolmogorov-Smirnov p = .64"),
    ],
    "Bejan et al. 2022, sections III.B and III.C": [
        ("Figure 1", "FashionMNIST, CIFAR-10, six optimizers", "SAM better than the base optimizer everywhere"),
        ("Figure 2", "the same", "SAM's minimum sharpness significantly smaller everywhere"),
        ("Figure 3", "minimum sharpness against the gap", "Kendall's τ .5 (FashionMNIST), .3 (CIFAR-10)"),
    ],
    "MacDonald et al. 2023, section 6": [
        ("Figure 2", "ResNet-18, CIFAR-10, no weight decay", "sharpness vanishes, Jacobian norm and gap stay large"),
        ("Figure 5", "ResNet-18 with BN, four regularisers", "all lower the Jacobian norm, at least initially"),
        ("Figure 5", "the same", "Jacobian norm much better correlated with the gap than sharpness"),
        ("section 6", "the same", "only SAM lowers the sharpness"),
    ],
    "MacDonald et al. 2023, section 5": [
        ("Figure 1", "VGG-11, CIFAR-10, full batch, η = 0.08", "λ_max and the softmaxed model's Jacobian norm grow"),
        ("Theorem 5.1", "any model that fits its targets", "the Jacobian norm must grow from a small start"),
        ("section 5", "wide networks", "less severe sharpening"),
        ("section 5", "linear (kernel) models", "no sharpening, though the Jacobian norm grows"),
    ],
    "Cohen et al. 2021, section 3": [
        ("Figure 1", "tanh and ReLU networks, CIFAR-10, full batch", "λ_max rises, then hovers at or just above 2/η"),
    ],
}


def reported(source: str) -> pd.DataFrame:
    """What one section reports: where, in which setting, what.

    >>> list(reported("Cohen et al. 2021, section 3").columns)
    ['where', 'setting', 'reported']
    """
    if source not in REPORTED:
        raise FlatlibError(f"nothing is on file for {source!r}; allowed: {'; '.join(REPORTED)}")
    return pd.DataFrame(REPORTED[source], columns=["where", "setting", "reported"])
