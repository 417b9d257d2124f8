"""A linear model that learns the consensus: it smooths what the graph left rough, and labels new images at once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gdui.labeling.ordered import blocks, one_thread_each
from gdui.training.precision import float32_only, has_bfloat16

__all__ = ["Linear", "fit_linear", "held_out", "joined", "log_spread", "logarithms"]

Matrix = npt.NDArray[np.float32]

SPREAD = 4.0  # unit features are this long before the penalty sees them
HISTORY = 10
MANY = 256  # classes


@dataclass(frozen=True)
class Linear:
    """Class scores: inputs [n, d] @ weight [d, C] + bias [C]."""

    weight: Matrix
    bias: Matrix

    def __call__(self, inputs: Matrix) -> Matrix:
        """Log-odds of the classes, rows unnormalised [n, C]."""
        scores = torch.addmm(*map(torch.from_numpy, (self.bias, inputs, self.weight)))
        return np.asarray(scores.numpy(), np.float32)

    def odds(self, features: Matrix, opinion: Matrix, *, spread: float) -> Matrix:
        """The scores of `joined` inputs, which are not put together."""
        bias, weight, unit = map(torch.from_numpy, (self.bias, self.weight, features))
        return self._with_logs(torch.addmm(bias, unit, weight[: unit.shape[1]], alpha=SPREAD), opinion, spread)

    def by_features(self, width: int) -> Matrix:
        """What unit features [n, width] are multiplied by on their way to the scores [C, width]."""
        return np.ascontiguousarray(SPREAD * self.weight[:width].T)

    def odds_by(self, products: Matrix, opinion: Matrix, *, spread: float) -> Matrix:
        """The same scores from the products of features and `by_features` [n, C]."""
        return self._with_logs(torch.from_numpy(products) + torch.from_numpy(self.bias), opinion, spread)

    def _with_logs(self, scores: Tensor, opinion: Matrix, spread: float) -> Matrix:
        by_logs, logs = torch.from_numpy(self.weight[-opinion.shape[1] :]), torch.from_numpy(_logs(opinion))
        return np.asarray(scores.addmm_(logs, by_logs, alpha=1 / _divisor(spread)).numpy(), np.float32)


def joined(features: Matrix, opinion: Matrix, *, spread: float) -> Matrix:
    """One input of unit features [n, d] and the opinion [n, C], whose centred logs are divided by `spread`."""
    (n, d), classes = features.shape, opinion.shape[1]
    out = np.empty((n, d + classes), np.float32)
    np.multiply(features, np.float32(SPREAD), out=out[:, :d])
    np.divide(_logs(opinion), np.float32(_divisor(spread)), out=out[:, d:])
    return out


def log_spread(opinion: Matrix) -> float:
    """The standard deviation of the opinion's centred logs."""
    return float(_logs(opinion).std(dtype=np.float64))


def logarithms(probabilities: Matrix, least: float) -> Matrix:
    """log(p + least), row by row [n, C]."""
    out = np.empty(probabilities.shape, np.float32)

    def fill(rows: slice) -> None:
        np.log(probabilities[rows] + np.float32(least), out=out[rows])

    with one_thread_each() as each:
        each(fill, blocks(len(out)))
    return out


def _divisor(spread: float) -> float:
    return max(spread, 1e-6)


def _logs(opinion: Matrix) -> Matrix:
    logs = np.maximum(opinion, 1e-6)
    np.log(logs, out=logs)
    logs -= logs.mean(axis=1, keepdims=True)
    return np.asarray(logs, np.float32)


def fit_linear(inputs: Matrix, label: npt.NDArray[np.integer], classes: int, *, decay: float, rounds: int) -> Linear:
    """Multinomial regression by L-BFGS, with decay / 2 times the squared weights as the penalty.

    Of `MANY` classes or more what is multiplied is rounded to bfloat16; sums, weights and the descent are not.
    """
    narrow = classes >= MANY and not float32_only()
    rounded = _rounded if narrow else _as_it_is
    x, y = rounded(torch.from_numpy(inputs)), torch.from_numpy(label.astype(np.int64))
    turned = x.T.contiguous() if narrow else x.T
    weight, bias = torch.zeros(inputs.shape[1], classes), torch.zeros(classes)
    descent = torch.optim.LBFGS([weight, bias], max_iter=rounds, history_size=HISTORY, line_search_fn="strong_wolfe")

    def part(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and gradients by weight and bias, summed over these rows."""
        logs = torch.log_softmax(torch.addmm(rounded(bias), x[rows], rounded(weight)).float(), dim=1)
        own = logs.gather(1, y[rows, None])
        error = logs.exp_().scatter_add_(1, y[rows, None], torch.full_like(own, -1))
        return -own.double().sum(), (turned[:, rows] @ rounded(error)).double(), error.sum(dim=0).double()

    def loss() -> Tensor:
        total, by_weight, by_bias = (sum(parts) / len(x) for parts in zip(*each(part, blocks(len(x))), strict=True))
        weight.grad, bias.grad = (by_weight + decay * weight).float(), by_bias.float()
        value: Tensor = total + decay / 2 * weight.double().square().sum()
        return value

    with one_thread_each() as each:
        descent.step(loss)  # type: ignore[no-untyped-call]
    return Linear(weight.numpy(), bias.numpy())


def _as_it_is(value: Tensor) -> Tensor:
    return value


def _rounded(value: Tensor) -> Tensor:
    """To bfloat16, which a processor that can't multiply it takes as float32."""
    return value.bfloat16() if has_bfloat16("cpu") else value.bfloat16().float()


def held_out(
    inputs: Matrix, label: npt.NDArray[np.integer], classes: int, *, decay: float, rounds: int, seed: int
) -> Matrix:
    """Each image's class probabilities [N, C] by a model of the other half, which never saw that image's label."""
    order = np.random.default_rng(seed).permutation(len(inputs))
    out = np.empty((len(inputs), classes), np.float32)
    for mine, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        model = fit_linear(inputs[other], label[other], classes, decay=decay, rounds=rounds)
        out[mine] = torch.softmax(torch.from_numpy(model(inputs[mine])), dim=1).numpy()
    return out
