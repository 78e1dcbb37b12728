"""The networks of 2DAL in plain PyTorch, for comparison of times only; weights come from JAX.

NCHW, PyTorch's layout; ResNet-50 in the authors' variant. Nothing is tuned.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 1))  # features, blocks, stride


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with batch normalisation and a shortcut."""

    def __init__(self, wide: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(wide, features, 1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(features, 4 * features, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        self.norm3 = nn.BatchNorm2d(4 * features)
        if wide != 4 * features:
            self.conv_shortcut = nn.Conv2d(wide, 4 * features, 1, stride, bias=False)
            self.norm_shortcut = nn.BatchNorm2d(4 * features)

    def forward(self, x):
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if hasattr(self, "conv_shortcut"):
            x = self.norm_shortcut(self.conv_shortcut(x))
        return functional.relu(x + y)


class Regressor(nn.Module):
    """[B, 4, 120, 120] -> [B, 62]: ResNet-50 whose last stage has stride 1, 7x7 average pool, stride 2."""

    def __init__(self):
        super().__init__()
        self.conv_stem = nn.Conv2d(4, 64, 7, 2, 3, bias=False)
        self.norm_stem = nn.BatchNorm2d(64)
        wide, self.names = 64, []
        for stage, (features, blocks, stride) in enumerate(STAGES):
            for block in range(blocks):
                name = f"stage{stage + 1}_block{block + 1}"
                self.add_module(name, Bottleneck(wide, features, 1 if block else stride))
                self.names.append(name)
                wide = 4 * features
        self.head = nn.Linear(wide, 62)

    def forward(self, x):
        x = functional.relu(self.norm_stem(self.conv_stem(x)))
        x = functional.max_pool2d(x, 3, 2, 1)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.head(functional.avg_pool2d(x, 7, 2).flatten(1))


class Encoder(nn.Module):
    """[B, 3, 120, 120] -> [B, 256]."""

    def __init__(self):
        super().__init__()
        wide = 3
        for index, features in enumerate((32, 64, 128, 256, 256, 256)):
            self.add_module(f"conv{index + 1}", nn.Conv2d(wide, features, 3, 1, 1))
            wide = features

    def forward(self, x):
        for index in range(6):
            x = functional.max_pool2d(functional.relu(getattr(self, f"conv{index + 1}")(x)), 2)
        return x.flatten(1)


class Critic(nn.Module):
    """(latent [B, 256], whitened [B, 62]) -> logits [B]."""

    def __init__(self):
        super().__init__()
        sizes = (256 + 62, 512, 1024, 1024, 1)
        for index in range(4):
            self.add_module(f"dense{index + 1}", nn.Linear(sizes[index], sizes[index + 1]))

    def forward(self, latent, whitened):
        x = torch.cat([latent, whitened], 1)
        for index in range(3):
            x = functional.relu(getattr(self, f"dense{index + 1}")(x))
        return self.dense4(x)[:, 0]


class EncoderCritic(nn.Module):
    """Encoder and critic as one set of parameters."""

    def __init__(self):
        super().__init__()
        self.encoder, self.critic = Encoder(), Critic()


def load(module: nn.Module, params: dict, prefix: str = "") -> None:
    """Copies a Flax module's parameters (nested dicts of arrays) into the PyTorch module of equal names."""
    own = dict(module.named_parameters())
    names = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    for name, value in params.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            load(module, value, f"{path}.")
            continue
        array = np.array(value, np.float32)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        with torch.no_grad():
            own[f"{prefix}{names[name]}"].copy_(torch.from_numpy(np.ascontiguousarray(array)))


def to_torch(array: np.ndarray) -> torch.Tensor:
    """NumPy, images NHWC -> tensor, images NCHW."""
    array = np.array(array)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array))


def supervised_step(network, inputs, true, dtype: str, *, device: str = "cpu", channels_last: bool = False):
    """A function that takes one step of `networks.supervised_step` (NumPy batch) and returns its loss, []."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=memory_format)
    inputs = to_torch(inputs).to(device, memory_format=memory_format)
    true = to_torch(true).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9)

    def step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            out = network(inputs)
        loss = ((out.float() - true) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
