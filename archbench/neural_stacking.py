"""A small neural network on the members' logits: the meta-learner that papers use, with its settings.

Written in numpy: scikit-learn's MLPClassifier has no dropout, no plateau schedule, no masks for unknown labels, and
stops early on a random share of images where a patient may be on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from archbench.artifacts import Predictions
from archbench.combining import Members, loss_and_gradient, members_to_fit, one_blas_thread
from archbench.metrics.metric import Array
from archbench.out_of_fold import OutOfFold

ADAM = (0.9, 0.999, 1e-8)


@dataclass(frozen=True)
class NetworkSettings:
    """How the network is trained; the defaults are those of the stacking study that this workflow replaces.

    Attributes:
        hidden: Units of each hidden layer.
        dropout: Share of hidden units left out in training.
        epochs: At most.
        lr: Learning rate of Adam.
        plateau: Epochs without a better validation loss after which the rate is halved.
        patience: Epochs without one after which training ends.
        batch_size: Rows per step.
    """

    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.2
    epochs: int = 20
    lr: float = 1e-4
    plateau: int = 3
    patience: int = 7
    batch_size: int = 32


@dataclass(frozen=True)
class Network:
    """Hidden layers with ReLU on standardised logits.

    Attributes:
        centre: Mean of each input where it was fitted, shape (M * K,).
        scale: Standard deviation of each input, shape (M * K,).
        layers: Weights and biases.
        history: Validation loss of each epoch.
    """

    centre: Array
    scale: Array
    layers: tuple[tuple[Array, Array], ...]
    history: tuple[float, ...] = field(default=())

    def scores(self, members: Array) -> Array:
        """Return log odds of labels, or unnormalised log probabilities of classes, (N, M, K) -> (N, K)."""
        hidden = (members.reshape(len(members), -1) - self.centre) / self.scale
        return forward(hidden, self.layers)[-1]


def forward(
    inputs: Array, layers: tuple[tuple[Array, Array], ...], kept: tuple[Array, ...] | None = None
) -> list[Array]:
    """Return the inputs, each hidden layer after ReLU (and dropout), and the outputs."""
    values = [inputs]
    for k, (weights, bias) in enumerate(layers[:-1]):
        hidden = np.maximum(values[-1] @ weights + bias, 0.0)
        values.append(hidden if kept is None else hidden * kept[k])
    weights, bias = layers[-1]
    return [*values, values[-1] @ weights + bias]


def backward(
    values: list[Array],
    of_outputs: Array,
    layers: tuple[tuple[Array, Array], ...],
    kept: tuple[Array, ...] | None = None,
) -> list[tuple[Array, Array]]:
    """Return the gradients of weights and biases from those of the outputs, by the chain rule."""
    gradients: list[tuple[Array, Array]] = []
    flowing = of_outputs
    for k in range(len(layers) - 1, -1, -1):
        gradients.append((values[k].T @ flowing, flowing.sum(axis=0)))
        if k:
            flowing = (flowing @ layers[k][0].T) * (values[k] > 0)
            flowing = flowing if kept is None else flowing * kept[k - 1]
    return gradients[::-1]


def fit_network(
    source: OutOfFold,
    *,
    applied: Predictions,
    n_members: int,
    seed: int,
    settings: NetworkSettings | None = None,
) -> Network:
    """Train on the out-of-fold rows of one training seed; one group of patients chooses the epoch.

    Args:
        source: Stacked out-of-fold rows of other patients than those in `applied`.
        applied: The rows it will be applied to.
        n_members: Number of members M.
        seed: Training seed, which also starts the network's own draws.
        settings: None takes the defaults.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If there is a single group, so that no patients are left to choose the epoch.
    """
    data = members_to_fit(source, applied=applied, n_members=n_members, seed=seed)
    groups = np.unique(data.group)
    if len(groups) < 2:
        raise ValueError("a network needs a second group of patients to choose the epoch")
    with one_blas_thread():
        return train_network(data, held_out=data.group == groups[-1], seed=seed, settings=settings or NetworkSettings())


def train_network(data: Members, *, held_out: Array, seed: int, settings: NetworkSettings) -> Network:
    """Train with Adam, keep the epoch of least validation loss.

    Args:
        data: Members' scores and targets.
        held_out: Rows that choose the epoch, boolean (N,).
        seed: Of weights, order and dropout.
        settings: See `NetworkSettings`.
    """
    generator = np.random.default_rng(seed)
    flat = data.scores.reshape(len(data.scores), -1)
    centre, scale = flat[~held_out].mean(axis=0), flat[~held_out].std(axis=0)
    inputs = (flat - centre) / np.where(scale > 0, scale, 1.0)
    layers = _started(generator, (inputs.shape[1], *settings.hidden, data.scores.shape[2]))
    moments = [(np.zeros_like(w), np.zeros_like(b), np.zeros_like(w), np.zeros_like(b)) for w, b in layers]
    fit, best, best_loss = np.flatnonzero(~held_out), layers, np.inf
    lr, since, steps, history = settings.lr, 0, 0, []
    for _ in range(settings.epochs):
        order = generator.permutation(fit)
        for start in range(0, len(order), settings.batch_size):
            rows, steps = order[start : start + settings.batch_size], steps + 1
            gradients = _step(inputs[rows], data.targets[rows], layers, data.multilabel, settings.dropout, generator)
            layers, moments = _adam(layers, gradients, moments, lr=lr, step=steps)
        predicted = forward(inputs[held_out], layers)[-1]
        history.append(loss_and_gradient(predicted, data.targets[held_out], multilabel=data.multilabel)[0])
        since = 0 if history[-1] < best_loss else since + 1
        if since == 0:
            best, best_loss = layers, history[-1]
        elif since % settings.plateau == 0:
            lr *= 0.5
        if since >= settings.patience:
            break
    return Network(centre, np.where(scale > 0, scale, 1.0), best, tuple(history))


def _started(generator: np.random.Generator, sizes: tuple[int, ...]) -> tuple[tuple[Array, Array], ...]:
    """He's initial weights, biases 0."""
    return tuple((generator.normal(size=(a, b)) * np.sqrt(2.0 / a), np.zeros(b)) for a, b in pairwise(sizes))


def _step(
    inputs: Array,
    targets: Array,
    layers: tuple[tuple[Array, Array], ...],
    multilabel: bool,
    dropout: float,
    generator: np.random.Generator,
) -> list[tuple[Array, Array]]:
    kept = tuple(
        (generator.random((len(inputs), weights.shape[1])) >= dropout) / (1.0 - dropout) for weights, _ in layers[:-1]
    )
    values = forward(inputs, layers, kept)
    _, gradient = loss_and_gradient(values[-1], targets, multilabel=multilabel)
    return backward(values, gradient, layers, kept)


def _adam(
    layers: tuple[tuple[Array, Array], ...],
    gradients: list[tuple[Array, Array]],
    moments: list[tuple[Array, Array, Array, Array]],
    *,
    lr: float,
    step: int,
) -> tuple[tuple[tuple[Array, Array], ...], list[tuple[Array, Array, Array, Array]]]:
    """One step of Adam (Kingma and Ba, 2015)."""
    first, second, epsilon = ADAM
    updated, kept = [], []
    for (weights, bias), (of_weights, of_bias), (mw, mb, vw, vb) in zip(layers, gradients, moments, strict=True):
        mw, mb = first * mw + (1 - first) * of_weights, first * mb + (1 - first) * of_bias
        vw, vb = second * vw + (1 - second) * of_weights**2, second * vb + (1 - second) * of_bias**2
        rate = lr * np.sqrt(1 - second**step) / (1 - first**step)
        updated.append((weights - rate * mw / (np.sqrt(vw) + epsilon), bias - rate * mb / (np.sqrt(vb) + epsilon)))
        kept.append((mw, mb, vw, vb))
    return tuple(updated), kept
