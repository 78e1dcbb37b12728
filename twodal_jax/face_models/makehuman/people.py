"""Random people as weights of MakeHuman's targets.

    face = base mesh + sum_k weight_k target_k

Whole-person targets are weighted as MakeHuman does: `<ancestry>-<sex>-<age>` by the product of the three shares
and `universal-<sex>-<age>-<muscle>-<weight>` by that of its four, each share linear between its anchors
(macrodetails/macro.json). Local targets are sliders from -1 to 1 with one target at each end. NumPy only.
"""

from __future__ import annotations

import itertools
import zipfile

import numpy as np

from twodal_jax.face_models.makehuman import source

ANCESTRIES, SEXES, AGES = ("african", "asian", "caucasian"), ("female", "male"), ("child", "young", "old")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")
LOCAL_FOLDERS = (*("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "ears", "chin", "cheek", "neck", "asym"),)
YOUNGEST, OLDEST = 15.0, 80.0
_BODY = ("asym/asymm-breast", "asym/asymm-trunk")
# Years at which MakeHuman's age targets have full weight.
_CHILD_YEARS, _YOUNG_YEARS, _OLD_YEARS = 10.0, 25.0, 90.0
# Missing in `target.json` of mpfb2: the two ends of these sliders.
_MORE_OPPOSITES = tuple((f"eyes/{side}-eye-eyefold-concave", f"eyes/{side}-eye-eyefold-convex") for side in "lr")
# Sliders that move a part sideways; they make a face lopsided, so they are used less.
_SIDEWAYS = ("head", "nose", "mouth", "neck")
# Standard deviations of the sliders. At 1 a slider makes a caricature; these give faces that differ by about as much
# as scanned ones do.
SLIDER_STD = {"head": 0.15, "neck": 0.15, "ears": 0.25}
OTHER_SLIDER_STD, ASYMMETRY_STD = 0.24, 0.06


def macro_names() -> list[str]:
    """Names of the whole-person targets."""
    first = [f"macrodetails/{'-'.join(parts)}" for parts in itertools.product(ANCESTRIES, SEXES, AGES)]
    second = itertools.product(SEXES, AGES, MUSCLES, WEIGHTS)
    return first + [f"macrodetails/universal-{'-'.join(parts)}" for parts in second]


def local_names(wheel: zipfile.ZipFile) -> list[str]:
    """Names of the local targets of the head."""
    names = [name for folder in LOCAL_FOLDERS for name in source.target_names(wheel, folder)]
    return [name for name in names if not name.startswith(_BODY)]


def mirrored_name(name: str) -> str:
    """Name of the target that does the same to the mirrored face."""
    folder, _, stem = name.partition("/")
    if stem[:2] in ("l-", "r-"):
        return f"{folder}/{'r' if stem[0] == 'l' else 'l'}{stem[1:]}"
    if folder == "asym":
        return name[:-1] + ("r" if name[-1] == "l" else "l")
    if stem in [f"{part}-trans-{way}" for part in _SIDEWAYS for way in ("in", "out")]:
        return name.removesuffix("out") + "in" if name.endswith("out") else name.removesuffix("in") + "out"
    return name


def sliders(names: list[str], opposites: list[tuple[str, str]]) -> list[tuple[str | None, str]]:
    """The local targets as sliders (target at -1 or None, target at 1), each target in one of them."""
    known = set(names)
    pairs = [pair for pair in [*opposites, *_MORE_OPPOSITES] if set(pair) <= known]
    paired = {name for pair in pairs for name in pair}
    return sorted(pairs, key=lambda pair: pair[1]) + [(None, name) for name in names if name not in paired]


def _between(value: np.ndarray, anchors: tuple[float, ...]) -> np.ndarray:
    """Shares [count, len(anchors)] of linear interpolation at `value` [count]; each row sums to 1."""
    return np.stack([np.interp(value, anchors, row) for row in np.eye(len(anchors))], axis=1)


def sample_macro(rng: np.random.Generator, count: int) -> np.ndarray:
    """Weights [count, 72] of `macro_names`: ages 15 to 80, all ancestries and their mixes, both sexes, all builds."""
    ancestry = rng.dirichlet([0.5] * 3, count)
    male = np.where(rng.random(count) < 0.5, 1.0, 0.0) + np.where(rng.random(count) < 0.5, 1, -1) * rng.beta(
        1, 5, count
    )
    male = np.clip(male, 0, 1)
    sex = np.stack([1 - male, male], axis=1)
    age = _between(rng.uniform(YOUNGEST, OLDEST, count), (_CHILD_YEARS, _YOUNG_YEARS, _OLD_YEARS))
    muscle = _between(rng.beta(2, 2, count), (0.0, 0.5, 1.0))
    weight = _between(rng.beta(2, 2, count), (0.0, 0.5, 1.0))
    first = np.einsum("na,ns,nt->nast", ancestry, sex, age).reshape(count, -1)
    second = np.einsum("ns,nt,nm,nw->nstmw", sex, age, muscle, weight).reshape(count, -1)
    return np.concatenate([first, second], axis=1)


def sample_local(
    rng: np.random.Generator, count: int, names: list[str], opposites: list[tuple[str, str]]
) -> np.ndarray:
    """Weights [count, len(names)] of the local targets, each from 0 to 1.

    A slider is normal with the standard deviation of its folder, cut at -1 and 1; the sliders of left and right
    differ by `ASYMMETRY_STD`. The targets of `asym` and the sideways sliders have that standard deviation too.
    """
    column = {name: index for index, name in enumerate(names)}
    weights = np.zeros((count, len(names)))
    shared: dict[str, np.ndarray] = {}
    for negative, positive in sliders(names, opposites):
        lopsided = positive.startswith("asym/") or (
            mirrored_name(positive) != positive and positive.partition("/")[2][:2] not in ("l-", "r-")
        )
        if lopsided:
            value = rng.normal(0, ASYMMETRY_STD, count)
        else:
            key = min(positive, mirrored_name(positive))
            if key not in shared:
                std = SLIDER_STD.get(positive.partition("/")[0], OTHER_SLIDER_STD)
                shared[key] = rng.normal(0, std, count)
            value = shared[key]
            if mirrored_name(positive) != positive:
                value = value + rng.normal(0, ASYMMETRY_STD / np.sqrt(2), count)
        value = np.clip(value, -1, 1)
        weights[:, column[positive]] = np.maximum(value, 0)
        if negative is not None:
            weights[:, column[negative]] = np.maximum(-value, 0)
    return weights
