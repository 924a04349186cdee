"""Reads the pickles of `torch.save` without running what they say.

A pickle is a program. It can import any function and call it, and a short one can fill the memory. The interpreter here has the
instructions that checkpoints consist of. `pickled.py` lists all that a pickle may mention.
"""

import struct
from typing import Any

from ctxseg.models.weights.pickled import Function, Ignored, Storage, find, ignored, set_items, storage_of
from ctxseg.models.weights.tensor import TOO_SHORT, Damaged

# Most instructions of a pickle. Each takes less than 150 bytes of memory, apart from strings; a tensor has about 25.
MOST_INSTRUCTIONS = 300_000
# Longest pickle, in bytes.
LONGEST = 1 << 23


def load(data: bytes, start: int, storages: dict[str, Storage]) -> tuple[Any, int]:
    """The object of a pickle, and where the pickle ends.

    Tensors are `View`, arrays of NumPy are `NumpyArray`. Dictionaries have strings and numbers as keys.

    Args:
        data: has the pickle.
        start: where in `data` it starts.
        storages: {key: storage}; those that the pickle mentions are added.

    Raises:
        Damaged: it is damaged, too long, or mentions something that does not describe a tensor.
    """
    try:
        return _run(data, start, storages)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error, UnicodeDecodeError) as e:
        raise Damaged("its pickle is damaged, or it ends too early: copy or download it again") from e


_INT4, _UINT4, _UINT2, _UINT8, _FLOAT = map(struct.Struct, ("<i", "<I", "<H", "<Q", ">d"))


def _run(data, i, storages):
    """`load`. A damaged pickle raises any exception of an index, a value or a type."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    end = len(data)

    def take(count):
        """The next `count` bytes."""
        nonlocal i
        if i + count > end:
            raise Damaged(TOO_SHORT)
        i += count
        return data[i - count : i]

    def line():
        """The text up to the end of the line."""
        nonlocal i
        stop = data.index(b"\n", i, i + 1000)
        text, i = data[i:stop].decode(), stop + 1
        return text

    def marked():
        """Removes the values since the last mark from the stack."""
        nonlocal stack
        values, stack = stack, marks.pop()
        return values

    for _ in range(MOST_INSTRUCTIONS):
        if i >= end:
            raise Damaged(TOO_SHORT)
        code = data[i]
        i += 1
        # The most frequent first.
        if code == 0x72:  # LONG_BINPUT
            memo[_UINT4.unpack_from(data, i)[0]] = stack[-1]
            i += 4
        elif code == 0x68:  # BINGET
            stack.append(memo[data[i]])
            i += 1
        elif code == 0x4B:  # BININT1
            stack.append(data[i])
            i += 1
        elif code == 0x58:  # BINUNICODE
            i += 4
            stack.append(take(_UINT4.unpack_from(data, i - 4)[0]).decode("utf-8", "surrogatepass"))
        elif code == 0x28:  # MARK
            marks.append(stack)
            stack = []
        elif code == 0x74:  # TUPLE
            values = marked()
            stack.append(tuple(values))
        elif code == 0x52:  # REDUCE
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, Function) or not isinstance(arguments, tuple):
                raise Damaged("its pickle calls a value that is no function")
            stack.append(function.call(*arguments))
        elif code == 0x4D:  # BININT2
            stack.append(_UINT2.unpack_from(data, i)[0])
            i += 2
        elif code == 0x89:  # NEWFALSE
            stack.append(False)
        elif code == 0x71:  # BINPUT
            memo[data[i]] = stack[-1]
            i += 1
        elif code == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif code == 0x51:  # BINPERSID
            stack.append(storage_of(stack.pop(), storages))
        elif code == 0x4A:  # BININT
            stack.append(_INT4.unpack_from(data, i)[0])
            i += 4
        elif code == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
        elif code == 0x86:  # TUPLE2
            stack[-2:] = [tuple(stack[-2:])]
        elif code == 0x87:  # TUPLE3
            stack[-3:] = [tuple(stack[-3:])]
        elif code == 0x75:  # SETITEMS
            values = marked()
            set_items(stack[-1], values)
        elif code == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            set_items(stack[-1], [key, value])
        elif code == 0x63:  # GLOBAL
            module = line()
            stack.append(find(module, line()))
        elif code == 0x6A:  # LONG_BINGET
            stack.append(memo[_UINT4.unpack_from(data, i)[0]])
            i += 4
        elif code == 0x7D:  # EMPTY_DICT
            stack.append({})
        elif code == 0x5D:  # EMPTY_LIST
            stack.append([])
        elif code == 0x61:  # APPEND
            value = stack.pop()
            _list(stack[-1]).append(value)
        elif code == 0x65:  # APPENDS
            values = marked()
            _list(stack[-1]).extend(values)
        elif code == 0x47:  # BINFLOAT
            stack.append(_FLOAT.unpack_from(data, i)[0])
            i += 8
        elif code == 0x4E:  # NONE
            stack.append(None)
        elif code == 0x88:  # NEWTRUE
            stack.append(True)
        elif code == 0x8A:  # LONG1
            stack.append(int.from_bytes(take(take(1)[0]), "little", signed=True))
        elif code == 0x81:  # NEWOBJ: an object of a class
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, Function) or function.call is not ignored or not isinstance(arguments, tuple):
                raise Damaged("its pickle creates an object of a class that is not known here")
            stack.append(Ignored())
        elif code == 0x62:  # BUILD: attributes, such as `_metadata` of a state_dict
            state = stack.pop()
            if not isinstance(stack[-1], dict | Ignored) or not isinstance(state, dict | tuple):
                raise Damaged("its pickle sets attributes of a value that has none")
        elif code == 0x2E:  # STOP
            return stack.pop(), i
        elif code == 0x80:  # PROTO
            take(1)
        elif code == 0x95:  # FRAME
            take(8)
        elif code == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        elif code == 0x93:  # STACK_GLOBAL
            name, module = stack.pop(), stack.pop()
            if not isinstance(module, str) or not isinstance(name, str):
                raise Damaged("its pickle is damaged")
            stack.append(find(module, name))
        elif code == 0x8C:  # SHORT_BINUNICODE
            stack.append(take(take(1)[0]).decode("utf-8", "surrogatepass"))
        elif code in (0x55, 0x43):  # SHORT_BINSTRING: a string of Python 2; SHORT_BINBYTES
            value = take(take(1)[0])
            stack.append(value.decode("latin-1") if code == 0x55 else value)
        elif code in (0x54, 0x42):  # BINSTRING, BINBYTES
            value = take(_UINT4.unpack(take(4))[0])
            stack.append(value.decode("latin-1") if code == 0x54 else value)
        elif code in (0x8D, 0x8E, 0x96):  # BINUNICODE8, BINBYTES8, BYTEARRAY8
            value = take(_UINT8.unpack(take(8))[0])
            stack.append(value.decode("utf-8", "surrogatepass") if code == 0x8D else value)
        elif code == 0x8B:  # LONG4
            stack.append(int.from_bytes(take(_UINT4.unpack(take(4))[0]), "little", signed=True))
        elif code == 0x8F:  # EMPTY_SET
            stack.append(Ignored())
        elif code == 0x90:  # ADDITEMS
            marked()
            if not isinstance(stack[-1], Ignored):
                raise Damaged("its pickle is damaged")
        elif code == 0x91:  # FROZENSET
            marked()
            stack.append(Ignored())
        elif code == 0x30:  # POP
            stack.pop()
        elif code == 0x31:  # POP_MARK
            marked()
        else:
            raise Damaged(f"its pickle has the instruction {code:#04x}, which torch.save does not write")
    raise Damaged("its pickle is too long: save model.state_dict() alone")


def _list(value):
    if not isinstance(value, list):
        raise Damaged("its pickle is damaged")
    return value
