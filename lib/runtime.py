"""How networks are run: on which device, in which precision, eager or compiled.

On a GPU a study's networks run in bf16 and compiled, as its profile says; on a CPU in plain fp32.
Compiled code takes the weights as arguments, so that a process compiles once for all networks of
an architecture: one graph to train, one to attack, one to predict.
"""

from contextlib import contextmanager
from functools import cache

import torch

from lib import checks

PRECISIONS = ("fp32", "bf16")
BF16_SHARE = 2  # times eager bf16's own rounding error that the compiled code may be off


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def accelerated():
    """Whether profiles are followed in their precision and compilation: on a GPU alone."""
    return device().type == "cuda"


def set_up(precision):
    """The process's switches: fp32 repeatable to the bit and without TF32, bf16 at full speed."""
    exact = checks.one_of(precision, PRECISIONS, "precision") == "fp32"
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not exact
    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cuda.matmul.allow_tf32 = False  # the last layer is in fp32 whatever the body


def mixed(x, precision):
    """Autocast to the network's precision, where `x` is."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16")


def how(model):
    """How a model is run, in words for a record: "" for eager fp32."""
    words = [model.precision] if getattr(model, "precision", "fp32") != "fp32" else []
    words += ["compiled"] if getattr(model, "compiled", {}) else []
    return "".join(f", {word}" for word in words)


def forward(model, x):
    """`model(x)`, compiled where `x` is a batch of the size that the model is compiled for.

    In eval mode, where examples do not know each other, a smaller one is filled up. All others
    run eagerly, so that no odd batch makes torch compile, or cuDNN choose its algorithms, again.
    ValueError where it gives no logits `[s, k]`.
    """
    n, size = len(x), getattr(model, "compiled", {}).get(model.training, 0)
    if not model.training and n == 0:  # not every network can look at no image
        return _logits(model(torch.cat([x, x.new_zeros(1, *x.shape[1:])])), 1)[:0]
    if not (n == size or (not model.training and n < size)):
        return _logits(model(x), n)
    if n < size:
        x = torch.cat([x, x.new_zeros(size - n, *x.shape[1:])])
    # One layout in memory, whatever the augmentation left: another one is compiled anew.
    x = x.contiguous(memory_format=torch.channels_last)
    return _logits(_compiled()(model, x), size)[:n]


def _logits(outputs, n):
    tensor = torch.is_tensor(outputs)
    if not (tensor and outputs.is_floating_point() and outputs.ndim == 2 and len(outputs) == n):
        got = f"{outputs.dtype} {list(outputs.shape)}" if tensor else type(outputs).__name__
        raise ValueError(
            "the network must give floating-point logits [s, k] of at least 2 classes, "
            f"got {got} of {n} images"
        )
    return outputs


def batch(model, size=None):
    """How many images a prediction takes at once: what the model is compiled for, else 1,000."""
    if size is not None:
        return checks.count(size, "batch_size")
    return getattr(model, "compiled", {}).get(False, 1000)


@cache
def _compiled():
    import torch._dynamo

    # A graph for each kind of call and architecture; beyond its limit torch runs eagerly, unsaid.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(_call, dynamic=False)


def _call(model, x):
    return model(x)


def warm_up(model, shape):
    """Compile, for all networks of this one's kind, what training, attacks and predictions call.

    On random images of `shape`, in batches of the sizes in `model.compiled`; the model's own
    weights are of no use afterwards. RuntimeError if compiled logits are not the eager ones.
    """
    where = next(model.parameters()).device
    rng = torch.Generator(where).manual_seed(0)
    learnt, seen = (
        torch.rand(model.compiled[training], *shape, generator=rng, device=where)
        for training in (True, False)
    )
    with memory_for("training: batch_size:", len(learnt)):
        forward(model.train(), learnt).logsumexp(1).sum().backward()
    model.eval().requires_grad_(False)
    with memory_for("sweep: batch:", len(seen)):
        torch.autograd.grad(forward(model, seen.requires_grad_()).logsumexp(1).sum(), seen)
        with torch.no_grad():
            _check(model, seen.detach(), forward(model, seen.detach()))


def _check(model, x, compiled):
    eager, precision = model(x), getattr(model, "precision", "fp32")
    model.precision = "fp32"
    exact = model(x)
    model.precision = precision
    allowed = BF16_SHARE * (eager - exact).abs().max() + 1e-4 * exact.abs().max()
    off = (compiled - exact).abs().max()
    if not off <= allowed:
        raise RuntimeError(
            f"compiled logits are {off:.2g} off the exact ones, eager ones {allowed:.2g} at most: "
            "set compile: false in the profile's sweep"
        )


def memory():
    """Bytes that linear algebra may take: half of what a GPU has free, 2 GiB on a CPU."""
    if device().type != "cuda":
        return 2 * 2**30
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return (torch.cuda.mem_get_info()[0] + unused) // 2


@contextmanager
def memory_for(setting, size):
    """Name the setting that takes too much memory where the device runs out of it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{setting} {size} takes more memory than {device().type} has: choose a smaller one"
        ) from error
