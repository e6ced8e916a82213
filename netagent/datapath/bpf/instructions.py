"""Instructions of eBPF (RFC 9669), and an assembler: a program as calls of Python that read like its instructions.

Registers hold 64 bits. R0 is what a call or the program returns, R1 to R5 are arguments and are lost by a call, R6 to
R9 survive it, FP points behind the program's stack of 512 bytes, so the stack is at negative offsets. At the start R1
points to the context of the program.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, TypeAlias

INSTRUCTION_BYTES: Final = 8

ByteOrder: TypeAlias = Literal["little", "big"]
Width: TypeAlias = Literal[1, 2, 4, 8]
"""Of a value in memory, in bytes."""
Relation: TypeAlias = Literal["==", "!=", ">=", "&"]
"""Unsigned; `&`: they have a bit in common."""

_LD, _LDX, _ST, _STX, _ALU, _JMP, _JMP32, _ALU64 = range(8)  # classes
_IMMEDIATE_64, _MEMORY, _ATOMIC = 0x00, 0x60, 0xC0  # modes
_WIDTHS: Final[Mapping[int, int]] = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}
_BY_VALUE, _BY_REGISTER = 0x00, 0x08  # what the second operand is
_ADD, _SUBTRACT, _MULTIPLY, _AND, _SHIFT_RIGHT, _MODULO, _XOR, _MOVE = (
    0x00, 0x10, 0x20, 0x50, 0x70, 0x90, 0xA0, 0xB0,
)  # fmt: skip
_ALWAYS, _CALL, _EXIT = 0x00, 0x80, 0x90
_RELATIONS: Final[Mapping[str, int]] = {"==": 0x10, ">=": 0x30, "&": 0x40, "!=": 0x50}
_MAP_FD: Final = 1
"""BPF_PSEUDO_MAP_FD: the value is a descriptor, which the kernel replaces by the map's address when it loads."""


class Register(IntEnum):
    """One of the eleven registers."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    FP = 10


@dataclass(eq=False, slots=True)
class Label:
    """A place in a program that instructions jump to."""

    at: int | None = None
    """The number of the instruction behind it; None: not placed yet."""


def instruction(
    code: int,
    to: int = 0,
    source: int = 0,
    offset: int = 0,
    value: int = 0,
    *,
    byte_order: ByteOrder = sys.byteorder,
) -> bytes:
    """Encode one instruction: operation, destination and source register, offset, immediate value.

    The two registers share a byte. Which half is the destination's depends on the byte order of the machine, because
    the kernel declares them as bit fields.
    """
    if byte_order == "little":
        return struct.pack("<BBhi", code, to | source << 4, offset, value)
    return struct.pack(">BBhi", code, to << 4 | source, offset, value)


@dataclass(slots=True)
class _Instruction:
    code: int
    to: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0
    target: Label | None = None
    """Of a jump."""
    map_name: str | None = None
    """Whose descriptor becomes the value."""


@dataclass(slots=True)
class Assembler:
    """The instructions of one program, in their order. Maps are named, and become descriptors at the end."""

    _code: list[_Instruction] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._code)

    def move(self, to: Register, value: int | Register) -> None:
        """Set a register, to all of its 64 bits."""
        self._operation(_ALU64 | _MOVE, to, value)

    def add(self, to: Register, value: int | Register) -> None:
        """Add to all 64 bits of a register."""
        self._operation(_ALU64 | _ADD, to, value)

    def multiply(self, to: Register, value: int) -> None:
        """Multiply the lower half of a register; clears the upper half, as all that follow."""
        self._operation(_ALU | _MULTIPLY, to, value)

    def bitwise_and(self, to: Register, value: int) -> None:
        """Keep these bits of the lower half of a register."""
        self._operation(_ALU | _AND, to, value)

    def subtract(self, to: Register, value: Register) -> None:
        """Subtract in the lower half of a register."""
        self._operation(_ALU | _SUBTRACT, to, value)

    def exclusive_or(self, to: Register, value: Register) -> None:
        """Set the bits of the lower half in which the two differ."""
        self._operation(_ALU | _XOR, to, value)

    def shift_right(self, to: Register, value: int, *, width: Literal[4, 8] = 4) -> None:
        """Shift the lower half of a register, or all of it, without its sign."""
        self._operation((_ALU if width == 4 else _ALU64) | _SHIFT_RIGHT, to, value)

    def modulo(self, to: Register, divisor: Register) -> None:
        """Leave the rest of a division of the lower halves, without signs."""
        self._operation(_ALU | _MODULO, to, divisor)

    def load(self, width: Width, to: Register, base: Register, offset: int) -> None:
        """Load from memory, and fill up with zeros."""
        self._append(_LDX | _MEMORY | _WIDTHS[width], to, base, offset)

    def store(self, width: Width, base: Register, offset: int, value: int | Register) -> None:
        """Store a register, or a value, which is extended by its sign."""
        if isinstance(value, Register):
            self._append(_STX | _MEMORY | _WIDTHS[width], base, value, offset)
        else:
            self._append(_ST | _MEMORY | _WIDTHS[width], base, 0, offset, value)

    def atomic_add(self, base: Register, offset: int, value: Register) -> None:
        """Add a register to the eight bytes in memory, which other processors may be adding to as well."""
        self._append(_STX | _ATOMIC | _WIDTHS[8], base, value, offset)

    def load_map(self, to: Register, name: str) -> None:
        """Set a register to a map. Takes the room of two instructions."""
        self._code.append(_Instruction(_LD | _IMMEDIATE_64 | _WIDTHS[8], to, _MAP_FD, map_name=name))
        self._append(0)

    def call(self, helper: int) -> None:
        """Call a function of the kernel (bpf-helpers(7)) by its number."""
        self._append(_JMP | _CALL, value=helper)

    def jump(self, target: Label) -> None:
        """Go on at a label, which is further down."""
        self._code.append(_Instruction(_JMP | _ALWAYS, target=target))

    def jump_if(
        self,
        left: Register,
        relation: Relation,
        right: int | Register,
        target: Label,
        *,
        width: Literal[4, 8] = 8,
    ) -> None:
        """Go on at a label if the relation holds. `width` 4: of the lower halves alone (Linux 5.1)."""
        code = (_JMP if width == 8 else _JMP32) | _RELATIONS[relation]
        self._operation(code, left, right, target)

    def place(self, label: Label) -> None:
        """Let a label mean the next instruction."""
        label.at = len(self._code)

    def exit(self, value: int | None = None) -> None:
        """Return a value; None: what is in R0."""
        if value is not None:
            self.move(Register.R0, value)
        self._append(_JMP | _EXIT)

    def assemble(self, maps: Mapping[str, int], byte_order: ByteOrder = sys.byteorder) -> bytes:
        """Return the program, with these descriptors for its maps."""
        encoded = []
        for number, one in enumerate(self._code):
            offset, value = one.offset, one.value
            if one.target is not None:
                if one.target.at is None:
                    raise ValueError("a jump to a label that is not placed")
                offset = one.target.at - number - 1
            if one.map_name is not None:
                value = maps[one.map_name]
            encoded.append(instruction(one.code, one.to, one.source, offset, value, byte_order=byte_order))
        return b"".join(encoded)

    def _operation(self, code: int, to: Register, value: int | Register, target: Label | None = None) -> None:
        if isinstance(value, Register):
            self._code.append(_Instruction(code | _BY_REGISTER, to, value, target=target))
        else:
            self._code.append(_Instruction(code | _BY_VALUE, to, value=value, target=target))

    def _append(self, code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> None:
        self._code.append(_Instruction(code, to, source, offset, value))
