"""A judge of drawn pictures: a small network trained on true labels, and used for nothing else."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Judge"]

STEPS, BATCH, WIDTH, FEATURES = 800, 256, 32, 64


class Judge:
    """Names pictures [N, S, S, C] in uint8, and sees them as features [N, 64].

    `accuracy` is on a fifth of its pictures, which it never saw. `mirror`: a picture is as good turned left to right.
    """

    def __init__(
        self,
        pictures: npt.NDArray[np.uint8],
        truth: npt.NDArray[np.integer],
        seed: int = 0,
        *,
        mirror: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device, self.mirror = torch.device(device), mirror
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = convolutions(pictures.shape[1], pictures.shape[3]).to(self.device)
            self.head = nn.Linear(FEATURES, int(truth.max()) + 1).to(self.device)
            order = np.random.default_rng(seed).permutation(len(truth))
            self.unseen, seen = order[: len(order) // 5], order[len(order) // 5 :]
            self._train(torch.from_numpy(pictures[seen]), torch.from_numpy(truth[seen]).to(self.device))
        self.accuracy = float((self.names(pictures[self.unseen]) == truth[self.unseen]).mean())

    def _train(self, pictures: Tensor, truth: Tensor) -> None:
        parameters = [*self.network.parameters(), *self.head.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        reach = max(1, pictures.shape[1] // 8)
        for _ in range(STEPS):
            rows = torch.randint(len(pictures), (BATCH,))
            shift = torch.randint(-reach, reach + 1, (2,)).tolist()
            seen = self._ready(pictures[rows]).roll(shift, dims=(2, 3))
            if self.mirror:
                turned = (torch.rand(BATCH, 1, 1, 1) < 0.5).to(self.device)
                seen = torch.where(turned, seen.flip(3), seen)
            loss = F.cross_entropy(
                self.head(self.network(seen + 0.1 * torch.randn_like(seen))), truth[rows.to(self.device)],
                label_smoothing=0.05,
            )  # fmt: skip
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            rates.step()
        self.network.eval()

    def _ready(self, pictures: Tensor) -> Tensor:
        return pictures.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def features(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        parts = [self.network(self._ready(part)) for part in torch.from_numpy(pictures).split(BATCH)]
        return np.asarray(torch.cat(parts).cpu().numpy())

    @torch.no_grad()
    def names(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Which class each picture is of."""
        features = torch.from_numpy(self.features(pictures)).to(self.device)
        return np.asarray(self.head(features).argmax(1).cpu().numpy())


def convolutions(side: int, channels: int) -> nn.Sequential:
    """Pairs of convolutions, twice as wide after each halving, down to two or three pixels; then 64 features."""
    layers: list[nn.Module] = []
    width = WIDTH
    while side > 3:
        for wide in (channels, width):
            layers += [nn.Conv2d(wide, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        channels, width, side = width, 2 * width, side // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, FEATURES), nn.ReLU())
