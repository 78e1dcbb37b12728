"""2DAL in JAX: 3D face reconstruction and dense face alignment from one image.

The walk goes one way (see `twodal_jax.forward`):

    image [B,120,120,3] + landmarks [B,18,2]
      -> facial landmark heatmap -> network input [B,120,120,4]
      -> regressor -> alpha [B,62] -> shape -> projected vertices and landmarks.

Importing this package reads no file and touches no device.
"""

__version__ = "0.1.0"
