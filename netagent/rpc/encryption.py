"""Can another host encrypt? Pure.

    question   ["encrypt"]
    answer     ["encrypt", sentence, sentence]      why it cannot, and what to do there; empty: it can

A host of a release before, whose cluster encrypts from its beginning or never, gives no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgpack

from netagent.rpc.messages import ENCRYPT, parsing

_MAX_CHARS: Final = 100
"""Of each sentence; beyond it: cut."""


@dataclass(frozen=True, slots=True)
class Ability:
    """Whether a host can encrypt."""

    lack: str = ""
    """Why it cannot; empty: it can."""
    cure: str = ""


def encode_question() -> bytes:
    """Encode the question."""
    data: bytes = msgpack.packb([ENCRYPT])
    return data


def encode_answer(ability: Ability) -> bytes:
    """Encode the answer."""
    data: bytes = msgpack.packb([ENCRYPT, ability.lack[:_MAX_CHARS], ability.cure[:_MAX_CHARS]])
    return data


def parse_answer_untrusted(payload: bytes) -> Ability:
    """Parse a peer's answer. Raises QuestionError."""
    with parsing(payload, ENCRYPT) as fields:
        return Ability(fields.text("lack", max_chars=_MAX_CHARS), fields.text("cure", max_chars=_MAX_CHARS))
