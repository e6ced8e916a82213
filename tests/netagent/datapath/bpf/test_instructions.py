"""The bytes of instructions, in both byte orders, and where jumps lead."""

from __future__ import annotations

import pytest

from netagent.datapath.bpf.instructions import Assembler, Label, Register, instruction

R0, R1, R2, R6, FP = Register.R0, Register.R1, Register.R2, Register.R6, Register.FP


def test_the_registers_share_a_byte_whose_halves_depend_on_the_byte_order() -> None:
    """`r2 = *(u32 *)(r1 + 20)`, as the kernel's own bit fields have it on either kind of machine."""
    little = instruction(0x61, to=2, source=1, offset=20, byte_order="little")
    big = instruction(0x61, to=2, source=1, offset=20, byte_order="big")
    assert little == bytes.fromhex("6112140000000000")
    assert big == bytes.fromhex("6121001400000000")


def test_values_are_signed_and_in_the_byte_order_of_the_machine() -> None:
    assert instruction(0xB7, to=0, value=-2, byte_order="little") == bytes.fromhex("b7000000feffffff")
    assert instruction(0xB7, to=0, value=-2, byte_order="big") == bytes.fromhex("b7000000fffffffe")


def test_operations_that_change_what_is_there() -> None:
    asm = Assembler()
    asm.subtract(R1, R2)
    asm.exclusive_or(R1, R2)
    asm.shift_right(R0, 30, width=8)
    asm.atomic_add(R0, 8, R1)
    assert asm.assemble({}, "little").hex(" ", 8).split() == [
        "1c21000000000000",
        "ac21000000000000",
        "770000001e000000",
        "db10080000000000",
    ]


def test_operations_as_clang_encodes_them() -> None:
    asm, there = Assembler(), Label()
    asm.move(R6, R1)
    asm.load(2, R1, R6, 24)
    asm.store(8, FP, -16, R1)
    asm.store(4, FP, -20, 7)
    asm.load_map(R1, "table")
    asm.move(R2, FP)
    asm.add(R2, -20)
    asm.call(1)
    asm.jump_if(R0, "==", 0, there)
    asm.jump_if(R0, "!=", R2, there)
    asm.jump_if(R1, ">=", 64, there, width=4)
    asm.multiply(R0, 3)
    asm.shift_right(R0, 16)
    asm.modulo(R0, R1)
    asm.bitwise_and(R0, 2)
    asm.place(there)
    asm.exit(1)
    assert asm.assemble({"table": 5}, "little").hex(" ", 8).split() == [
        "bf16000000000000",
        "6961180000000000",
        "7b1af0ff00000000",
        "620aecff07000000",
        "1811000005000000",
        "0000000000000000",
        "bfa2000000000000",
        "07020000ecffffff",
        "8500000001000000",
        "1500060000000000",
        "5d20050000000000",
        "3601040040000000",
        "2400000003000000",
        "7400000010000000",
        "9c10000000000000",
        "5400000002000000",
        "b700000001000000",
        "9500000000000000",
    ]


def test_a_label_that_is_nowhere_is_refused() -> None:
    asm = Assembler()
    asm.jump(Label())
    with pytest.raises(ValueError, match="label"):
        asm.assemble({})
