"""Tune any torch module: a small convolutional network, from random weights, on images of handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import foretune

torch.manual_seed(0)
digits = load_digits()  # 1,797 images of 8 x 8 pixels, which come with scikit-learn
images = torch.tensor(digits.images, dtype=torch.float32).div(16).unsqueeze(1)
labels = torch.tensor(digits.target)
test = slice(1500, None)
# a real one: model = torchvision.models.resnet18(weights="DEFAULT")
model = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


@torch.no_grad()
def error_rate() -> float:
    """Share of test images that are taken for another digit."""
    return (model(images[test]).argmax(dim=1) != labels[test]).float().mean().item()


before = error_rate()
# FZOO divides by the spread of its losses, so that its learning rate is the size of a step
optimizer = foretune.FZOO(model, lr=0.03, num_directions=8)
for _ in range(200):
    rows = torch.randint(0, 1500, (256,))
    optimizer.step(lambda rows=rows: nn.functional.cross_entropy(model(images[rows]), labels[rows]))
print(f"test error {before:.3f} -> {error_rate():.3f}")
