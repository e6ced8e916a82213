"""What other hosts say of their flows, in warnings."""

from __future__ import annotations

from typing import cast

import pytest

from netagent.commands.notices.flow_notices import flow_notices
from netagent.control.present import Presenter
from netagent.flows.reader import HostFlows
from netagent.model.ids import HostId


class _Names:
    def host_name(self, _host_id: HostId) -> str:
        return "h2"


@pytest.mark.parametrize(("source", "typed"), [("web", "web"), ("x; rm -rf $HOME", "'x; rm -rf $HOME'")])
def test_a_name_that_another_host_says_is_one_word_of_the_line_to_type(source: str, typed: str) -> None:
    said = HostFlows(left_out={source: 7})
    [notice] = flow_notices(cast("Presenter", _Names()), {HostId("22" * 16): said})
    assert notice["cure"] == f"netagent flows --from {typed}"
