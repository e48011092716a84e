"""Temporal-difference errors and the Huber loss: pure functions of tensors.

Time runs as in rlax: `q_tm1` are the values at the state acted in, `r_t`, `discount_t` and `q_t` come after the action.
A terminal transition reaches a loss only as `discount_t = 0`.
"""

import torch
from torch import Tensor


def td_error(q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor) -> Tensor:
    """Return the error of one-step or n-step Q-learning, (B,): r + discount · max q_t − q_tm1[a].

    Args:
        q_tm1: (B, A) values of the state acted in.
        a_tm1: (B,) int64, the actions taken.
        r_t: (B,) reward, or the discounted sum of the n-step window.
        discount_t: (B,) what the bootstrapped value is multiplied by: γⁿ, or 0 after an end.
        q_t: (B, A) the target network's values of the state reached. Mnih et al. 2015, algorithm 1.
    """
    return r_t + discount_t * q_t.amax(dim=1) - _chosen(q_tm1, a_tm1)


def double_td_error(
    q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor, q_t_selector: Tensor
) -> Tensor:
    """Return the error of double Q-learning, (B,): the selector's best action, valued by `q_t`.

    `q_t_selector` (B, A) are the online network's values of the state reached; the rest is as in `td_error`.
    van Hasselt et al. 2016, equation 4.
    """
    return r_t + discount_t * _chosen(q_t, q_t_selector.argmax(dim=1)) - _chosen(q_tm1, a_tm1)


def huber(error: Tensor) -> Tensor:
    """Return 0.5 e² where |e| ≤ 1 and |e| − 0.5 beyond, elementwise: Mnih et al. 2015 clip the error to [−1, 1]."""
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none")


def _chosen(q: Tensor, actions: Tensor) -> Tensor:
    return q.gather(1, actions.unsqueeze(1)).squeeze(1)
