"""What Numba finds wrong with a step, and what it does not find, in words for whoever wrote the step.

`Diagnosis` looks at the types that Numba has inferred, before there is machine code: Numba would compile steps that no
GPU can run, and some that write over memory of others. What Numba refuses by itself it translates: the line, what does
not fit, and what to write instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import from_dtype, types
from numba.core import ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NopythonTypeInference

from ..exceptions import StepError
from ..messages.record import layout
from .rules import NO_MEMORY, NO_RAISE, NO_TEXT, Function, no_such_field, numpy_fault

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition


class Diagnosis:
    """Of one step and the functions that it calls."""

    def __init__(self, definition: StepDefinition) -> None:
        self.definition = definition
        body: Any = definition.body
        self.functions = Function(body).family()
        self._names: dict[Any, str] = {}
        for cls in (definition.state_type, definition.message_type, definition.reply_type):
            if cls is not None:
                self._learn(cls)

    def _learn(self, cls: type) -> None:
        known = layout(cls)
        self._names.setdefault(from_dtype(known.dtype), cls.__qualname__)
        for field in known.fields.values():
            if (inner := getattr(field, "cls", None)) is not None:
                self._learn(inner)

    def argument_types(self) -> tuple[Any, ...]:
        """Numba's types of what the step is called with."""
        definition = self.definition
        classes = (definition.state_type, definition.message_type, definition.reply_type)
        return (
            *(types.none if cls is None else from_dtype(layout(cls).dtype) for cls in classes),
            *(types.Array(from_dtype(b.dtype), len(b.shape), "C") for b in definition.buffers.values()),
        )

    # -- what Numba would let pass -------------------------------------------------------------------------------------

    def check(self, state: Any) -> None:
        """Look at one of the functions, typed; raises a StepError."""
        code = state.func_id.func.__code__
        is_step = code is self.definition.body.__code__
        kinds = state.typemap
        casts: dict[str, Any] = {}
        for block in state.func_ir.blocks.values():
            for node in block.body:
                text = None
                if isinstance(node, ir.Assign):
                    if isinstance(node.value, ir.Expr) and node.value.op == "cast":
                        casts[node.target.name] = kinds[node.value.value.name]
                    text = self._assigned(node, kinds)
                elif isinstance(node, ir.SetAttr):
                    text = self._set(kinds[node.target.name], node.attr, kinds[node.value.name])
                elif isinstance(node, ir.StaticSetItem):
                    text = self._indexed(kinds[node.target.name], node.index)
                elif isinstance(node, ir.Raise | ir.StaticRaise | ir.DynamicRaise | ir.TryRaise):
                    text = f"`raise` or `assert`: {NO_RAISE}"
                elif isinstance(node, ir.Return) and is_step:
                    text = self._returned(casts.get(node.value.name, kinds[node.value.name]))
                if text is not None:
                    raise self._at(code.co_filename, node.loc.line, text)

    def _assigned(self, node: Any, kinds: Any) -> str | None:
        kind, value = kinds[node.target.name], node.value
        if isinstance(kind, types.UnicodeType | types.StringLiteral | types.Bytes) and not isinstance(value, ir.Arg):
            return NO_TEXT
        if not isinstance(value, ir.Expr):
            return None
        if value.op == "call":
            return self._called(kinds[value.func.name], [kinds[arg.name] for arg in value.args], kind)
        if value.op == "static_getitem":
            return self._indexed(kinds[value.value.name], value.index)
        if isinstance(kind, types.Array) and value.op in ("binop", "inplace_binop", "unary"):
            return (
                "arithmetic with whole arrays makes a new one, which a step cannot: "
                "write a loop, `for i in range(len(x)): x[i] = ...`"
            )
        if isinstance(kind, types.Array) and value.op == "getitem" and isinstance(kinds[value.index.name], types.Array):
            return "an array as an index makes a new array, which a step cannot: write a loop"
        if isinstance(kind, types.List | types.Set | types.DictType | types.ListType):
            return f"a {str(kind).partition('(')[0]} {NO_MEMORY}"
        return None

    def _called(self, function: Any, arguments: list[Any], kind: Any) -> str | None:
        callee = getattr(function, "typing_key", None)
        if callee is range and not all(isinstance(types.unliteral(a), types.Integer) for a in arguments):
            return f"range() of {self._all(arguments)}: it takes integers, make one with int(x)"
        if isinstance(callee, np.ufunc):
            return numpy_fault(f"np.{callee.__name__}", callee.__name__)
        if isinstance(kind, types.Array) and not isinstance(function, types.Dispatcher):
            return f"a new array {NO_MEMORY}"
        return None

    def _indexed(self, kind: Any, index: Any) -> str | None:
        """A constant index that is out of bounds: it would read or write something else."""
        if isinstance(kind, types.NestedArray):
            for i, length in zip(index if isinstance(index, tuple) else (index,), kind.shape, strict=False):
                if isinstance(i, int) and not -length <= i < length:
                    return f"index {i} is out of bounds: that dimension has {length} elements"
        return None

    def _set(self, owner: Any, name: str, value: Any) -> str | None:
        """A field that is set: Numba takes what does not fit for what it is not."""
        if not isinstance(owner, types.Record):
            return f"`.{name} = ...`: {self._name(owner)} has no fields to set"
        if name not in owner.fields:
            return no_such_field(f".{name} = ...", self._name(owner), name, tuple(owner.fields))
        wanted, value = owner.typeof(name), types.unliteral(value)
        field = f"{self._name(owner)}.{name}"
        if isinstance(wanted, types.NestedArray):
            if isinstance(value, types.NestedArray) and (value.dtype, value.shape) == (wanted.dtype, wanted.shape):
                return None
            return f"`{field}` is {self._name(wanted)}, not {self._name(value)}: fill it with `.{name}[:] = ...`"
        if isinstance(wanted, types.Record):
            return f"`{field}` is a {self._name(wanted)}: set its fields one by one"
        number = types.Number | types.Boolean | types.IntEnumMember
        if isinstance(value, number) and not (
            isinstance(value, types.Complex) and not isinstance(wanted, types.Complex)
        ):
            return None
        hint = ""
        if isinstance(value, types.Complex):
            hint = ": use .real, or abs()"
        elif isinstance(value, types.Array):
            hint = ": use one element, x[i]"
        elif isinstance(value, types.Record):
            hint = f": use a field of it, such as .{next(iter(value.fields))}"
        return f"`{field}` is a {self._name(wanted)}, not {self._name(value)}{hint}"

    def _returned(self, kind: Any) -> str | None:
        kind = types.unliteral(kind.type if isinstance(kind, types.Optional) else kind)
        if isinstance(kind, types.Boolean | types.Integer | types.NoneType | types.Omitted):
            return None
        return (
            f"`return` of {self._name(kind)}: a step returns True to send `out`, or False; put the answer into "
            f"the fields of `out`"
        )

    # -- what Numba does not take --------------------------------------------------------------------------------------

    def translated(self, error: Exception) -> StepError:
        """An error of Numba's in words of ours; its own are the `details`."""
        if isinstance(error, StepError):
            return error
        text = details = str(error)
        for kind, name in sorted(self._names.items(), key=lambda item: -len(str(item[0]))):
            text = text.replace(str(kind), name)
        about: str | None = None
        if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):  # of a record
            about = error.args[0]
            fields = {field: name for kind, name in self._names.items() for field in kind.fields}
            told = no_such_field(f".{about}", "the record", about, tuple(fields))
        else:
            found = [(m.start(), say(self, *m.groups()), m) for form, say in _FORMS if (m := form.search(text))]
            told = min(found)[1] if found else f"it cannot be compiled: {_first_line(text) or type(error).__name__}"
            if found and "about" in (match := min(found)[2]).re.groupindex:
                about = match["about"]
        return self._at(*self._place(error, about), told, f"{type(error).__name__}: {details}")

    def _unfit(self, name: str, arguments: str) -> str:
        kinds = [_plain(part) for part in _split(arguments)]
        if name == "getitem" and len(kinds) == 2:
            if "array" not in kinds[0]:
                return f"{kinds[0]} has no elements: take off the [...]"
            return f"{kinds[1]} cannot be an index: make it an integer, int(x)"
        text = f"`{_SYMBOLS.get(name, name + '()')}` cannot be done with {' and '.join(kinds) or 'nothing'}"
        for kind, known in self._names.items():
            if known in kinds:
                return f"{text}: use a field of it, such as .{next(iter(kind.fields))}"
        return f"{text}: use one element, x[i], or a loop" if any("array" in kind for kind in kinds) else text

    # -- names and places ----------------------------------------------------------------------------------------------

    def _name(self, kind: Any) -> str:
        """A type in words."""
        if isinstance(kind, types.Record):
            return self._names.get(kind, "record")
        return _plain(str(kind))

    def _all(self, kinds: list[Any]) -> str:
        return " and ".join(map(self._name, kinds))

    def _place(self, error: Exception, name: str | None) -> tuple[str, int]:
        """File and line that an error is about."""
        if name is not None:
            for function in self.functions:
                for node in ast.walk(function.tree) if function.tree is not None else ():
                    if isinstance(node, ast.Name | ast.Attribute) and name in (
                        getattr(node, "id", ""),
                        getattr(node, "attr", ""),
                    ):
                        return function.code.co_filename, node.lineno
        for filename, line in re.findall(r" at (.+) \((\d+)\)", str(error)):
            if any(filename == function.code.co_filename for function in self.functions):
                return filename, int(line)
        code = self.functions[0].code
        loc = getattr(error, "loc", None)
        return (loc.filename, loc.line) if loc is not None else (code.co_filename, code.co_firstlineno)

    def _at(self, filename: str, line: int, text: str, details: str = "") -> StepError:
        for function in self.functions:
            lines = [at for *_, at in function.code.co_lines() if at is not None]
            if function.code.co_filename == filename and min(lines) <= line <= max(lines):
                return function.refusal(line, text, details)
        return self.functions[0].refusal(self.functions[0].code.co_firstlineno, text, details)


@register_pass(mutates_CFG=False, analysis_only=True)
class _Check(AnalysisPass):  # type: ignore[misc]
    _name = "check_step"

    def __init__(self) -> None:  # abstract there
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.func_id.func.diagnosis.check(state)
        return False


class CheckingCompiler(CompilerBase):  # type: ignore[misc]
    """Numba's compiler, but that it lets the attribute `diagnosis` of a function look at its types on the way."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_Check, NopythonTypeInference)
        passes.finalize()
        return [passes]


# -- Numba's words -----------------------------------------------------------------------------------------------------

_SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and_": "&", "or_": "|", "xor": "^", "lshift": "<<", "rshift": ">>", "neg": "-", "pos": "+", "invert": "~",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "contains": "in", "not_": "not",
    "truth": "if", "getitem": "[...]", "setitem": "[...] =",
}  # fmt: skip
_SYMBOLS |= {f"i{name.rstrip('_')}": f"{symbol}=" for name, symbol in list(_SYMBOLS.items())[:13]}
_IMPORTS = {"np": "import numpy as np", "math": "import math", "cmath": "import cmath"} | {
    name: f"from pydotcompute import {name}" for name in ("lane", "width", "barrier")
}


def _undefined(_: Diagnosis, name: str) -> str:
    hint = f"write `{_IMPORTS[name]}` above the step" if name in _IMPORTS else "define it before, or check the spelling"
    return f"{name!r} is not defined: {hint}"


def _outside(_: Diagnosis, name: str, kind: str) -> str:
    return f"{name!r} is a {kind.rpartition('.')[2]}: a step reads numbers, tuples, arrays and functions from outside"


def _two_kinds(_: Diagnosis, one: str, other: str, name: str) -> str:
    what = "this expression" if name.startswith("$") else f"{name.partition('.')[0]!r}"
    return f"{what} is {_plain(other)} in one case and {_plain(one)} in another: give these two names"


_FORMS: list[tuple[re.Pattern[str], Callable[..., str]]] = [
    (re.compile(r"NameError: (?:global )?name '(?P<about>\w+)' is not defined"), _undefined),
    (re.compile(r"Untyped global name '(?P<about>\w+)':? Cannot determine Numba type of <class '(.+?)'>"), _outside),
    (re.compile(r"No implementation of function Function\(.*?>>> (\w+)\(([^\n]*)\)\n", re.S), Diagnosis._unfit),
    (
        re.compile(r"Unknown attribute '(?P<about>\w+)' of type (.+)"),
        lambda _, name, kind: f"`.{name}`: {_plain(kind)} has no {name!r}",
    ),
    (re.compile(r"Cannot unify (.+) and (.+) for '(.+?)'"), _two_kinds),
    (
        re.compile(r"failed to unpack (.+)"),
        lambda _, kind: f"{_plain(kind)} cannot be taken apart into several variables",
    ),
    (
        re.compile(r"to signature '.*' due to \"(?:TypeError: )?([^\n]*)\""),
        lambda _, what: f"a function is called in a way that does not fit its definition: {what}",
    ),
    (
        re.compile(r"Cannot cast (.+) to (.+?): "),
        lambda _, kind, wanted: f"{_plain(kind)} where {_plain(wanted)} is wanted",
    ),
    (
        re.compile(r"Cannot modify readonly array"),
        lambda _: "an array from outside is a constant in a step; what changes belongs in its state",
    ),
]
"""What Numba says, and how to say it to users; `about` is a name by which the line is found."""


def _plain(kind: str) -> str:
    """The name that Numba has for a type, in words."""
    for form, words in (
        (r"nestedarray\((\w+), \((\d+),\)\)", r"an array of \2 \1"),
        (r"nestedarray\((\w+), \((.+)\)\)", r"an array of \1 and shape (\2)"),
        (r"(?:readonly |Array|array)*\((\w+), (\d)d?, .+\)", r"an array of \1"),
        (r"Literal\[\w+\]\((.*)\)", r"\1"),
        (r"(?:OptionalType|Optional)\((.*)\)", r"\1 or None"),
        (r"(?:Uni)?Tuple\(.*", "a tuple"),
        (r".*Dispatcher\(<function (\w+) .*", r"the function \1"),
        (r"Function\(<.*?(\w+)'?>\)", r"the function \1"),
        (r"(?:class|type)\((.*)\)", r"the type \1"),
        (r"range_(?:state|iter).*", "a range"),
        (r"none", "None"),
        (r"unicode_type", "a text"),
    ):
        if match := re.fullmatch(form, kind.strip()):
            return match.expand(words)
    return kind.strip()


def _split(arguments: str) -> list[str]:
    """The parts between the outermost commas."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _first_line(text: str) -> str:
    """What an error says, without how Numba came to it."""
    lines = [line.strip() for line in text.splitlines()]
    told = next((line for line in lines if line and not line.startswith("Failed in ")), "")
    return told if len(told) < 200 else f"{told[:200]} ..."
