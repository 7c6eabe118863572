"""What a step must not do, because a GPU cannot: found in its source, without a compiler.

The same rules hold on every backend, so that a ring kernel which works on a laptop works on a GPU. What depends on
types is left to the compiler.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from enum import Enum
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import StepError
from ..messages import Record, is_message_type
from ..messages.record import layout
from ..origin import notebook_shell
from .cache import VERSIONED, read_from_outside

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition


def check_step(definition: StepDefinition, *, interpreted: bool = False) -> None:
    """Refuse a step that does what no GPU can, also in the functions of Python that it calls.

    Nothing is compiled. A function without source (made by ``exec``) is passed over. `interpreted` allows `breakpoint`.

    Raises:
        StepError: with the file or cell, the line, and what to write instead.
    """
    __tracebackhide__ = True  # the error shows the line of the user
    names = definition.body.__code__.co_varnames
    records = dict(zip(names, (definition.state_type, definition.message_type, definition.reply_type), strict=False))
    body: Any = definition.body
    function = Function(body)
    _check(function, records, message=names[1], interpreted=interpreted, callers=())
    if function.tree is not None and definition.reply_type is not None:
        returns = [node for node in _nodes(function.tree.body) if isinstance(node, ast.Return)]
        if all(node.value is None for node in returns):
            raise function.refusal(
                function.tree.lineno,
                f"it returns nothing, so no reply would ever be sent: end with `return True`, or annotate {names[2]!r} "
                "with None",
            )


# -- where it is -------------------------------------------------------------------------------------------------------


class Function:
    """A function of the user, its source, and what its names stand for."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.code = function.__code__
        self.outside = read_from_outside(function)
        self.tree, self._lines = self._read()

    def _read(self) -> tuple[ast.FunctionDef | None, list[str]]:
        """The source, with the numbers of lines that it has in its file; None where there is none to be read."""
        filename, first = self.code.co_filename, self.code.co_firstlineno
        linecache.checkcache(filename)
        lines = linecache.getlines(filename, self.function.__globals__)
        try:
            block = inspect.getblock(lines[first - 1 :])
            (tree,) = ast.parse(textwrap.dedent("".join(block))).body
        except (SyntaxError, ValueError):  # no source, or not that of a function
            return None, []
        # A file may have been edited since: then this is the source of something else.
        if not isinstance(tree, ast.FunctionDef) or tree.name != self.code.co_name:
            return None, []
        ast.increment_lineno(tree, first - 1)
        return tree, lines

    @property
    def parameters(self) -> tuple[str, ...]:
        """Its positional ones."""
        return self.code.co_varnames[: self.code.co_argcount]

    @property
    def place(self) -> str:
        """The cell or file that it is in."""
        shell = notebook_shell()
        try:
            kind, name = shell.compile.format_code_name(self.code.co_filename)
        except (AttributeError, TypeError):  # no notebook, or nothing of its cells
            return self.code.co_filename
        return f"{kind.lower()} {name.replace('[', ' [')}"

    def refusal(self, line: int, text: str, details: str = "") -> StepError:
        """The error that says where, what, and shows the line."""
        shown = f"\n    {self._lines[line - 1].strip()}" if 0 < line <= len(self._lines) else ""
        return StepError(f"{self.place}, line {line}: {text}{shown}", details)

    def helpers(self) -> Iterator[Function]:
        """The functions of the user that it reads."""
        for value in self.outside.values():
            if (plain := users_function(value)) is not None:
                yield Function(plain)

    def family(self) -> list[Function]:
        """Itself, its helpers, and theirs."""
        found: dict[FunctionType, Function] = {}
        pending = [self]
        while pending:
            one = pending.pop(0)
            if one.function not in found:
                found[one.function] = one
                pending += one.helpers()
        return list(found.values())


def users_function(value: Any) -> FunctionType | None:
    """The plain function of Python that a value is, or that Numba has wrapped; None for those of Numba and the like."""
    plain = getattr(value, "py_func", value)
    if isinstance(plain, FunctionType) and (plain.__module__ or "").partition(".")[0] not in VERSIONED:
        return plain
    return None


# -- the rules ---------------------------------------------------------------------------------------------------------

NO_MEMORY = (
    "takes memory, which a step cannot allocate: use an array field of the state, "
    "such as `window: Annotated[NDArray[np.float64], Shape(8)]`"
)
NO_TEXT = "text has no place in a step: use numbers, or an IntEnum"
_NO_FUNCTION = "a step cannot define functions or classes: define them above it"
NO_RAISE = "on a GPU it would end the step unseen: use `if` and `return False`, or report it in a field of the reply"

_STATEMENTS: dict[type[ast.AST], str] = {
    ast.Raise: f"`raise`: {NO_RAISE}",
    ast.Assert: f"`assert`: {NO_RAISE}",
    ast.Try: "`try`: nothing is raised on a GPU: test the values with `if` before",
    ast.TryStar: "`try`: nothing is raised on a GPU: test the values with `if` before",
    ast.With: "`with`: a step can open or lock nothing; its state is its own, without a lock",
    ast.AsyncWith: "`async with`: a step cannot wait; what waits is an `async def` ring kernel",
    ast.AsyncFor: "`async for`: a step cannot wait; it is called once for each message",
    ast.Await: "`await`: a step cannot wait; what waits is an `async def` ring kernel",
    ast.Yield: "`yield`: a step replies by its fields of `out` and `return True`",
    ast.YieldFrom: "`yield`: a step replies by its fields of `out` and `return True`",
    ast.FunctionDef: f"`def`: {_NO_FUNCTION}",
    ast.AsyncFunctionDef: f"`async def`: {_NO_FUNCTION}",
    ast.ClassDef: f"`class`: {_NO_FUNCTION}",
    ast.Lambda: f"`lambda`: {_NO_FUNCTION}",
    ast.Import: "`import`: import it above the step",
    ast.ImportFrom: "`import`: import it above the step",
    ast.Global: "`global`: what a step keeps from one message to the next is its state: add a field there",
    ast.Nonlocal: "`nonlocal`: what a step keeps from one message to the next is its state: add a field there",
    ast.Delete: "`del`: leave it out; a step's variables are gone when it returns",
    ast.JoinedStr: f"an f-string: {NO_TEXT}",
    ast.List: f"a list {NO_MEMORY}",
    ast.Dict: f"a dict {NO_MEMORY}",
    ast.Set: f"a set {NO_MEMORY}",
    ast.ListComp: f"a list comprehension {NO_MEMORY}, and a loop",
    ast.DictComp: f"a dict comprehension {NO_MEMORY}, and a loop",
    ast.SetComp: f"a set comprehension {NO_MEMORY}, and a loop",
    ast.GeneratorExp: "a generator expression: write a `for` loop",
    ast.NamedExpr: "`:=`: give it a line of its own, with `=`",
    ast.Starred: "`*`: write the elements one by one",
}

_BUILTINS = {abs, bool, complex, divmod, enumerate, float, int, len, max, min, pow, range, round, sum, zip}
_LOOP = "write a `for` loop over the elements"
_BUILTIN_HINTS = {
    "print": "see values with `await runtime[...].snapshot()`, or with backend='interpreted' and pdb.set_trace()",
    "breakpoint": "it needs backend='interpreted'",
    "isinstance": "the types of all fields are known: leave it out",
    "str": NO_TEXT,
    "repr": NO_TEXT,
    "format": NO_TEXT,
    "list": f"it {NO_MEMORY}",
    "dict": f"it {NO_MEMORY}",
    "set": f"it {NO_MEMORY}",
    "bytearray": f"it {NO_MEMORY}",
    "sorted": "keep the values in order in an array of the state",
    "input": "send what it shall know in a message",
    "open": "read the file before, and pass the data in a message or in buffers=",
    "getattr": "write x.name",
    "setattr": "write x.name = ...",
} | dict.fromkeys(("all", "any", "filter", "map", "reversed", "iter", "next"), _LOOP)

_MATH = {
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "copysign", "cos", "cosh", "degrees"),
    *("erf", "erfc", "exp", "expm1", "fabs", "floor", "frexp", "gamma", "hypot", "isfinite", "isinf", "isnan"),
    *("ldexp", "lgamma", "log", "log10", "log1p", "log2", "pow", "radians", "sin", "sinh", "sqrt", "tan", "tanh"),
    "trunc",
}
"""Functions that compilers for CPU and GPU know."""
_MATH_ALIKE = {
    **{name: name for name in _MATH if hasattr(np, name)},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "arctan2": "atan2",
    "deg2rad": "radians",
    "rad2deg": "degrees",
}
_NUMPY_HINTS = {
    **{name: f"use math.{twin}(x)" for name, twin in _MATH_ALIKE.items()},
    **dict.fromkeys(("abs", "absolute", "fabs"), "use abs(x)"),
    **dict.fromkeys(("maximum", "fmax"), "use max(a, b)"),
    **dict.fromkeys(("minimum", "fmin"), "use min(a, b)"),
    **dict.fromkeys(("power", "float_power", "pow"), "use a ** b"),
    **dict.fromkeys(("round", "around", "rint"), "use round(x)"),
    **dict.fromkeys(("mod", "remainder"), "use a % b"),
    **dict.fromkeys(("divide", "true_divide"), "use a / b"),
    "square": "use x * x",
    "clip": "use min(max(x, low), high)",
    "sign": "use math.copysign(1.0, x)",
    "max": "use max(x)",
    "min": "use min(x)",
    "where": "use `a if condition else b`",
    "sum": "use x.sum()",
    "mean": "use x.mean()",
    "average": "use x.sum() / len(x)",
}
_ALLOCATORS = {
    *("array", "asarray", "zeros", "ones", "empty", "full", "arange", "linspace", "eye", "identity", "copy", "stack"),
    *("zeros_like", "ones_like", "empty_like", "full_like", "concatenate", "append", "tile", "repeat", "roll", "diff"),
}
_METHODS = {"all", "any", "argmax", "argmin", "conjugate", "fill", "mean", "prod", "std", "sum", "var"}
"""Methods of arrays and numbers that they know."""
_METHOD_HINTS = {
    "max": "use max(x)",
    "min": "use min(x)",
    "append": "write to an array of the state: x[i] = value",
    "copy": f"it {NO_MEMORY}",
    "astype": f"it {NO_MEMORY}",
    "item": "use x[i]",
    "tolist": f"it {NO_MEMORY}",
}
_LIBRARY_HINTS = {
    "time": "send the time in a field of the message",
    "datetime": "send the time in a field of the message",
    "random": "send random numbers in the message, or compute them from a number in the state",
}


def _check(
    function: Function, records: dict[str, type | None], message: str, interpreted: bool, callers: tuple[Any, ...]
) -> None:
    """Check one function. `records`: the classes of parameters that are records; `message`: the one to leave alone."""
    __tracebackhide__ = True
    if function.tree is None:
        return
    checker = _Checker(function, records, message, interpreted)
    for node in _nodes(function.tree.body):
        if (found := checker.fault(node)) is not None:
            raise function.refusal(getattr(node, "lineno", function.tree.lineno), found)
    callers = (*callers, function.function)
    for helper in function.helpers():
        if helper.function in callers:
            line = next(n.lineno for n in _nodes(function.tree.body) if _is_name_of(n, helper, function))
            raise function.refusal(
                line, f"{helper.function.__name__} calls itself: a GPU has little room for that: write a loop"
            )
        _check(helper, {}, "", interpreted, callers)


def _is_name_of(node: ast.AST, helper: Function, function: Function) -> bool:
    return isinstance(node, ast.Name) and users_function(function.outside.get(node.id)) is helper.function


def _nodes(body: list[ast.stmt]) -> Iterator[Any]:
    """All nodes that are run, from top to bottom: no annotations, no docstrings."""
    pending: list[ast.AST] = list(reversed(body))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        skipped = node.annotation if isinstance(node, ast.AnnAssign) else None
        pending += reversed([child for child in ast.iter_child_nodes(node) if child is not skipped])


class _Checker:
    def __init__(self, function: Function, records: dict[str, type | None], message: str, interpreted: bool) -> None:
        self.function = function
        self.records = records
        self.message = message
        self.interpreted = interpreted

    def fault(self, node: ast.AST) -> str | None:
        """What is wrong with a node and what to write instead; None if nothing is."""
        match node:
            case ast.Constant(value=str() | bytes()):
                return f"{node.value!r}: {NO_TEXT}"
            case ast.Return(value=ast.Constant(value=str()) | ast.JoinedStr()):
                return "`return` of a text: a step returns True to send `out`, or False; put the answer into `out`"
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(field))) if name in self.records:
                return f"`{name}[{field!r}]`: write {name}.{field}"
            case ast.Name(id=name, ctx=ast.Store()) if name in self.records:
                cls = self.records[name]
                first = next(iter(layout(cls).fields), "field") if cls is not None else "field"
                return f"`{name} = ...` gives the name to something else: set its fields, `{name}.{first} = ...`"
            case ast.Attribute(value=ast.Name(id=name)) if name in self.records and self.records[name] is None:
                return f"`{name}.{node.attr}`: {name} is None, as its annotation says: give it a class with fields"
            case ast.Attribute():
                return self._unknown_field(node) or self._overwritten(node)
            case ast.Subscript():
                return self._overwritten(node)
            case ast.BinOp(op=ast.MatMult()) | ast.AugAssign(op=ast.MatMult()):
                return f"`@` cannot run on a GPU: {_LOOP}"
            case ast.Call():
                return self._call(node)
            case ast.Name(id=name, ctx=ast.Load()) if name in self.function.outside:
                return self._value(name, self.function.outside[name])
        return _STATEMENTS.get(type(node))

    def _unknown_field(self, node: ast.Attribute) -> str | None:
        cls = self._record(node.value)
        names = tuple(layout(cls).fields) if cls is not None else ()
        if cls is None or node.attr in names:
            return None
        return no_such_field(ast.unparse(node), cls.__qualname__, node.attr, names)

    def _record(self, node: ast.AST) -> type | None:
        """The record class of an expression such as `msg.pose`."""
        if isinstance(node, ast.Name):
            return self.records.get(node.id)
        if isinstance(node, ast.Attribute) and (outer := self._record(node.value)) is not None:
            return getattr(layout(outer).fields.get(node.attr), "cls", None)
        return None

    def _overwritten(self, node: ast.Attribute | ast.Subscript) -> str | None:
        if isinstance(node.ctx, ast.Load):
            return None
        root: ast.AST = node
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if isinstance(root, ast.Name) and root.id == self.message:
            return (
                f"`{ast.unparse(node)} = ...`: a message stays as it came; write to a variable of your own, or to `out`"
            )
        if isinstance(root, ast.Name) and root.id in self.function.outside:
            return f"`{ast.unparse(node)} = ...`: {root.id} is a constant in a step; what changes belongs in its state"
        return None

    def _value(self, name: str, value: Any) -> str | None:
        """A variable from outside: only some values can be part of compiled code."""
        if isinstance(value, str):
            return f"`{name}` is a text: {NO_TEXT}"
        if isinstance(value, list | dict | set):
            return (
                f"`{name}` is a {type(value).__name__}: a step reads numbers, tuples and arrays from outside: "
                "make it an array if it stays the same, and a field of the state if it changes"
            )
        known = (bool, int, float, complex, tuple, np.generic, np.ndarray, Enum, type, ModuleType, np.dtype, np.ufunc)
        if isinstance(value, known) or callable(value) or value is None:
            return None
        return (
            f"`{name}` is a {type(value).__qualname__}: a step reads numbers, tuples and arrays from outside; "
            "what changes belongs in the state, large arrays in buffers="
        )

    def _call(self, node: ast.Call) -> str | None:
        target, written = node.func, ast.unparse(node.func)
        known, callee = self._resolved(target)
        if not known:
            if isinstance(target, ast.Attribute) and isinstance(owner := self._resolved(target.value)[1], ModuleType):
                return f"`{written}`: {owner.__name__} has no {target.attr!r}"
            if isinstance(target, ast.Attribute) and target.attr not in _METHODS:
                hint = _METHOD_HINTS.get(target.attr, _LOOP)
                if isinstance(target.value, ast.Name) and target.value.id == "ctx":
                    hint = "fill in the fields of `out` and `return True`"
                return f"`.{target.attr}()` is no method that a step can call: {hint}"
            return None
        root = (getattr(callee, "__module__", None) or "").partition(".")[0]
        if callee in (breakpoint, _set_trace()):
            return None if self.interpreted else f"`{written}()`: {_BUILTIN_HINTS['breakpoint']}"
        if isinstance(callee, type) and (issubclass(callee, Record) or is_message_type(callee)):
            return f"`{written}(...)`: a step makes no objects: set the fields of `out`, one by one"
        if _is_numpys(callee):
            if isinstance(callee, type) and issubclass(callee, np.generic):
                return None
            return numpy_fault(written, getattr(callee, "__name__", written.rpartition(".")[2]))
        if users_function(callee) is not None:
            if isinstance(target, ast.Attribute):
                return f"`{written}`: import it by its name: from {callee.__module__} import {callee.__name__}"
            return None
        if root == "math" and getattr(callee, "__name__", "") not in _MATH:
            return f"`{written}` is not there on a GPU: write a function of your own for it"
        if root in ("math", "cmath", "operator", "numba", "pydotcompute") or callee in _BUILTINS:
            return None
        name = getattr(callee, "__name__", "")
        if callee is getattr(builtins, name, None):
            return (
                f"`{written}()` is not there in a step: {_BUILTIN_HINTS.get(name, 'use numbers, and arrays of them')}"
            )
        if isinstance(callee, type) and issubclass(callee, Enum):
            return None
        if isinstance(callee, type):
            return f"`{written}(...)`: a step makes no objects: use numbers and the fields of its records"
        hint = _LIBRARY_HINTS.get(written.partition(".")[0], "use math, or functions of your own")
        return f"`{written}()` is not known to a step: {hint}"

    def _resolved(self, node: ast.AST) -> tuple[bool, Any]:
        """Whether an expression is a name from outside, and what it stands for now."""
        if isinstance(node, ast.Name):
            if node.id in self.function.outside:
                return True, self.function.outside[node.id]
            if node.id in self.function.code.co_names and hasattr(builtins, node.id):
                return True, getattr(builtins, node.id)
        elif isinstance(node, ast.Attribute):
            known, owner = self._resolved(node.value)
            if known and isinstance(owner, ModuleType | type) and hasattr(owner, node.attr):
                return True, getattr(owner, node.attr)
        return False, None


def numpy_fault(written: str, name: str) -> str:
    """What to say of a call of a function of NumPy; `name` is its name there."""
    hint = f"it {NO_MEMORY}" if name in _ALLOCATORS else _NUMPY_HINTS.get(name, f"use math, or {_LOOP}")
    return f"`{written}` cannot run on a GPU: {hint}"


def no_such_field(written: str, owner: str, name: str, names: tuple[str, ...]) -> str:
    """What to say of a field that is not there."""
    close = get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(names)}"
    return f"`{written}`: {owner} has no field {name!r}; {hint}"


def _is_numpys(callee: Any) -> bool:
    module = getattr(callee, "__module__", None) or type(callee).__module__
    return isinstance(callee, np.ufunc) or module.partition(".")[0] == "numpy"


def _set_trace() -> Any:
    import pdb

    return pdb.set_trace
