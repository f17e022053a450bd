"""Dense network + budget -> network with masks."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline.core.rundir import CHECKPOINT, write_json
from pipeline.graph.counting import count, prunable_count
from pipeline.graph.trace import trace
from pipeline.methods import Method, create
from pipeline.stages import dense_start
from pipeline.stages.context import Context
from pipeline.stages.train_process import train_in_processes
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import Progress, Trained, train
from pipeline.training.processes import alone, check_processes
from pipeline.training.recalibration import pruned_network, recalibrated


def run(context: Context) -> dict[str, Any]:
    """Train with the recipe's method; leave apparent weights, masks and the history.

    Raises:
        PareError: unusable data, model, method or checkpoint, before the first epoch.
    """
    recipe, data = context.recipe, context.data
    check_processes(recipe.train)
    model = context.network()
    method = create(recipe.method, recipe.budget, data.shape)
    # What can't be paid for or can't be compacted is refused before it is trained.
    recipe.budget.kept(prunable_count(model))
    trace(model, data.shape)
    prices = method.prices(model)
    trained = _trained(context, model, method)
    context.save("model.safetensors", trained.model.state_dict())
    context.save("masks.safetensors", trained.masks)
    write_json(context.out / "history.json", [epoch.model_dump() for epoch in trained.history])
    counted = count(trained.model, data.shape, trained.masks)
    trained_accuracy = accuracy(trained.model, data.test, data)
    pruned_accuracy, reference = _accuracies(trained, trained_accuracy, context)
    figures = method.figures(
        trained.attached,
        lambda net: accuracy(
            recalibrated(net, data, recipe.train, recipe.seed), data.test, data
        ),
    )
    return {
        "summary": f"{recipe.method.name}: {len(trained.history)} epochs, best "
        f"{trained.best_epoch}; test {trained_accuracy:.2%}; keeps {counted.kept:,} of "
        f"{counted.weights:,} weights",
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
        "test_accuracy": trained_accuracy,
        "reference_epoch": trained.reference_epoch,
        "reference_accuracy": reference,
        "reference_validation": trained.reference_validation,
        "pruned_test_accuracy": pruned_accuracy,
        "method_figures": figures,
        "test_images": len(data.test),
        "weights": counted.weights,
        "kept_weights": counted.kept,
        "budget": {
            "unit": recipe.budget.unit,
            "part": prices.part,
            "whole": prices.whole,
            "spent": prices.cost(trained.masks),
        },
        "options": method.params.model_dump(mode="json"),
        "data": {
            "name": data.name,
            "classes": data.classes,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "shape": list(data.shape),
            "note": data.note,
        },
    }


def _trained(context: Context, model: nn.Module, method: Method) -> Trained:
    """Train in this process, or in several others and take what they found."""
    recipe, checkpoint = context.recipe, context.out / CHECKPOINT
    progress: Progress | None = context.reporter.progress
    if recipe.train.devices > 1:
        train_in_processes(recipe, checkpoint, context.reporter.progress)
        # Their checkpoint is of a finished training: continued, nothing is left to train.
        progress = None
    shared = dense_start.place(context.shelf, recipe, method)
    dense_start.take_over(shared, checkpoint)
    return train(
        model,
        method,
        context.data,
        alone(recipe.train),
        seed=recipe.seed,
        checkpoint=checkpoint,
        progress=progress,
        teacher=context.teacher(),
        dense_end=shared,
    )


def _accuracies(trained: Trained, known: float, context: Context) -> tuple[float, float]:
    """Return top-1 of the pruned network and of the reference, each network run once."""
    recipe, data = context.recipe, context.data
    bare = pruned_network(trained.model, trained.masks, data, recipe.train, recipe.seed)
    return (
        known if bare is trained.model else accuracy(bare, data.test, data),
        known
        if trained.reference_epoch == trained.best_epoch
        else accuracy(trained.reference, data.test, data),
    )
