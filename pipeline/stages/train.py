"""Dense network + budget -> network with masks."""

from __future__ import annotations

from typing import Any

from safetensors.torch import save_file

from pipeline.core.rundir import write_json
from pipeline.graph.counting import count
from pipeline.graph.trace import trace
from pipeline.methods import create, masked
from pipeline.stages.context import Context
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train


def run(context: Context) -> dict[str, Any]:
    """Train with the recipe's method; leave apparent weights, masks and the history.

    Raises:
        PareError: unusable data, model, method or checkpoint, before the first epoch.
    """
    recipe, data = context.recipe, context.data
    model = context.network()
    method = create(recipe.method, recipe.budget)
    trace(
        model, data.shape
    )  # a network that can't be compacted is refused before it is trained
    checkpoint = context.out / "checkpoint.pt"
    trained = train(
        model,
        method,
        data,
        recipe.train,
        seed=recipe.seed,
        checkpoint=checkpoint,
        progress=context.reporter.progress,
    )
    checkpoint.unlink(missing_ok=True)
    save_file(trained.model.state_dict(), context.out / "model.safetensors")
    save_file(trained.masks, context.out / "masks.safetensors")
    write_json(context.out / "history.json", [epoch.model_dump() for epoch in trained.history])
    counted = count(trained.model, data.shape, trained.masks)
    trained_accuracy = accuracy(trained.model, data.test, data)
    pruned = accuracy(masked(trained.model, trained.masks), data.test, data)
    return {
        "summary": f"{recipe.method.name}: {len(trained.history)} epochs, best "
        f"{trained.best_epoch}; test {trained_accuracy:.2%}; keeps {counted.kept:,} of "
        f"{counted.weights:,} weights",
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
        "test_accuracy": trained_accuracy,
        "pruned_test_accuracy": pruned,
        "test_images": len(data.test),
        "weights": counted.weights,
        "kept_weights": counted.kept,
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
