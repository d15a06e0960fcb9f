"""Flax NNX modules that call taps themselves, layer for layer torchvision's."""
