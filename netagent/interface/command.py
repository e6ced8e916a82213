"""How a command is declared: one class says everything about it, and an instance of it is one request.

    class PublishCommand(
        Command["schema.Endpoint"],                          # the answer
        command="publish",                                   # the word that users type, then aliases
        route="POST /v1/endpoints/{endpoint}/published",     # a command without route does not ask the agent
        role=Role.ADMIN,                                     # the least role that may use it; this is the default
        brief="forward a port of this host to a container",
        examples="sudo netagent publish web1 8080:80",
    ):
        '''Forward a port of this host to a port of the endpoint's container.'''

        endpoint: str = ENDPOINT                             # a field of the request, and how users type it
        port: str = argument(metavar="PORT:PORT", help="a port of the host and a port of the container")

The grammar of the command line, the HTTP route, the client, the OpenAPI document, completion and the reference follow
from this. Only the server evaluates answers and annotations, so the command line does not import their modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar, get_args

from netagent.interface.role import Role

A_co = TypeVar("A_co", covariant=True)

REQUIRED: Final[Any] = object()
"""The default of a field that must be given."""


class Argument:
    """A field of a request: how users type it, and the bounds of its value. An instance of the request that was not
    given the field has the default."""

    def __init__(
        self,
        words: Sequence[str],
        default: Any,
        *,
        metavar: str = "",
        help: str = "",  # noqa: A002 - as argparse calls it
        field: str = "",
        called: str = "",
        bounds: tuple[float, float] | None = None,
        read: Callable[[Any], Any] | None = None,
        spreads: bool = False,
        is_sent: bool = True,
        is_exclusive: bool = False,
        role: Role | None = None,
        **parsing: Any,
    ) -> None:
        self.words = words
        self.default = default
        self.metavar = metavar
        self.help = help
        self.field = field
        self.called = called
        self.bounds = bounds
        self.read = read
        self.spreads = spreads
        self.is_sent = is_sent
        self.is_exclusive = is_exclusive
        self.role = role
        self.parsing = parsing

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name
        self.field = self.field or name

    def __get__(self, request: object | None, owner: type) -> Any:
        return self if request is None else self.default

    @property
    def is_typed(self) -> bool:
        """False if users of the command line do not type it by itself."""
        return bool(self.words or self.metavar)


def argument(*words: str, default: Any = REQUIRED, **more: Any) -> Any:
    """Declare a field that must be given. `words` are those of its option (`-p --publish`); without words but with a
    metavar it is positional; without either, only the API has it.

    metavar help nargs action choices   as for argparse
    field           its name in JSON, if that is no name in Python
    read            makes the JSON value of what was typed, or with `spreads` a dict of several attributes
    bounds          the least and the greatest number
    called          what errors call it, if not by its option
    is_sent         False: only the command line knows it
    is_exclusive    at most one of these can be given
    role            the least role that may give it, if that is more than its command needs
    """
    if words and default is REQUIRED:
        more["required"] = True
    return Argument(words, default, **more)


def option(*words: str, default: Any = None, **more: Any) -> Any:
    """Declare a field that may be missing."""
    return argument(*words, default=default, **more)


def switch(*words: str, **more: Any) -> Any:
    """Declare a field that is false unless its option is given."""
    return argument(*words, default=False, action="store_true", **more)


def repeated(*words: str, **more: Any) -> Any:
    """Declare a list whose option is given once for each item."""
    return argument(*words, default=(), action="append", **more)


class Declaration:
    """What the class statement of a command says."""

    def __init__(
        self,
        command: str,
        *,
        route: str = "",
        brief: str,
        within: str = "",
        also: str = "",
        examples: str = "",
        waits: str = "",
        order: str = "",
        creates: bool = False,
        role: Role = Role.ADMIN,
        is_log: bool = False,
        period_s: float | None = None,
    ) -> None:
        self.names = command.split()
        self.name, *self.aliases = self.names
        self.within = within
        """The word before its name: `network` of `network create`."""
        self.also = also
        """Other words for the same: `service ls`."""
        self.verb, _, self.path = route.partition(" ")
        self.brief = brief
        self.examples = examples
        self.waits = waits or "waiting for the agent"
        """What the command line says on a terminal while the answer takes long."""
        self.order = tuple(order.split())
        """Fields by which the items of the answer are sorted, if that is a list."""
        self.creates = creates
        """HTTP status 201, unless `created` in the answer is false."""
        self.role = role
        """The least role that may use it. Reading commands say READ; one that says nothing needs ADMIN."""
        self.period_s = period_s
        """How often a watched list is read although no record changes; None: only when one does."""
        self.is_log = is_log
        """Its list only grows at its end: it stays in its order, and a watch sends what is new."""

    @property
    def command(self) -> str:
        """The words that users type."""
        return f"{self.within} {self.name}".strip()

    @property
    def in_path(self) -> list[str]:
        """The fields that are part of the path."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]

    @property
    def has_body(self) -> bool:
        """True if the other fields are a JSON object in the body; else they are parameters of the query."""
        return self.verb == "POST"


class Fields:
    """A JSON object of a request: its class declares the fields, an instance holds those that were given."""

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    @classmethod
    def arguments(cls) -> list[Argument]:
        """Return the fields, those of base classes first."""
        found = [vars(kind).values() for kind in reversed(cls.__mro__)]
        return [one for values in found for one in values if isinstance(one, Argument)]

    def json(self) -> dict[str, Any]:
        """Return the fields that were given and are sent. Empty ones are left out: the agent fills in the default."""
        given = {one.field: vars(self).get(one.attribute) for one in self.arguments() if one.is_sent}
        return {
            key: value
            for key, value in given.items()
            if value not in (None, "", [], {}) and value is not False
        }


class Command(Fields, Generic[A_co]):
    """A request with the answer A_co. A subclass that names a command declares it; others are bases of such."""

    declaration: ClassVar[Declaration]

    def sent(self) -> Command[Any]:
        """The request that is sent: this one, unless its options mean another command. Raises InputError."""
        return self

    def __init_subclass__(cls, command: str = "", **more: Any) -> None:
        super().__init_subclass__()
        if command:
            cls.declaration = Declaration(command, **more)

    @classmethod
    def answer(cls) -> str:
        """Return the name of the answer's type as it is written there."""
        bases: Sequence[object] = cls.__orig_bases__  # type: ignore[attr-defined] # of Generic
        return str(get_args(bases[0])[0].__forward_arg__)

    @classmethod
    def description(cls) -> str:
        """Return the docstring in its lines."""
        return "\n".join(line.strip() for line in (cls.__doc__ or "").splitlines())

    @property
    def work_s(self) -> float:
        """How much longer than usual the agent may take."""
        return 0.0
