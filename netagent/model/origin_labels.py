"""Labels that an agent puts into an endpoint's record by itself: what its runtime calls the container.

They begin with `netagent.`, as no label that a runtime passes on does. They are for people and commands to find a
container by; names in DNS never follow from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ORIGINAL_NAME: Final = "netagent.original-name"
"""The container's name, where DNS does not allow it."""
CONTAINER_ID: Final = "netagent.container-id"
COMPOSE_PROJECT: Final = "netagent.compose-project"
COMPOSE_SERVICE: Final = "netagent.compose-service"
PUBLISHED: Final = "netagent.published-by-runtime"
"""`8080:80/tcp`, comma between: ports of the host that the runtime itself leads to the container."""

MIN_ID_DIGITS: Final = 6
"""So many digits of an id stand for it; fewer would often be a word."""


def label_of(labels: Iterable[tuple[str, str]], key: str) -> str:
    """Its value; "" where there is none."""
    return next((value for one, value in labels if one == key), "")


def is_container(labels: Iterable[tuple[str, str]], thing: str) -> bool:
    """Whether a runtime calls the container so: by name, by id, or by the beginning of the id."""
    for key, value in labels:
        if key == ORIGINAL_NAME and value == thing:
            return True
        if key == CONTAINER_ID and len(thing) >= MIN_ID_DIGITS and value.startswith(thing):
            return True
    return False
