"""A judge of drawn digits: a small network trained on the true labels of the digits, and used for nothing else."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

__all__ = ["Judge"]

STEPS, BATCH, WIDTH = 800, 256, 32


class Judge:
    """Names digits [N, 8, 8, 1] in uint8, and sees them as features [N, 64]; `accuracy` is on a fifth it never saw."""

    def __init__(self, seed: int = 0) -> None:
        self.network = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1), nn.BatchNorm2d(2 * WIDTH), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * WIDTH, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)
        digits = load_digits()
        images, truth = torch.from_numpy(digits.images).float() / 8 - 1, torch.from_numpy(digits.target)
        order = np.random.default_rng(seed).permutation(len(truth))
        self.unseen, seen = order[: len(order) // 5], order[len(order) // 5 :]
        self._train(images[seen, None], truth[seen], seed)
        said = self.names(np.rint(digits.images[self.unseen] * (255 / 16)).astype(np.uint8)[..., None])
        self.accuracy = float((said == digits.target[self.unseen]).mean())

    def _train(self, images: Tensor, truth: Tensor, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parameters = [*self.network.parameters(), *self.head.parameters()]
            optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
            rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
            for _ in range(STEPS):
                rows = torch.randint(len(images), (BATCH,))
                shift = torch.randint(-1, 2, (2,)).tolist()
                seen = images[rows].roll(shift, dims=(2, 3)) + 0.1 * torch.randn(BATCH, 1, 8, 8)
                loss = F.cross_entropy(self.head(self.network(seen)), truth[rows], label_smoothing=0.05)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                rates.step()
        self.network.eval()

    @torch.no_grad()
    def features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        return np.asarray(self.network(x).numpy())

    @torch.no_grad()
    def names(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Which digit each image is."""
        return np.asarray(self.head(torch.from_numpy(self.features(images))).argmax(1).numpy())
