"""The networks in Flax: ResNet regressor, keypoint head, encoder and critic.

Also BatchNorm folding and conversion of PyTorch weights. May import `geometry` and `distributed`.
"""
