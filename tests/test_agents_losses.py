"""Losses against tables worked by hand. Where nothing may be read stands 99."""

import torch

from agents.losses import double_td_error, huber, td_error

Q_TM1 = torch.tensor([[1.0, 99.0, 99.0], [99.0, 2.0, 99.0], [99.0, 99.0, 3.0]])
A_TM1 = torch.tensor([0, 1, 2])
R_T = torch.tensor([0.5, -1.0, 2.0])
DISCOUNT_T = torch.tensor([0.9, 0.5, 0.0])  # the last row is terminal


def test_td_error() -> None:
    q_t = torch.tensor([[1.0, 4.0, 2.0], [-3.0, -2.0, -5.0], [99.0, 99.0, 99.0]])
    # 0.5 + 0.9·4 − 1, −1 + 0.5·(−2) − 2, 2 − 3
    torch.testing.assert_close(td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, q_t), torch.tensor([3.1, -4.0, -1.0]))


def test_double_td_error_takes_the_selectors_action_and_the_targets_value() -> None:
    selector = torch.tensor([[0.0, 0.0, 1.0], [5.0, 0.0, 0.0], [99.0, 0.0, 0.0]])
    q_t = torch.tensor([[99.0, 99.0, 2.0], [-3.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
    # 0.5 + 0.9·2 − 1, −1 + 0.5·(−3) − 2, 2 − 3
    error = double_td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, q_t, selector)
    torch.testing.assert_close(error, torch.tensor([1.3, -4.5, -1.0]))


def test_huber() -> None:
    error = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    torch.testing.assert_close(huber(error), torch.tensor([2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 1.5]))
