"""The regressor R: image and heatmap [B, 120, 120, 4] -> whitened coefficients [B, 62].

ResNet (He et al. 2016) in three variants:
  "standard": last stage with stride 2, global average pool.
  "authors": the paper's authors': last stage with stride 1, then a 7x7 average pool with stride 2, which on their 8x8
    map covers the top left 7x7.
  "keypoints": ours, for small machines, few faces and short schedules: "standard" with a spatial-softmax head
    (`models.keypoint_head`) beside the average pool; one hidden layer reads both.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.geometry import coefficients
from twodal_jax.models.cpu import channels_first
from twodal_jax.models.keypoint_head import SpatialSoftmaxHead
from twodal_jax.models.layers import add_relu, BatchNorm, check_choice, Conv, max_pool, scaled, SHARED_MOMENTS, StemConv

STAGE_SIZES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
STAGES = 4
VARIANTS = ("authors", "standard", "keypoints")
HEAD = "head"  # name of the last layer in the parameters
HIDDEN_FEATURES = 256  # of the hidden layer of variant "keypoints"
HEATMAP_CELLS = 30  # per side: the heatmap MLP reads averages over 4 x 4 pixels


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1 with a 4 times wider output."""

    features: int
    strides: int
    bottleneck: bool
    axis_name: str | None
    dtype: jnp.dtype
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', C']."""
        out_features = self.features * (4 if self.bottleneck else 1)
        layers = (
            [(self.features, 1, 1), (self.features, 3, self.strides), (out_features, 1, 1)]
            if self.bottleneck
            else [(self.features, 3, self.strides), (self.features, 3, 1)]
        )
        y = x
        for index, (features, kernel_size, strides) in enumerate(layers):
            last = index == len(layers) - 1
            y = Conv(features, kernel_size, strides, self.dtype, self.folded, name=f"conv{index + 1}")(y)
            # A zero scale makes every block start as the identity, which stabilises short schedules.
            init = nn.initializers.zeros if last else nn.initializers.ones
            if not self.folded:
                y = BatchNorm(self.axis_name, init, name=f"norm{index + 1}")(y, train=train)
            y = y if last else nn.relu(y)
        if x.shape != y.shape:
            x = Conv(out_features, 1, self.strides, self.dtype, self.folded, name="conv_shortcut")(x)
            if not self.folded:
                x = BatchNorm(self.axis_name, name="norm_shortcut")(x, train=train)
        return add_relu(x, y)


def _remat_block(block: Block, x: jax.Array, train: bool) -> jax.Array:
    """block(x), which stores for the gradient only x and the results of all-reduces."""
    policy = jax.checkpoint_policies.save_only_these_names(SHARED_MOMENTS)
    return nn.remat(lambda block, x: block(x, train=train), policy=policy)(block, x)


def _top_left_weights(height: int, width: int, side: int = 7) -> np.ndarray:
    """[H, W] float32: weight of each position in the mean over the top left side x side."""
    weights = np.zeros((height, width), np.float32)
    weights[:side, :side] = 1 / side**2
    return weights


def _top_left_mean(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> means [B, C] over the top left 7 x 7, as a product, which is faster than a sum on a CPU."""
    batch, height, width, channels = x.shape
    weights = _top_left_weights(height, width).astype(x.dtype).ravel()
    x = x.reshape(batch, height * width, channels)
    return jnp.einsum("p,bpc->bc", weights, x, precision=jax.lax.Precision.HIGHEST)


class Regressor(nn.Module):
    """R of Fig. 2.

    Attributes:
      arch: "resnet50" or "resnet18".
      variant: "authors", "standard" or "keypoints" (see the module's docstring).
      width: multiplies every layer's features (1 is the paper's).
      dtype: of the computation; parameters and statistics stay float32.
      axis_name: mapped axis over which BatchNorm's statistics are shared, or None.
      heatmap_mlp_width: width of an MLP from the heatmap to the head; 0, the paper's network, has none. Landmark
        positions are a linear function of their heatmap, which strided convolutions with few channels blur.
      folded: whether BatchNorm is folded into the convolutions, for inference: see `models.fold_batch_norm`.
      channels_first_from: first stage, from 0, in the form of `models.cpu.channels_first` (for a folded ResNet-50 of
        the authors' variant); 4: none.
      zero_head: whether the head starts at zero.
      remat: whether the gradient recomputes residual blocks from their inputs instead of storing activations.
    """

    arch: str = "resnet50"
    variant: str = "authors"
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    heatmap_mlp_width: int = 0
    folded: bool = False
    channels_first_from: int = STAGES
    remat: bool = False
    zero_head: bool = True

    def _stage_strides(self) -> Sequence[int]:
        return (1, 2, 2, 1 if self.variant == "authors" else 2)

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Whitened coefficients [B, 62] float32 from inputs [B, 120, 120, 4]: (BGR - 127.5) / 128 and the heatmap."""
        check_choice("regressor", self.arch, tuple(STAGE_SIZES))
        check_choice("regressor variant", self.variant, VARIANTS)
        if inputs.ndim != 4 or inputs.shape[-1] != 4:
            raise ValueError(f"Expected `inputs` of shape [B, 120, 120, 4], got {inputs.shape}.")
        if train and self.folded:
            raise ValueError("A folded network has no batch statistics to train with.")
        x = StemConv(scaled(64, self.width), self.dtype, self.folded, name="conv_stem")(inputs)
        if not self.folded:
            x = BatchNorm(self.axis_name, name="norm_stem")(x, train=train)
        x = max_pool(nn.relu(x), window=3, stride=2, padding=1)
        maps = []
        for stage in range(self.channels_first_from):
            maps.append(x := self._stage(x, stage, train))
        if self.channels_first_from < STAGES:
            x = self._stages_channels_first(x)
        else:
            x = _top_left_mean(x) if self.variant == "authors" else x.mean(axis=(1, 2))
        x = x.astype(jnp.float32)
        if self.variant == "keypoints":
            keypoint_head = SpatialSoftmaxHead(self.axis_name, self.dtype, self.folded, name="keypoints")
            positions = keypoint_head(maps[1:], train=train)
            x = nn.relu(nn.Dense(HIDDEN_FEATURES, name="hidden")(jnp.concatenate([x, positions], axis=-1)))
        if self.heatmap_mlp_width:
            x = jnp.concatenate([x, self._heatmap_features(inputs[..., 3])], axis=-1)
        # A zero kernel predicts the mean face at the start. The other choice has three times the variance of PyTorch's
        # Linear: first predictions then differ so much that L_3d-con, their consistency, hardly rises from its start.
        init = nn.initializers.zeros if self.zero_head else nn.initializers.lecun_normal()
        return nn.Dense(coefficients.NUM_COEFFICIENTS, kernel_init=init, name=HEAD)(x)

    def features(self, stage: int) -> int:
        """Number of features of the 3x3 convolutions of one stage, from 0."""
        return scaled(64 * 2**stage, self.width)

    def _block_names(self, stage: int) -> list[str]:
        return [f"stage{stage + 1}_block{block + 1}" for block in range(STAGE_SIZES[self.arch][stage])]

    def _stage(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', C'] through the blocks of one stage."""
        for index, name in enumerate(self._block_names(stage)):
            block = Block(
                features=self.features(stage),
                strides=self._stage_strides()[stage] if index == 0 else 1,
                bottleneck=self.arch == "resnet50",
                axis_name=self.axis_name,
                dtype=self.dtype,
                folded=self.folded,
                name=name,
            )
            x = _remat_block(block, x, train) if self.remat and train else block(x, train=train)
        return x

    def _stages_channels_first(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, C'], the last stages and their pooled output."""
        first = self.channels_first_from
        strides = self._stage_strides()[first]
        blocks = [(name, self.features(stage)) for stage in range(first, STAGES) for name in self._block_names(stage)]
        height, width = (-(-side // strides) for side in x.shape[1:3])
        if strides > 1:
            (name, features), *blocks = blocks
            x = channels_first.EntryBlock(features, strides, name=name)(x)
        else:
            x = channels_first.to_channels_first(x)
        for name, features in blocks:
            x = channels_first.Block(features, height, width, name=name)(x)
        return channels_first.weighted_sum(x, _top_left_weights(height, width))

    def _heatmap_features(self, heatmap: jax.Array) -> jax.Array:
        """[B, 120, 120] in [-1, 1] -> [B, heatmap_mlp_width]; an empty heatmap is a zero input."""
        cells = (heatmap + 1.0).reshape(-1, HEATMAP_CELLS, 4, HEATMAP_CELLS, 4).mean(axis=(2, 4))
        x = cells.reshape(-1, HEATMAP_CELLS**2)
        for index in range(2):
            x = nn.relu(nn.Dense(self.heatmap_mlp_width, name=f"heatmap_dense{index + 1}")(x))
        return x
