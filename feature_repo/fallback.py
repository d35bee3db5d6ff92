"""The fallback: a model of the request alone, for when stored features cannot be relied on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from feature_repo.errors import DeclarationError

if TYPE_CHECKING:
    from feature_repo.contract import UseCase


def fallback_reasons(use_case: UseCase) -> frozenset[str]:
    """For which of ``stale``, ``missing`` and ``outage`` the fallback answers; empty: there is no
    such model."""
    policies = {
        "stale": use_case.stale_policy,
        "missing": use_case.missing_policy,
        "outage": use_case.outage_policy,
    }
    return frozenset(reason for reason, policy in policies.items() if policy == "fallback")


def request_only(use_case: UseCase) -> UseCase:
    """The use case as its fallback knows it: the same question and label, no stored features."""
    return replace(without_fallback(use_case), features=())


def without_fallback(use_case: UseCase) -> UseCase:
    """The use case with policies that need no fallback."""
    return replace(use_case, stale_policy="refuse", missing_policy="serve", outage_policy="refuse")


def check_fallback(where: str, use_case: UseCase) -> None:
    """Refuse a fallback that has no number to read, or that no rule of the gate judges.

    Raises:
        DeclarationError: names the use case, the rule and the way out.
    """
    if not fallback_reasons(use_case):
        return
    stated = any(f.model_input and f.dtype == "number" for f in use_case.fields)
    if not stated and all(derived.categorical for derived in use_case.derived):
        raise DeclarationError(
            f"{where}: its policy is 'fallback', a model of the request alone, but no request "
            "field or derived input is a number: declare one, or another policy"
        )
    if not any(rule.metric.startswith("fallback.") for rule in use_case.gate):
        raise DeclarationError(
            f"{where}: its policy is 'fallback', but no rule of the gate judges that model: "
            "declare one, say on fallback.versus_constant.auc.low, or another policy"
        )
