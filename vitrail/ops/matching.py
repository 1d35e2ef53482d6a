"""The assignment of predictions to targets that costs least, each of either taken at most once."""
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vitrail.core.errors import TrainingError


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest assignment for costs (N, M): min(N, M) pairs, as rows, ascending, and their columns.

    Exact (a modified Jonker-Volgenant algorithm, on the CPU in float64), and without gradient: the choice is constant
    where it does not jump. A cost of +inf forbids a pair. Returns whole numbers on the device of `cost`.
    Raises TrainingError where a cost is nan or -inf, or where forbidden pairs leave no assignment.
    """
    if cost.ndim != 2:
        raise ValueError(f"costs have rows and columns, not the shape {tuple(cost.shape)}")
    table = cost.detach().to("cpu", torch.float64)
    if (bad := int((table.isnan() | (table == -torch.inf)).sum())):
        raise TrainingError(f"{bad} of {table.numel()} costs of an assignment are no numbers: the predictions that "
                            "they are made of have become infinite or nan; a smaller learning rate may help")
    try:
        rows, columns = linear_sum_assignment(table.numpy())
    except ValueError as e:
        raise TrainingError("the costs of an assignment forbid so many pairs that none is left") from e
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)
