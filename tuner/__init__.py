"""tuner: a workbench for latent diffusion models."""

__version__ = "0.1.0"
