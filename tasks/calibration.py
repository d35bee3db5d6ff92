"""Raw scores to calibrated ones, by a line through them."""

from __future__ import annotations

import torch
from torch import nn


def calibrate(raw: torch.Tensor, target: torch.Tensor, binary: bool) -> tuple[float, float]:
    """Slope and intercept that fit raw scores to targets.

    Binary: Platt scaling (Platt 1999) by L-BFGS. Regression: least squares.
    """
    scores, labels = raw.cpu().double(), target.cpu().double()
    if not binary:
        centred = scores - scores.mean()
        slope = float((centred * labels).sum() / (centred * centred).sum().clamp_min(1e-12))
        return slope, float(labels.mean()) - slope * float(scores.mean())
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(
            weights[0] * scores + weights[1], labels
        )
        value.backward()
        return value

    optimizer.step(closure)
    return float(weights[0].detach()), float(weights[1].detach())
