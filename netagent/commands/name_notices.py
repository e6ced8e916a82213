"""Warnings of `status` and `lookup` about names that several containers claim. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netagent.interface import schema
from netagent.registry.shared_names import CURE, SharedName

SHOWN: Final = 10
"""Names shown one by one; of further ones the notice gives the number."""


def name_notices(found: Sequence[SharedName]) -> list[schema.Notice]:
    """Return one notice for each name, and one for those beyond SHOWN."""
    notices: list[schema.Notice] = [
        {"code": "shared-name", "message": one.text, "cure": CURE} for one in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        message = f"several containers claim the same name, {len(found) - SHOWN} times more"
        notices.append({"code": "shared-name", "message": message, "cure": "`netagent doctor` lists them"})
    return notices
