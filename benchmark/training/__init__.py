"""Training of encoders: a backbone and the photos of galleries to a `checkpoint:` folder.

Identities that are held out are never trained on; how well they are told apart, before training and after each epoch,
decides which epoch is kept. The backbone as it came counts as epoch 0.
"""

from benchmark.training.result import Trained
from benchmark.training.settings import Settings
from benchmark.training.trainer import train

__all__ = ["Settings", "Trained", "train"]
