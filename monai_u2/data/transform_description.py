# Copyright (c) monai_u2 contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""A description of transforms that changes when what they compute changes."""

from __future__ import annotations

import ast
import copyreg
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_u2.exceptions import InputError

# code of this package is compared by what it says: its version stays the same from one release to the next
_OWN_PACKAGE = __name__.split(".")[0]


def describe_transforms(transforms: Iterable[Any]) -> dict[str, Any]:
    """Describe transforms by their settings and their code, in plain JSON types.

    Covered: the class of each transform and every attribute, through nested transforms, lists, dictionaries, sets,
    arrays and tensors (by their bytes), `functools.partial`, bound methods, and compiled objects as far as pickle holds
    their state; of a lambda or local function its bytecode, defaults, closure, and the globals it names (of a
    dictionary, such as that of a config's `@references`, the entries it names by a constant). The code behind them: the
    version of an installed package; of this package, and of modules that belong to none, the code of the module and of
    what it imports from its own package, without comments and docstrings.

    Not covered: versions of libraries that a transform only calls (torch, numpy, pydicom, ITK), files that a transform
    reads beside the case, and environment variables.

    Args:
        transforms: transforms or any callables.

    Returns:
        `transforms`, one description each, and `code`, from names of packages and modules to versions and hashes.

    Raises:
        InputError: for an object that can't be described: a change of it would go unnoticed.
    """
    description = _Description()
    return {
        "transforms": [description.of(transform, type(transform).__name__) for transform in transforms],
        "code": dict(sorted(description.code.items())),
    }


def hash_description(description: Any) -> str:
    """SHA-256 of JSON values in their order, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()


class _Description:
    """Describes objects and gathers the code that they stand on."""

    def __init__(self) -> None:
        self.code: dict[str, str] = {}
        self.open: list[int] = []

    def of(self, value: Any, where: str) -> Any:
        """Describe a value; `where` leads to it from its transform, for messages."""
        if value is None or isinstance(value, (bool, int, float, str)) and type(value).__module__ == "builtins":
            return value
        if isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind != "O"):
            return _describe_array(value)
        if isinstance(value, bytes):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, (np.random.RandomState, np.random.Generator, torch.Generator)):
            return {"class": _name(type(value))}  # MONAI's Compose has one; of cached transforms none is random
        if isinstance(value, np.ufunc):
            return {"function": f"numpy.{value.__name__}"}
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if id(value) in self.open:
            return {"seen above": len(self.open) - self.open.index(id(value))}
        self.open.append(id(value))
        try:
            return self._of_object(value, where)
        finally:
            self.open.pop()

    def _of_object(self, value: Any, where: str) -> Any:
        if type(value) in (list, tuple):
            return [self.of(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if type(value) in (set, frozenset):
            return {"set": sorted((self.of(item, where) for item in value), key=json.dumps)}
        if type(value) is dict:
            return self._of_items(value.items(), where)
        if isinstance(value, type):
            self._add_code(value)
            return {"class": _name(value)}
        if isinstance(value, types.FunctionType):
            return self._of_function(value, where)
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, (types.ModuleType, type(None))):
            return {"function": _name(value)}
        return self._of_instance(value, where)

    def _of_items(self, items: Iterable[tuple[Any, Any]], where: str) -> Any:
        items = list(items)
        if all(type(key) is str for key, _ in items):
            return {key: self.of(item, f"{where}.{key}") for key, item in items}
        return {"items": [[self.of(key, where), self.of(item, f"{where}[{key!r}]")] for key, item in items]}

    def _of_function(self, function: types.FunctionType, where: str) -> Any:
        module = sys.modules.get(function.__module__)
        if getattr(module, function.__qualname__, None) is function and getattr(module, "__file__", None):
            self._add_module(module.__name__)
            return {"function": _name(function)}
        code = function.__code__
        named = {name: function.__globals__[name] for name in sorted(_names(code)) if name in function.__globals__}
        constants = {constant for constant in _constants(code) if isinstance(constant, str)}
        for name, value in named.items():
            if isinstance(value, Mapping):
                named[name] = {key: value[key] for key in value if key in constants}
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        return {
            "code": self._of_code(code, where),
            "defaults": self.of(function.__defaults__, f"{where}: a default"),
            "keyword defaults": self.of(function.__kwdefaults__, f"{where}: a default"),
            "closure": [self.of(cell, f"{where}: {name}") for name, cell in zip(code.co_freevars, cells)],
            "globals": {name: self.of(value, f"{where}: {name}") for name, value in named.items()},
        }

    def _of_code(self, code: types.CodeType, where: str) -> list[Any]:
        constants = [
            self._of_code(constant, where) if isinstance(constant, types.CodeType) else self.of(constant, where)
            for constant in code.co_consts
        ]
        return [hashlib.sha256(code.co_code).hexdigest(), constants, list(code.co_names), list(code.co_varnames)]

    def _of_instance(self, value: Any, where: str) -> Any:
        try:
            reduced = value.__reduce_ex__(2)
        except (TypeError, AttributeError, NotImplementedError) as error:
            raise InputError(
                f"{where} is a {_name(type(value))}, which can't be described ({error}); expected settings, arrays or "
                "functions: a change of it would go unnoticed. Put this transform after the cached ones."
            ) from error
        if isinstance(reduced, str):
            return {"name": f"{type(value).__module__}.{reduced}"}
        self._add_code(type(value))
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        made: dict[str, Any] = {"class": _name(type(value))}
        if make is copyreg.__newobj__:  # the usual way: the class alone
            arguments = arguments[1:]
        elif make is not type(value):
            made["made by"] = self.of(make, where)
        if arguments:
            made["arguments"] = self.of(list(arguments), where)
        if state:
            made["state"] = self.of(state, where)
        if items is not None:
            made["list"] = self.of(list(items), where)
        if pairs is not None:
            made["dict"] = self._of_items(pairs, where)
        return made

    def _add_code(self, cls: type) -> None:
        for base in cls.__mro__:
            self._add_module(base.__module__)

    def _add_module(self, name: str) -> None:
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or name in self.code:
            return
        version = None if package == _OWN_PACKAGE else _version(package)
        if version is not None:
            self.code[package] = version
            return
        self.code[name] = ""  # modules may import each other
        tree = _code_of_module(name)
        if tree is not None:
            self.code[name] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
            for imported in _imports(tree, name, package):
                self._add_module(imported)


def _describe_array(value: torch.Tensor | np.ndarray) -> dict[str, Any]:
    array = value.detach().cpu().contiguous() if isinstance(value, torch.Tensor) else np.ascontiguousarray(value)
    content = array.flatten().view(torch.uint8).numpy() if isinstance(array, torch.Tensor) else array
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    short = array.tolist() if sum(array.shape) <= 16 and array.ndim < 2 else None
    return {"array": str(array.dtype), "shape": list(array.shape), "sha256": digest, "values": repr(short)}


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _names(code: types.CodeType) -> set[str]:
    """Names that a function looks up, with those of the functions in it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _constants(code: types.CodeType) -> Iterator[Any]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _constants(constant)
        else:
            yield constant


@lru_cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache
def _code_of_module(name: str) -> ast.Module | None:
    """The module's syntax tree without docstrings; None where there is no source."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        file = spec.origin if spec is not None else None
    if file is None or not file.endswith(".py"):
        return None
    tree = ast.parse(Path(file).read_bytes())
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [line for line in node.body if not _is_text(line)]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.Module, name: str, package: str) -> Iterator[str]:
    """Modules of the same package that a module imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join([*name.split(".")[: -node.level], module]).rstrip(".")
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (found for found in names if found.split(".")[0] == package and _code_of_module(found) is not None)
