from __future__ import annotations

import pytest

from netagent.commands.notices.resolver_notices import confinement_notices
from netagent.resolver.system.layer import Layer


def test_a_confined_process_and_one_that_does_not_tell_are_no_warning() -> None:
    assert list(confinement_notices({})) == []
    assert list(confinement_notices({"queries": 7, "lacks_landlock": 0})) == []


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Layer.LANDLOCK, "Landlock is not in force"),
        (Layer.SYSTEM_CALLS, "its system calls are not filtered"),
        (Layer.USER, "it runs as root"),
        (Layer.CAPABILITIES, "it has capabilities"),
        (Layer.BOUNDING_SET, "its bounding set"),
    ],
)
def test_each_missing_layer_is_named(layer: Layer, words: str) -> None:
    (notice,) = confinement_notices({layer.counter: 1})
    assert notice["code"] == "resolver-rights"
    assert words in notice["message"]
    assert "pkill -f 'netagent[.]resolver" in notice["cure"]
