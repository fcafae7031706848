"""What is gained, and lost, by optimising against a learned reward.

d = √KL(π ‖ π_ref), in √nats per answer. "Proxy" is the learned reward, "gold" what it stands for.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["best_of_n", "best_of_n_kl", "gold_by_distance", "gold_by_distance_best_of_n"]


def best_of_n_kl(n: int) -> float:
    """KL of the policy that gives the best of n answers from the one that gives them:  log n − (n−1)/n, in nats.

    Exact where no two answers score alike, else an upper bound (Beirami et al., arXiv:2401.01879). Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"the best of {n} answers does not exist: n must be at least 1.")
    return math.log(n) - (n - 1) / n


def best_of_n(proxy_PG: Float[Tensor, "P G"], gold_PG: Float[Tensor, "P G"], *, n: int) -> float:
    """The gold reward of the answer that the proxy likes best of n, from G ≥ n answers to each of P prompts.

    Averaged over all subsets of n, not only one: with answers in the order of the proxy, the i-th of G is the best of
    C(i−1, n−1) of C(G, n) subsets (WebGPT, arXiv:2112.09332). Of answers that the proxy likes equally, each is
    chosen as often. Raises ValueError if n is below 1 or above G.
    """
    G = proxy_PG.shape[1]
    if not 1 <= n <= G:
        raise ValueError(f"n must be from 1 to the {G} answers of a prompt, not {n}.")
    share_G = torch.tensor([math.comb(i, n - 1) / math.comb(G, n) for i in range(G)], dtype=torch.float64)
    total = 0.0
    for proxy_G, gold_G in zip(proxy_PG, gold_PG.double(), strict=True):
        order_G = proxy_G.argsort()
        # equals share what their places are worth together
        _, tie_G, count_T = proxy_G[order_G].unique_consecutive(return_inverse=True, return_counts=True)
        worth_T = torch.zeros(len(count_T), dtype=torch.float64).index_add(0, tie_G, share_G) / count_T
        total += float((worth_T[tie_G] * gold_G[order_G]).sum())
    return total / len(proxy_PG)


def gold_by_distance(distance_N: Float[Tensor, "N"], gold_N: Float[Tensor, "N"]) -> tuple[float, float]:
    """α and β of  R(d) = d (α − β log d), gold gained over the reference by reinforcement learning; least squares.

    Gao et al. (arXiv:2210.10760). Rises with slope α at first and turns where α − β log d = β. Points at d = 0 are
    left out. Raises ValueError unless two different distances are left.
    """
    return _fitted(distance_N, gold_N, lambda d: d * d.log())


def gold_by_distance_best_of_n(
    distance_N: Float[Tensor, "N"], gold_N: Float[Tensor, "N"]
) -> tuple[float, float]:
    """α and β of  R(d) = d (α − β d), gold gained over the reference by the best of n; least squares.

    Gao et al. (arXiv:2210.10760), eq. 1; the distance of the best of n is the root of `best_of_n_kl`. See `gold_by_distance`.
    """
    return _fitted(distance_N, gold_N, lambda d: d * d)


def _fitted(distance_N: Tensor, gold_N: Tensor, falls) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    is_away = distance_N > 0
    d, gold = distance_N[is_away].double(), gold_N[is_away].double()
    if len(d.unique()) < 2:
        raise ValueError("two numbers are fitted, so two different distances above 0 are needed.")
    solution = torch.linalg.lstsq(torch.stack([d, -falls(d)], dim=1), gold[:, None]).solution
    return float(solution[0]), float(solution[1])
