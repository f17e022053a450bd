"""The networks that a fit chooses from: a recipe made narrower, smaller, or pruned."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.core.errors import PareError
from pipeline.core.plugins import DATA, METHODS, MODELS
from pipeline.core.recipe import Recipe
from pipeline.core.record import Record
from pipeline.search.trial import Trial

Factor = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(gt=0, le=1)]
Kind = Literal["dense", "weights", "macs", "channels"]

#: Options of a model that count its channels.
_WIDTHS = ("width", "hidden")
_STEP = 4  # channels; kernels run at full speed on blocks of it
_CHANNELS = "filter_norm"


class Space(Record):
    """What is varied of a recipe.

    Attributes:
        widths: factors of the recipe's own width, where its model has one.
        sizes: of the images in pixels a side, where the data can be resized; the recipe's
            own where there are none.
        weights: parts of the weights that are kept, by the recipe's method.
        macs: parts of the multiply-accumulates that are kept, by the recipe's method.
        channels: parts of the weights that are kept by removing whole filters.
        until: last stage of a candidate, before its files are made.
    """

    widths: tuple[Factor, ...] = (1.0, 0.5, 0.25)
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()
    weights: tuple[Part, ...] = (0.2, 0.1, 0.05)
    macs: tuple[Part, ...] = ()
    channels: tuple[Part, ...] = (0.5, 0.25)
    until: str = "compact"


class Member(Record):
    """One network of the family.

    Attributes:
        kind: whether nothing is pruned, weights under a budget of their number or of
            multiply-accumulates, or whole channels.
        part: of the budget's unit that is kept.
    """

    trial: Trial
    kind: Kind
    part: Part


def family(recipe: Recipe, space: Space) -> list[Member]:
    """Return the networks to choose from, those that keep most first.

    Weights are pruned at the whole width only: a file stores a zero as it stores any other
    number, so that a smaller file comes from fewer channels, and pruning weights from what
    is left of a narrow network helps neither.

    Raises:
        PareError: no width is left, or the data can't be resized.
    """
    factors = widths(recipe, space)
    found: dict[str, Member] = {}
    for size in space.sizes or (None,):
        for factor in factors:
            for kind, part in _kinds(space, widest=factor == factors[0]):
                made = member(recipe, kind, part, factor, size, space.until)
                found.setdefault(made.trial.name, made)
    return list(found.values())


def member(
    recipe: Recipe, kind: Kind, part: float, factor: float, size: int | None, until: str
) -> Member:
    """Return one network of the family.

    Args:
        recipe: that is varied.
        kind: of what is pruned.
        part: that is kept.
        factor: of its width.
        size: of its images, or their own.
        until: last stage.
    """
    settings = {
        **_narrowed(recipe, factor),
        **_sized(recipe, size),
        **_pruned(recipe, kind, part),
    }
    name = f"{kind}-{part:g}" if kind != "dense" else "dense"
    name += f"-width-{factor:g}" + (f"-size-{size}" if size else "")
    made = _with(recipe, settings)
    return Member(
        trial=Trial(name=name, settings=settings, recipe=made, until=until),
        kind=kind,
        part=part,
    )


def widths(recipe: Recipe, space: Space) -> list[float]:
    """Return the factors that the model can have, the largest first.

    Trained weights, to start from or to learn from, are of the recipe's own width.
    """
    bound = recipe.model.checkpoint or recipe.train.teacher
    can = [f for f in set(space.widths) if f == 1 or (not bound and _narrowed(recipe, f))]
    if not can:
        why = "its trained weights have one" if bound else "it has no option for it"
        raise PareError(
            f"model {recipe.model.name!r} can't have another width: {why}. Leave --widths "
            "out, or name 1 among them."
        )
    return sorted(can, reverse=True)


def _kinds(space: Space, *, widest: bool) -> list[tuple[Kind, float]]:
    kinds: list[tuple[Kind, float]] = [("dense", 1.0)]
    if widest:
        kinds += [("weights", part) for part in space.weights]
        kinds += [("macs", part) for part in space.macs]
    return [*kinds, *(("channels", part) for part in space.channels)]


def _narrowed(recipe: Recipe, factor: float) -> dict[str, Any]:
    """Return the options that make the model narrower, as far as it has any."""
    if factor == 1:
        return {}
    function, _ = MODELS.load(recipe.model.name)
    found = {}
    for name, known in inspect.signature(function).parameters.items():
        own = recipe.model.options.get(name, known.default)
        if name in _WIDTHS and isinstance(own, int):
            found[f"model.{name}"] = max(_STEP, round(own * factor / _STEP) * _STEP)
    return found


def _sized(recipe: Recipe, size: int | None) -> dict[str, Any]:
    """Return the option that makes the images smaller."""
    if size is None:
        return {}
    data, _ = DATA.load(recipe.data.name)
    fields = getattr(getattr(data, "Params", None), "model_fields", {})
    if "size" not in fields:
        raise PareError(
            f"the images of data {recipe.data.name!r} have one size. Leave --sizes out, or "
            "take a folder of images."
        )
    return {"data.size": size}


def _pruned(recipe: Recipe, kind: Kind, part: float) -> dict[str, Any]:
    """Return method and budget; all candidates train as many epochs in all."""
    if kind == "dense":
        return {"method.name": "dense"}
    if kind == "channels":
        tuned = recipe.train.epochs // 4
        return {
            "method.name": _CHANNELS,
            "method.finetune_epochs": tuned,
            "train.epochs": recipe.train.epochs - tuned,
            "budget.weights": part,
        }
    prunes = METHODS.load(recipe.method.name)[0].prunes and recipe.method.name != "dense"
    own = {} if prunes else {"method.name": "reparam"}
    return {**own, f"budget.{kind}": part}


def _with(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other settings; another method takes none of its options."""
    values: dict[str, Any] = recipe.model_dump(exclude_none=True)
    name = settings.get("method.name", recipe.method.name)
    kept = ("connected",) if name == "dense" else ("connected", "multiple")
    values["budget"] = {key: values["budget"][key] for key in kept}
    if name != recipe.method.name:
        values["method"] = {"name": name}
    for key, value in settings.items():
        table, _, option = key.partition(".")
        values[table] = {**values[table], option: value}
    return Recipe.model_validate(values)
