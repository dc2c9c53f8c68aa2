"""Error metrics: the Frobenius norm, weighted by second moments of inputs and by row weights."""

import torch
from jaxtyping import Float
from torch import Tensor

# This share of the mean of the moment's diagonal is added to the diagonal, so that the moment can
# be inverted even if the inputs do not span the whole space.
DAMPING = 1e-6


class Metric:
    """‖E‖² = tr(D E S Eᵀ), with S the second moment of the inputs, and D diagonal.

    With the second moment and D = 1 it is the mean squared error of the layer's outputs. D weighs
    the rows, e.g. the tokens of an embedding by their frequency. All values are float64.
    """

    def __init__(self, moment: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Damp the moment and compute its Cholesky factor.

        Args:
            moment: E[x xᵀ] (in, in); None: the identity.
            rows: positive weights of the rows (out,), the diagonal of D; None: ones.

        Raises:
            ValueError: the moment is not square, has entries that are not finite, or is not
                positive semi-definite; or a row weight is not positive and finite.
        """
        self.rows: Tensor | None = None
        if rows is not None:
            self.rows = rows.double()
            if not ((self.rows > 0) & self.rows.isfinite()).all():
                raise ValueError("the row weights must be positive and finite; add a small number")
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
        # If all inputs are zero, every weight gives the same outputs; damping by 1 makes this
        # the Frobenius norm.
        self.damping = 1.0 if mean == 0 else DAMPING * mean
        self.moment = moment + self.damping * identity
        self._root = _root(self.moment)

    def squared_norm(self, error: Float[Tensor, "rows columns"]) -> float:
        """tr(D E S Eᵀ) of a weight or of its error, (out, in)."""
        return float(self.whiten(error.detach().double()).square().sum())

    def relative_error(
        self,
        weight: Float[Tensor, "rows columns"],
        approximation: Float[Tensor, "rows columns"],
    ) -> float:
        """‖W − Ŵ‖ / ‖W‖. If ‖W‖ is zero, 0 for an exact approximation and 1 for any other."""
        norm = self.squared_norm(weight)
        error = self.squared_norm(weight.double() - approximation.double())
        return (error / norm) ** 0.5 if norm > 0 else float(error > 0)

    def whiten(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """√D W L with L Lᵀ = S, whose Frobenius norm is the norm of W in this metric."""
        whitened = weight.double() if self._root is None else weight.double() @ self._root
        return whitened if self.rows is None else self.rows.sqrt().unsqueeze(1) * whitened

    def unwhiten_left(self, left: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows rank"]:
        """The left factor of a weight, given that of the whitened weight."""
        return left if self.rows is None else left / self.rows.sqrt().unsqueeze(1)

    def unwhiten_right(self, right: Float[Tensor, "rank columns"]) -> Float[Tensor, "rank columns"]:
        """The right factor of a weight, given that of the whitened weight."""
        if self._root is None:
            return right
        return torch.linalg.solve_triangular(self._root, right, upper=False, left=False)

    def row_scales(self, group: int) -> Float[Tensor, "groups"] | None:
        """Root of the mean weight of every `group` consecutive rows; None if all weights are 1."""
        return None if self.rows is None else self.rows.view(-1, group).mean(1).sqrt()

    def times_moment(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The product W S."""
        return weight if self.moment is None else weight @ self.moment


def _root(moment: Tensor) -> Tensor:
    """The Cholesky factor L of the moment, with L Lᵀ = S.

    Raises:
        ValueError: the moment has entries that are not finite or is not positive semi-definite.
    """
    if not moment.isfinite().all():
        raise ValueError(
            f"the second moment {tuple(moment.shape)} has entries that are not finite, because "
            "activations overflowed or were NaN; compress a model whose loss on this text is "
            "finite, and use float32 if the model is in float16"
        )
    root, failed = torch.linalg.cholesky_ex(moment)
    if failed:
        least = float(torch.linalg.eigvalsh(moment)[0])
        raise ValueError(
            f"the moment {tuple(moment.shape)} is not positive semi-definite (its smallest "
            f"eigenvalue is {least:.3g}); give E[x xᵀ], the mean of outer products of the inputs"
        )
    return root


def target_weight(
    weight: Float[Tensor, "out_features in_features"],
    metric: Metric,
    cross: Float[Tensor, "in_features in_features"] | None,
) -> Float[Tensor, "out_features in_features"]:
    """The weight T that best reproduces the teacher's outputs from the student's inputs.

    Minimises E‖W t − T x‖² for the teacher's inputs t and the inputs x that the layers compressed
    so far produce. The solution is T = W E[t xᵀ] S⁻¹. A layer thereby corrects a part of the error
    of the layers before it.

    Args:
        weight: the teacher's weight W, (out, in).
        metric: with S = E[x xᵀ].
        cross: E[t xᵀ] (in, in); None: return the weight itself.
    """
    if cross is None or metric.moment is None:
        return weight.double()
    identity = torch.eye(len(cross), dtype=cross.dtype, device=cross.device)
    # The same damping as that of S, so that equal inputs leave the weight unchanged.
    damped = cross + metric.damping * identity
    return torch.linalg.solve(metric.moment, (weight.double() @ damped).T).T
