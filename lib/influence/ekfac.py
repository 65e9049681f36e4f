"""EK-FAC (George et al. 2018), eigenvalue-corrected Kronecker-factored curvature, by kronfluence.

In place of H stands the empirical Fisher matrix, the mean of g g' over the training losses'
gradients, one block a layer, in the eigenbasis of the two Kronecker factors; the regulariser is
exact, l2 I. kronfluence fits the factors, of losses summed over a batch; the solve is ours, so that
scores have the sign of I and its l2 theta. Linear and Conv2d layers only.
"""

import copy
import tempfile
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from lib.influence.last_layer import LinearRisk, is_plain
from lib.influence.risk import whole
from lib.influence.solvers import NotPositiveDefinite, resolution


def ekfac(risk, damping, batch_size=200):
    """The solver in the layers of `risk`'s parameters. ValueError names one it can't treat."""
    if risk.curvature != "hessian":
        raise ValueError("method 'ekfac' has a curvature of its own: leave curvature='hessian'")
    if isinstance(risk, LinearRisk):
        model, x = risk.layer, risk.train.x[:, : risk.width]
        names = ["weight", "bias"][: len(risk.shapes)]
    else:
        model, x, names = risk.model, risk.train.x, list(risk.shapes)
    sizes = [shape.numel() for shape in risk.shapes.values()]
    offsets = dict(zip(names, [sum(sizes[:i]) for i in range(len(sizes))], strict=True))
    layers = _layers(model, names)
    batch_size = whole(batch_size, "batch_size")
    try:
        factors = _fit(model, x, risk.train.y, [path for path, _ in layers], batch_size)
    except RuntimeError:  # of a gradient that is not finite it finds no eigenvectors
        risk.check_gradients()
        raise

    blocks = []
    for path, layer in layers:
        prefix = f"{path}." if path else ""
        left, right, eigenvalues = (part.to(risk.theta) for part in factors[path])
        eigenvalues = eigenvalues + risk.l2 + damping
        least, resolved = risk.curved(eigenvalues).min().item(), resolution(eigenvalues)
        if least <= resolved:
            raise NotPositiveDefinite(least, damping, resolved)
        parts = [slice(offsets[prefix + name], offsets[prefix + name] + value.numel())
                 for name, value in layer.named_parameters()]  # fmt: skip
        blocks.append((len(layer.weight), parts, left, right, eigenvalues))

    def solve(gradients):
        solved = torch.empty_like(gradients)
        for outputs, parts, left, right, eigenvalues in blocks:
            g = torch.cat([gradients[:, part].view(-1, outputs, (part.stop - part.start) // outputs)
                           for part in parts], 2)  # fmt: skip
            s = left @ (left.T @ g @ right / eigenvalues) @ right.T
            widths = [(part.stop - part.start) // outputs for part in parts]
            for part, matrix in zip(parts, s.split(widths, 2), strict=True):
                solved[:, part] = matrix.flatten(1)
        return solved

    return solve


def treatable(model):
    """The names of the parameters that EK-FAC can treat: of Linear and plain Conv2d layers."""
    plain = {path for path, layer in model.named_modules() if _plain(layer)}
    return [name for name, _ in model.named_parameters() if name.rpartition(".")[0] in plain]


def _plain(layer):
    return is_plain(layer) or (
        is_plain(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
    )


def _layers(model, names):
    """The layers whose parameters are named; ValueError where EK-FAC can't have just these."""
    layers, left = [], set(names)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = {prefix + name for name, _ in module.named_parameters(recurse=False)}
        if not own & left:
            continue
        if not _plain(module):
            raise ValueError(
                f"method 'ekfac' can't treat {type(module).__name__} {path!r}, only Linear and "
                f"plain Conv2d: leave {', '.join(sorted(own & left))} out of parameters"
            )
        if not own <= left:
            raise ValueError(
                f"method 'ekfac' needs weight and bias of {path!r} together: "
                f"{', '.join(sorted(own - left))} is missing in parameters"
            )
        layers.append((path, module))
        left -= own
    return layers


def _fit(model, x, y, paths, batch_size):
    """kronfluence's factors by layer: both bases of eigenvectors, and the mean eigenvalues."""
    # Only where it is asked for: it takes a second to import, and half of the engine does without.
    from kronfluence import Analyzer, FactorArguments, Task, prepare_model

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return [f"0.{path}" if path else "0" for path in paths]

    task = Classification()
    # A layer is no submodule of itself, so all stand in a container.
    whole = nn.Sequential(copy.deepcopy(model)).to(memory_format=torch.contiguous_format).eval()
    whole = prepare_model(whole.requires_grad_(True), task)
    dtypes = dict.fromkeys(
        ("activation_covariance_dtype", "gradient_covariance_dtype", "per_sample_gradient_dtype",
         "lambda_dtype"), x.dtype,
    )  # fmt: skip
    settings = FactorArguments(strategy="ekfac", use_empirical_fisher=True, **dtypes)
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", FutureWarning)  # it calls torch by an older name
        analyzer = Analyzer(
            "influence", whole, task, cpu=x.device.type == "cpu", disable_tqdm=True,
            output_dir=folder,
        )  # fmt: skip
        analyzer.fit_all_factors(
            "ekfac", TensorDataset(x.cpu(), y.cpu()), factor_args=settings,
            per_device_batch_size=min(batch_size, len(x)),
        )  # fmt: skip
        found = analyzer.load_all_factors("ekfac")
    return {
        path: (
            found["gradient_eigenvectors"][name],
            found["activation_eigenvectors"][name],
            found["lambda_matrix"][name] / found["num_lambda_processed"][name],
        )
        for path, name in zip(paths, task.get_influence_tracked_modules(), strict=True)
    }
