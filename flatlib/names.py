"""Names that settings may have."""

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar10-jpeg")
MODELS = (
    *("softmax_regression", "mlp", "small_cnn", "small_cnn_bn", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet18"),
    *("preresnet164", "wideresnet28x10", "allcnn", "bejan_simple", "bejan_middle", "bejan_complex"),
)
MEASURES = (
    *("performance", "train_loss", "lambda_max", "lambda_min", "gauss_newton_lambda_max", "between_iterates"),
    *("cross_entropy", "cross_entropy_lambda_max", "preconditioned_lambda_max"),
    *("empirical_fisher_lambda_max", "empirical_fisher_trace"),
    *("adaptive_sharpness_linf", "normalized_adaptive_sharpness", "normalized_adaptive_sharpness_linf"),
    *("average_adaptive_sharpness", "batch_sharpness", "critical_sharpness", "input_lambda_max"),
    *("trace", "frobenius", "density", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness", "keskar_sharpness"),
    *("gradient_norm", "weight_norm", "margin", "jacobian_norm", "softmax_jacobian_norm"),
    *("jacobian_norms", "jacobian_lower_bound"),
)
AT_LOSS = "_at_loss"  # ending of a measure taken where the training loss reached `RunConfig.matched_loss`
LOSSES = ("cross_entropy", "squared", "batch_softmax")
OPTIMIZERS = ("sgd", "heavy_ball", "nesterov", "adam", "adamw", "adagrad", "adashift", "adabound")
AUGMENTATIONS = ("flip", "crop")
CHOICES = {
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "weight_decay_kind": ("l2", "decoupled"),
    "pixels": ("unit", "symmetric"),
    "subset": ("balanced", "contiguous"),
    "schedule": ("constant", "granziol", "granziol_averaging"),
    "activation": ("relu", "tanh"),
    "stop": ("train_accuracy", "train_loss", "epochs", "updates"),
    "batch_norm": ("eval", "train", "recalibrated"),
    "engine": ("lanczos", "pyhessian"),
    "precision": ("float32", "tf32", "bfloat16"),
}
