from netagent.interface.catalogue import COMMANDS


def test_every_list_can_be_watched() -> None:
    lists = [one for one in COMMANDS if one.declaration.order and one.declaration.verb == "GET"]
    assert len(lists) >= 8
    assert [one.declaration.command for one in lists if not hasattr(one, "watch")] == []
