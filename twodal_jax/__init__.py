"""2DAL in JAX: 3D face reconstruction and dense face alignment from one image.

The walk goes one way (see `twodal_jax.forward`):

    image [B,120,120,3] + landmarks [B,18,2]
      -> facial landmark heatmap -> network input [B,120,120,4]
      -> regressor -> alpha [B,62] -> shape -> projected vertices and landmarks.

To use a trained model, `load` gives its two verbs, `reconstruct` and `vertices`
(`twodal_jax.reconstruction.reconstructor`). Importing this package reads no file and touches no device.
"""

__version__ = "0.1.0"


def load(checkpoint, *, morphable_model=None, which="checkpoints", detector=None):
    """A trained model, ready for pictures: a `reconstruction.reconstructor.Reconstructor`.

    Args:
      checkpoint: the folder of a run of `twodal_jax.main`.
      morphable_model: where the run's morphable model lies now; default: where it lay then.
      which: "checkpoints", the latest one, or "best", the best on the run's validation part.
      detector: what finds faces, see `reconstruction.detectors`; default: scikit-image's cascade.

    Raises:
      CheckpointError, AssetError: no run there, or another morphable model; the message says which.
    """
    from twodal_jax.checkpointing import trained_model
    from twodal_jax.reconstruction.reconstructor import Reconstructor

    trained = trained_model.load(checkpoint, morphable_model=morphable_model, which=which)
    return Reconstructor(trained, detector)
