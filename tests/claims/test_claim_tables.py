"""The tables that stand beside a verdict: tuning, tests of distributions, the papers' numbers, rank correlations."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from flatlib.claims import CLAIMS, adam_vs_sgd, minimum_sharpness, regulariser_effects, regularisers, weight_decay
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records
from synthetic_runs import SEEDS, line_of, noise, runs_of, without
from synthetic_runs_others import ADAMW, AVERAGED, SGD, adam_runs, decay_runs, minimum_runs, regulariser_runs

FOUND = {  # validation accuracy of two seeds
    (SGD, 0.01): (0.50, 0.60),
    (SGD, 0.1): (0.70, 0.40),
    (ADAMW, 0.001): (0.30, 0.30),
    (ADAMW, 0.005): (0.20, 0.45),
    (AVERAGED, 0.001): (0.60, 0.62),
    (AVERAGED, 0.005): (0.10, 0.20),
}


def tuning_runs(found=FOUND) -> pd.DataFrame:
    """Runs that tune the learning rates; None for one that diverged."""
    lines = []
    for (config, rate), values in found.items():
        for seed, value in enumerate(values):
            run = replace(config, learning_rate=rate, validation_size=10, seed=seed)
            measures = {} if value is None else {"validation_accuracy": value}
            lines.append(line_of(run, measures, status="reached" if measures else "diverged"))
    return records.table(lines)


def test_best_rate_is_chosen():
    table = adam_vs_sgd.tuning_table(tuning_runs())
    assert list(table) == ["method", "learning rate", "validation accuracy", "chosen"]
    assert [tuple(row) for row in table.itertuples(index=False)] == [
        ("SGD", 0.01, "55.0 %", "yes"),
        ("SGD", 0.1, "55.0 %", ""),  # the first of equals
        ("Adam", 0.001, "30.0 %", ""),
        ("Adam", 0.005, "32.5 %", "yes"),
        ("Adam, averaged", 0.001, "61.0 %", "yes"),
        ("Adam, averaged", 0.005, "15.0 %", ""),
    ]
    assert [adam_vs_sgd.best_rate(tuning_runs(), config) for config in (SGD, ADAMW, AVERAGED)] == [0.01, 0.005, 0.001]


def test_diverged_rate_is_not_chosen():
    runs = tuning_runs(FOUND | {(SGD, 0.01): (0.9, None), (ADAMW, 0.001): (0.9, None), (ADAMW, 0.005): (None, None)})
    assert adam_vs_sgd.best_rate(runs, SGD) == 0.1
    table = adam_vs_sgd.tuning_table(runs).set_index(["method", "learning rate"])
    assert table.loc[("SGD", 0.01)].tolist() == ["a run diverged", ""]
    assert table["chosen"].tolist() == ["", "yes", "", "", "yes", ""]
    with pytest.raises(FlatlibError, match=r"Adam: no learning rate .* diverged"):
        adam_vs_sgd.best_rate(runs, ADAMW)


def test_kinds_are_compared_by_optimizers():
    """The unit is an optimizer: twenty seeds of four optimizers are four values."""
    runs = adam_runs(False)
    table = adam_vs_sgd.kolmogorov_smirnov(runs).set_index("measure")
    six = runs[runs["stop"] == "train_loss"]
    others = ~six["optimizer"].isin(adam_vs_sgd.ADAPTIVE)
    for name, column in (("test accuracy", "test_accuracy"), ("minimum sharpness", "minimum_sharpness")):
        one, other = (six[kind].groupby("optimizer")[column].mean() for kind in (others, ~others))
        expected = ks_2samp(one, other)
        shown = [f"{expected.statistic:.2f}", f"{expected.pvalue:.2g}", "0.029"]
        assert table.loc[name].tolist() == [4, 4, *shown]
    assert table.loc["minimum sharpness", "largest distance"] == "1.00"
    papers = six[~six["optimizer"].str.startswith("another")]
    table = adam_vs_sgd.kolmogorov_smirnov(papers).set_index("measure")
    assert table.loc["minimum sharpness"].tolist() == [2, 4, "1.00", "0.13", "0.13"]
    judged = CLAIMS["07_adam_vs_sgd"].verdicts(pd.concat([runs[runs["stop"] == "epochs"], papers]))
    notes = judged.set_index("prediction")["note"].filter(like="adaptive")
    assert set(notes) == {"optimizers: 0.133, must be < 0.05"}


def test_kolmogorov_smirnov_needs_both_kinds():
    for kind, names in (("adaptive", ("adam", "adagrad")), ("not adaptive", ("sgd", "heavy_ball"))):
        table = adam_vs_sgd.kolmogorov_smirnov(adam_runs(True).query(f"optimizer in {names}"))
        assert table[kind].tolist() == [2, 2]
        assert table[["not adaptive", "adaptive"]].to_numpy().sum() == 4
        assert (table[["largest distance", "p", "smallest p"]] == "").all(axis=None)
    runs = without(adam_runs(True), "optimizer == 'adam' and seed == 0")  # an incomplete optimizer is excluded
    assert adam_vs_sgd.kolmogorov_smirnov(runs)["adaptive"].tolist() == [3, 3]
    assert adam_vs_sgd.kolmogorov_smirnov(runs.assign(status="capped"))["adaptive"].tolist() == [0, 0]


def mnist_runs() -> pd.DataFrame:
    """Softmax regression at two decays, measured for five seeds, and for one seed also for its density alone."""
    base = RunConfig(dataset="mnist", model="softmax_regression", stop="epochs", max_epochs=50, standardize=False)
    configs = grid(base, weight_decay=[0.0, 5e-4, 0.01], seed=SEEDS)
    density = [replace(config, measures=("density",)) for config in configs if config.seed == 0]

    def measures(config):
        if config.measures == ("density",):
            return {"density_node_00": 1.0}
        decay = config.weight_decay > 0
        values = {"test_accuracy": 0.9 + 0.02 * decay, "generalization_gap": 0.01, "lambda_max": 10.0 + 5 * decay}
        return {name: value * noise(config.seed) for name, value in values.items()}

    return runs_of(configs + density, measures)


def test_our_numbers_beside_the_papers():
    runs = mnist_runs()
    table = weight_decay.compare_with_paper({"small": decay_runs(True), "paper": runs})
    assert len(table) == 2  # the paper has no decay of 0.01, and small is not of MNIST
    settings = ["scale", "network", "epochs", "inputs", "γ", "n"]
    assert table[settings].to_numpy().tolist() == [
        ["paper", "softmax_regression", 50, "in [0, 1]", gamma, 5] for gamma in ("0", "0.0005")
    ]
    ours, papers = {}, {}
    for name in ("accuracy", "gap", "λ_max"):
        parts = [text.removesuffix(")").partition(" (") for text in table[f"{name} (paper)"]]
        ours[name], papers[name] = ([part[place] for part in parts] for place in (0, 2))
    assert papers == {"accuracy": ["93.48", "94.08"], "gap": ["", ""], "λ_max": ["12.26", "15.84"]}
    mean = np.mean([noise(seed) for seed in SEEDS])
    for column, values in (("accuracy", (90, 92)), ("gap", (1, 1)), ("λ_max", (10, 15))):
        for text, value in zip(ours[column], values, strict=True):
            estimate, low, high = map(float, text.replace("[", ", ").replace("]", "").replace(" ", "").split(","))
            assert estimate == pytest.approx(value * mean, rel=1e-3)
            assert low < estimate < high


@pytest.mark.parametrize("name", weight_decay.INPUTS)
def test_a_scaling_of_the_inputs_has_one_name(name):
    assert weight_decay.inputs_of(vars(RunConfig(**weight_decay.INPUTS[name]))) == name


def test_validation_images_stand_for_the_papers():
    runs = mnist_runs()
    validated = weight_decay.validated(runs.assign(validation_accuracy=runs["test_accuracy"] + 0.01))
    for column, more in (("test_accuracy", 0.01), ("generalization_gap", -0.01)):
        assert (validated[column] - runs[column]).dropna().to_numpy() == pytest.approx(more)
    assert weight_decay.validated(runs) is runs


def test_comparison_without_the_papers_networks():
    table = weight_decay.compare_with_paper({"small": decay_runs(True)})
    assert table["scale"].tolist() == ["no scale here has the paper's networks on MNIST"]
    lost = weight_decay.compare_with_paper({"paper": mnist_runs().drop(columns="lambda_max").assign(lambda_max=None)})
    assert lost["λ_max (paper)"].tolist() == ["none (12.26)", "none (15.84)"]


def test_effects_of_regularisers_add_up():
    runs = regulariser_runs(True).assign(test_accuracy=0.5)
    runs["train_loss"] = np.where(runs["sam_rho"] > 0, 0.5, 0.25)
    table = regulariser_effects.effects(runs).set_index(["regulariser", "strength"])
    assert len(table) == 9, "none is not among them"
    columns = ["training loss", "λ_max / training loss", "λ_max", "test accuracy (points)"]
    assert [float(text.split(",")[0].split()[0]) for text in table.loc[("SAM", "0.05"), columns]] == [1, -2, -1, 0]


def test_regularisers_have_names_and_strengths():
    named = regularisers.named(regulariser_runs(True)).query("seed == 0")
    assert list(zip(named["regulariser"], named["strength"], strict=True)) == [
        ("none", 0.0),
        *[("label smoothing", 0.1), ("label smoothing", 0.4), ("mixup", 0.2), ("mixup", 1.0)],
        *[("augmentation", 1.0), ("augmentation", 2.0), ("SAM", 0.05), ("SAM", 0.2)],
        ("Jacobian penalty", 1.0),
    ]
    assert regularisers.labels(named).tolist() == [
        *("none", "label smoothing 0.1", "label smoothing 0.4", "mixup 0.2", "mixup 1"),
        *("augmentation 1", "augmentation 2", "SAM 0.05", "SAM 0.2", "Jacobian penalty 1"),
    ]


def test_measures_are_ranked_against_gaps():
    runs = regulariser_runs(True).assign(
        generalization_gap=lambda table: -table["loss_gap"],
        jacobian_norm=1.0,
        softmax_jacobian_norm=None,
        softmax_jacobian_norm_mean=lambda table: -table["loss_gap"],
        gradient_norm=lambda table: table["loss_gap"].where(table["seed"] < 3),
        weight_norm=lambda table: table["loss_gap"],
    )
    table = regularisers.trackers(runs).set_index("measure")
    loss, accuracy = table["τ with the loss gap"], table["τ with the accuracy gap"]
    tau = f"{(24 - 3) / sqrt(30 * 27):.4g}"
    assert list(table.index[:2]) == ["jacobian norm mean", "jacobian norm"]
    assert loss["jacobian norm mean"] == "1, all 5 seeds"
    assert accuracy["jacobian norm mean"] == "-1, all 5 seeds"
    assert loss["lambda max"] == f"{tau}, all 5 seeds"
    assert loss["softmax jacobian norm mean"] == "-1, all 5 seeds"
    assert loss["gradient norm"] == "1, all 3 seeds"
    assert {loss[name] for name in ("jacobian norm", "softmax jacobian norm")} == {"undefined for every seed"}
    with pytest.raises(FlatlibError, match="no setting counts"):
        regularisers.trackers(runs.assign(status="capped"))


def test_coded_loss_is_judged_alike():
    stated, coded = minimum_runs(True), minimum_runs(False, "batch_softmax")
    both, claim = pd.concat([stated, coded], ignore_index=True), CLAIMS["10_minimum_sharpness"]
    assert set(claim.verdicts(minimum_sharpness.as_coded(both))["verdict"]) == {"contradicted"}
    assert minimum_sharpness.as_stated(both)["run_id"].tolist() == stated["run_id"].tolist()
    assert minimum_sharpness.as_coded(both)["run_id"].tolist() == coded["run_id"].tolist()
    named = minimum_sharpness.with_names(stated)
    assert named.groupby("training")["sam_rho"].unique().map(list).to_dict() == {"alone": [0.0], "inside SAM": [0.05]}
