"""Reader of FLAME's pickles, in which chumpy wraps some of the arrays. Executes nothing of the file.

A `chumpy.ch.Ch` object is read as its array `x`; sparse matrices of SciPy, which hold the joints, are read as None.
"""

import os
from typing import Any

import numpy as np

from twodal_jax.io import pickle_arrays
from twodal_jax.io.pickle_arrays import PickleError

_FOREIGN = {
    (module, name)
    for name, modules in (
        ("Ch", ("chumpy", "chumpy.ch")),
        ("csc_matrix", ("scipy.sparse.csc", "scipy.sparse._csc")),
        ("object", ("__builtin__", "builtins")),
    )
    for module in modules
}


class _Reconstructor:
    """The function `copy_reg._reconstructor`, by name only."""


class _Class:
    """A class of `_FOREIGN`, by name only."""


class _Instance(pickle_arrays.Pending):
    """An object of such a class, until its state is read."""


class _Interpreter(pickle_arrays.Interpreter):
    @staticmethod
    def known_global(module: Any, name: Any) -> Any:
        if isinstance(module, str) and isinstance(name, str):
            if module in ("copy_reg", "copyreg") and name == "_reconstructor":
                return _Reconstructor
            if (module, name) in _FOREIGN:
                return _Class
        return pickle_arrays.known_global(module, name)

    @staticmethod
    def call(function: Any, arguments: Any) -> Any:
        if function is _Reconstructor:
            if not isinstance(arguments, tuple) or not arguments or arguments[0] is not _Class:
                raise PickleError("reconstructs an object of an unknown class; refused")
            return _Instance()
        return pickle_arrays.call(function, arguments)

    def _op_newobj(self, _):
        _, kind = self.stack.pop(), self.stack.pop()
        if kind is not _Class:
            raise PickleError("makes an object of an unknown class; refused")
        self.stack.append(_Instance())

    def _op_build(self, argument):
        if len(self.stack) < 2 or not isinstance(self.stack[-2], _Instance):
            super()._op_build(argument)
            return
        state, instance = self.stack.pop(), self.stack.pop()
        array = state.get("x") if isinstance(state, dict) else None
        array = array if isinstance(array, np.ndarray) else None
        self.stack.append(array)
        for key in instance.memo_keys:
            self.memo[key] = array


def load(path: os.PathLike | str) -> dict[str, Any]:
    """{name: array, number, text or None} of a FLAME model's pickle.

    Raises:
      PickleError: the file is missing, broken, or names anything but NumPy, chumpy and SciPy's sparse matrices.
    """
    return pickle_arrays.load(path, _Interpreter)
