"""2DAL in JAX: 3D face reconstruction and dense face alignment from one image.

`twodal_jax.forward` composes the method:

    image [B,120,120,3] + landmarks [B,18,2]
      -> facial landmark heatmap -> network input [B,120,120,4]
      -> regressor -> alpha [B,62] -> shape -> projected vertices and landmarks.

`load` opens a trained model as a `Reconstructor`, whose methods are `reconstruct` and `vertices`. Importing this
package reads no file, uses no device and does not import JAX.
"""

from twodal_jax.checkpointing import LATEST

__all__ = ["Reconstructor", "__version__", "load"]
__version__ = "0.1.0"


def load(checkpoint="photos", *, morphable_model=None, which=LATEST, detector=None):
    """A trained model as a `Reconstructor`.

    Args:
      checkpoint: "photos" or "free", the networks of the package; a weights file (.safetensors); or the folder of a run
        of `twodal_jax.main`.
      morphable_model: path of the run's morphable model; default: the path in the run's config.
      which: "checkpoints", the latest one, or "best", the best on the run's validation part.
      detector: face detector, see `detection.detectors`; default: CenterFace.

    Raises:
      CheckpointError: there is no run, or it was trained with another morphable model.
      AssetError: the morphable model cannot be read.
    """
    from twodal_jax.checkpointing import trained_model
    from twodal_jax.reconstruction.reconstructor import Reconstructor

    trained = trained_model.load(checkpoint, morphable_model=morphable_model, which=which)
    return Reconstructor(trained, detector)


def __getattr__(name: str):
    """Imports `Reconstructor`, and with it JAX, at its first use."""
    if name != "Reconstructor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from twodal_jax.reconstruction.reconstructor import Reconstructor

    return Reconstructor
