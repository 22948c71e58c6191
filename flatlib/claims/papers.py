"""What the papers report, for the tables and overlays of the book. Facts as published; nothing here is measured."""

import pandas as pd

from flatlib.errors import FlatlibError

# Granziol 2020, Figures 1 and 2, by network and weight decay: test accuracy in percent, gap in points, lambda_max
GRANZIOL2020_MNIST = {
    "softmax_regression": {0.0: ("93.48", "", "12.26"), 1e-4: ("94", "", "14.17"), 5e-4: ("94.08", "", "15.84")},
    "mlp": {0.0: ("94.4", ".48", ""), 1e-4: ("96.46", ".51", ""), 5e-4: ("96.7", ".04", "")},
}
(SOFTMAX_ACCURACY, _, SOFTMAX_SHARPNESS), (MLP_ACCURACY, MLP_GAP, _) = (
    [", ".join(column) for column in zip(*decays.values(), strict=True)] for decays in GRANZIOL2020_MNIST.values()
)
TRAINING, CIFAR100, CIFAR10 = ("99.64", "99.81"), ("73.5", "75.8"), ("94.3", "95.1")  # percent, SGD and Adam
FROBENIUS = ("1.43e-5", "1.55e-3")  # SGD and Adam, as printed; only possible as squares over the number of weights
P_ACCURACY, P_SHARPNESS = ".48", ".64"  # of Bejan et al.'s Kolmogorov-Smirnov tests
TAU_FASHION, TAU_CIFAR10 = ".5", ".3"  # Bejan et al., Figure 3
VGG_CIFAR100 = f"validation {' / '.join(CIFAR100)} %, training {' / '.join(TRAINING)} %"
VGG_CIFAR10 = f"validation {' / '.join(CIFAR10)} %, “Frobenius norm” {' / '.join(FROBENIUS)}"
TAUS = f"Kendall's τ {TAU_FASHION} (FashionMNIST), {TAU_CIFAR10} (CIFAR-10)"

# What has a number in each paper; none of them has a table. The appendices of MacDonald et al. were not read.
NUMBERED = {
    "kaur2022": (*(f"Figure {n}" for n in range(1, 12)), "Appendix A.1"),
    "granziol2020": (*(f"Figure {n}" for n in range(1, 9)), "Theorem 1", "Theorem 2", "Theorem 3"),
    "macdonald2023": (
        *(f"Figure {n}" for n in range(1, 6)),
        *("Ansatz 3.1", "Theorem 4.2", "Theorem 4.3", "Theorem 5.1", "Theorem 6.1"),
    ),
    "bejan2022": tuple(f"Figure {n}" for n in range(1, 9)),
}
AUTHORS = {"Kaur": "kaur2022", "Granziol": "granziol2020", "MacDonald": "macdonald2023", "Bejan": "bejan2022"}

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
        ("Figure 1", "softmax regression, MNIST, γ = 0, 1e-4, 5e-4", f"test accuracy {SOFTMAX_ACCURACY} %"),
        ("Figure 1", "the same", f"λ_max {SOFTMAX_SHARPNESS}"),
        ("Figure 2", "MLP of 100 units, MNIST", f"accuracy {MLP_ACCURACY} %; gap {MLP_GAP} points"),
        ("Figure 3", "All-CNN, CIFAR-100", "training 86.3, 87.9, 86.0 %; gap 32.4, 32.5, 31.1 points"),
        ("Figure 4", "PreResNet-164, CIFAR-100", "test accuracy 72.78, 75.56, 76.76 %"),
        ("Figure 5", "WideResNet-28x10, CIFAR-100", "validation accuracy 75.2, 79.5, 80.6 %"),
    ],
    "Granziol 2020, section 5": [
        ("Figure 6", "VGG-16-BN, CIFAR-100, SGD / Adam", VGG_CIFAR100),
        ("Figure 6", "the same", "spectrum in [-1.43, 10.11] / [-62.2, 387.8]"),
        ("Figure 7", "VGG-16-BN, CIFAR-10, SGD / Adam", VGG_CIFAR10),
        ("Figures 6c, 7c", "both data sets", "the sharper solutions have the higher norms"),
    ],
    "Bejan et al. 2022, section III.D": [
        ("section III.D", "CIFAR-10, test accuracy, adaptive or not", f"Kolmogorov-Smirnov p = {P_ACCURACY}"),
        ("section III.D", "the same, minimum sharpness", f"Kolmogorov-Smirnov p = {P_SHARPNESS}"),
        ("Figures 4, 8", "six optimizers, sorted by mean", "SGD, AdaBound, Adam, PHB, AdaShift, AdaGrad on both"),
    ],
    "Bejan et al. 2022, sections III.B and III.C": [
        ("Figure 1", "FashionMNIST, CIFAR-10, six optimizers", "SAM better than the base optimizer everywhere"),
        ("Figure 2", "the same", "SAM's minimum sharpness significantly smaller everywhere"),
        ("Figure 3", "minimum sharpness against the gap", TAUS),
    ],
    "MacDonald et al. 2023, section 6": [
        ("Figure 2", "ResNet-18, CIFAR-10, no weight decay", "sharpness vanishes, Jacobian norm and gap stay large"),
        ("Figure 3", "ResNet-18, larger learning rates", "smaller sharpness, Jacobian norm and gap, typically"),
        ("Figure 4", "ResNet-18, larger batches", "larger ones; at the largest rate the Jacobian norm falls"),
        ("Figure 5", "ResNet-18 with BN, four regularisers", "all lower the Jacobian norm, at least initially"),
        ("Figure 5", "the same", "Jacobian norm much better correlated with the gap than sharpness"),
        ("section 6", "the same", "only SAM lowers the sharpness"),
    ],
    "MacDonald et al. 2023, section 5": [
        ("Figure 1", "VGG-11, CIFAR-10, full batch, η = 0.08", "λ_max and the softmaxed model's Jacobian norm grow"),
        ("Figure 1", "the same, with more label smoothing", "the Jacobian norm grows less, λ_max sharpens less"),
        ("Theorem 5.1", "any model that fits its targets", "the Jacobian norm must grow from a small start"),
        ("section 5", "wide networks", "less severe sharpening"),
        ("section 5", "linear (kernel) models", "no sharpening, though the Jacobian norm grows"),
    ],
    "Cohen et al. 2021, section 3": [
        ("Figure 1", "tanh and ReLU networks, CIFAR-10, full batch", "λ_max rises, then hovers at or just above 2/η"),
    ],
}


def reported(source: str) -> pd.DataFrame:
    """Return what one section reports: where, in which setting, what.

    >>> list(reported("Cohen et al. 2021, section 3").columns)
    ['where', 'setting', 'reported']
    """
    if source not in REPORTED:
        raise FlatlibError(f"nothing is on file for {source!r}; allowed: {'; '.join(REPORTED)}")
    return pd.DataFrame(REPORTED[source], columns=["where", "setting", "reported"])
