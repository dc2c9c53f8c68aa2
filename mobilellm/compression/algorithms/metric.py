"""Error metrics: the Frobenius norm, or weighted by the second moment of the layer's inputs."""

import torch
from torch import Tensor

# This share of the mean of the diagonal is added to it, so that unseen directions stay finite.
DAMPING = 1e-6


class Metric:
    """‖E‖² = tr(E S Eᵀ), with S the second moment of the layer's inputs, or S = 1 without one.

    With S it is the mean square error of the layer's outputs. All values are float64.
    """

    def __init__(self, moment: Tensor | None = None) -> None:
        """Damp and factor the moment.

        Args:
            moment: E[x xᵀ] (in, in); None: the plain Frobenius norm.

        Raises:
            ValueError: a moment that is not square, has entries that are not finite, or is not
                positive semi-definite.
        """
        self.moment: Tensor | None = None
        self.damping = 0.0
        """The number that is added to the diagonal of the moment."""
        self._root: Tensor | None = None
        if moment is None:
            return
        if moment.dim() != 2 or moment.shape[0] != moment.shape[1]:
            raise ValueError(f"moment has shape {tuple(moment.shape)}; give (in, in)")
        moment = moment.double()
        identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        mean = float(moment.diagonal().mean())
        # Inputs that are always zero leave every weight free: the nearest in norm is taken.
        self.damping = 1.0 if mean == 0 else DAMPING * mean
        self.moment = moment + self.damping * identity
        self._root = _root(self.moment)

    def squared_norm(self, error: Tensor) -> float:
        """tr(E S Eᵀ) of a weight or its error (out, in)."""
        return float(self.whiten(error.detach().double()).square().sum())

    def relative_error(self, weight: Tensor, approximation: Tensor) -> float:
        """‖W − Ŵ‖ / ‖W‖; 0 if both are zero."""
        norm = self.squared_norm(weight)
        error = self.squared_norm(weight.double() - approximation.double())
        return (error / norm) ** 0.5 if norm > 0 else float(error > 0)

    def whiten(self, weight: Tensor) -> Tensor:
        """W L, with L Lᵀ = S: its Frobenius norm is the metric's."""
        return weight.double() if self._root is None else weight.double() @ self._root

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        if self._root is None:
            return whitened
        return torch.linalg.solve_triangular(self._root, whitened, upper=False, left=False)

    def times_moment(self, weight: Tensor) -> Tensor:
        """W S."""
        return weight if self.moment is None else weight @ self.moment


def _root(moment: Tensor) -> Tensor:
    """L with L Lᵀ = S.

    Raises:
        ValueError: there is none.
    """
    if not moment.isfinite().all():
        raise ValueError(
            f"the second moment {tuple(moment.shape)} has entries that are not finite: the "
            "activations that it is the mean of overflowed or were NaN; compress a model whose "
            "loss on this text is finite, in float32 if it was float16"
        )
    root, failed = torch.linalg.cholesky_ex(moment)
    if failed:
        least = float(torch.linalg.eigvalsh(moment)[0])
        raise ValueError(
            f"the moment {tuple(moment.shape)} is not positive semi-definite (its smallest "
            f"eigenvalue is {least:.3g}); give E[x xᵀ], the mean of outer products of the inputs"
        )
    return root


def target_weight(weight: Tensor, metric: Metric, cross: Tensor | None) -> Tensor:
    """The weight that best turns the inputs seen now into the teacher's outputs.

    Minimises E‖W t − T x‖² for the teacher's inputs t and the inputs x that already compressed
    layers deliver: T = W E[t xᵀ] S⁻¹. What later layers can still mend of the error of earlier
    ones is mended so.

    Args:
        weight: the teacher's (out, in).
        metric: with S = E[x xᵀ].
        cross: E[t xᵀ] (in, in); None: the weight itself.
    """
    if cross is None or metric.moment is None:
        return weight.double()
    identity = torch.eye(len(cross), dtype=cross.dtype, device=cross.device)
    # Damped as S is: equal inputs leave the weight as it is.
    damped = cross + metric.damping * identity
    return torch.linalg.solve(metric.moment, (weight.double() @ damped).T).T
