"""What `status` and `lookup` say of names that lead somewhere else than is expected. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netagent.control import schema
from netagent.registry.shared_names import CURE, SharedName

SHOWN: Final = 10
"""Names told one by one; of more their number is told."""


def name_notices(found: Sequence[SharedName]) -> list[schema.Notice]:
    """One for each name, and one for those beyond SHOWN."""
    notices: list[schema.Notice] = [
        {"code": "shared-name", "message": one.text, "cure": CURE} for one in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        message = f"and {len(found) - SHOWN} more names that several containers claim"
        notices.append({"code": "shared-name", "message": message, "cure": "`netagent doctor` lists them"})
    return notices
