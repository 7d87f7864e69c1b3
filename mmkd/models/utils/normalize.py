"""What the losses of normalized features share."""

# Vectors shorter than this are not stretched to length 1: the gradient of a norm grows without bound towards 0.
EPS = 1e-3
