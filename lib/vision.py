"""The one place that imports torchvision.

The package index's torchvision is compiled against CUDA builds of torch. Beside a CPU-only torch
its operators can't load and the import stops because two operator schemas are unknown. Nothing
here uses those operators, so declaring the schemas is enough; a matching pair never gets there.
"""

import torch

try:
    import torchvision
except RuntimeError:
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
from torchvision import datasets, models

__all__ = ["datasets", "models", "torchvision"]
