"""The networks in Flax: the ResNet regressor, the keypoint head, the encoder and the critic.

Also BatchNorm folding and the names of PyTorch's weights. May import `geometry` and `distributed`.
"""
