"""What is done to a network before its integers are made, where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.core.plan import Kept, SchemePlan
from pipeline.core.target import Granularity
from pipeline.graph.equalise import demand, equalise, prove
from pipeline.graph.preflight import lint
from pipeline.quantizers._correction import correct_bias
from pipeline.quantizers._sensitivity import LayerSensitivity, sensitivity
from pipeline.quantizers._simulation import observe
from pipeline.stages.context import Context
from pipeline.training.quantization_aware import train_quantized

if TYPE_CHECKING:
    from torch import Tensor, fx

_CHECKPOINT = "qat_checkpoint.pt"
_MOST_IMAGES = 512  # of the validation split, on which layers are ranked


def equalised(
    context: Context, network: fx.GraphModule, images: Tensor
) -> tuple[dict[str, Any] | None, fx.GraphModule]:
    """Move scale between layers where that is asked for, and prove that nothing changed."""
    if not context.recipe.quantize.equalise:
        return None, network
    found = equalise(network)
    proof = prove(network, found.network, images[:16])
    demand(proof)
    context.save("float.safetensors", found.network.state_dict())
    return {
        "pairs": [pair.model_dump() for pair in found.pairs],
        "unpaired": [one.model_dump() for one in found.unpaired],
        "worst": proof.worst,
    }, found.network


def findings(
    context: Context, network: fx.GraphModule, plans: Sequence[SchemePlan], images: Tensor
) -> list[dict[str, Any]]:
    """Look for structures that hurt integers; each is a warning with its remedy."""
    if not _calibrated(plans):
        return []
    found = lint(network, _hardest(plans), images[:64])
    for one in found:
        context.reporter.warn(f"int8: {one.where}: {one.what} {one.remedy}")
    return [one.model_dump() for one in found]


def corrected(
    context: Context, network: fx.GraphModule, plans: Sequence[SchemePlan], images: Tensor
) -> dict[str, Any] | None:
    """Shift biases by what rounding the weights costs on average, where that is asked for.

    What one scale a weight costs is not what one a channel does: each gets its own biases.
    """
    if not context.recipe.quantize.bias_correction:
        return None
    moved: dict[str, Any] = {}
    for grain in sorted({plan.granularity for plan in plans if plan.granularity}):
        found = correct_bias(network, images, grain)
        context.save(f"{grain}.safetensors", found.network.state_dict())
        moved[grain] = [layer.model_dump() for layer in found.layers]
    return moved


def ranking(
    context: Context, network: fx.GraphModule, plans: Sequence[SchemePlan], images: Tensor
) -> list[dict[str, str]]:
    """Rank the layers by what their quantization costs, where an accuracy limit needs it."""
    options, data = context.recipe.quantize, context.data
    if options.max_accuracy_drop is None or not _calibrated(plans):
        return []
    ranges = observe(network, images, options.method)
    shown = data.validation.subset(_MOST_IMAGES, options.calibration_seed)
    found = sensitivity(
        network, ranges, data.normalise(shown.images), shown.labels, _hardest(plans)
    )
    return [Kept(layer=one.layer, why=_said(one)).model_dump() for one in found]


def trained(
    context: Context, network: fx.GraphModule, plans: Sequence[SchemePlan], images: Tensor
) -> dict[str, Any] | None:
    """Train with rounded weights and activations, where that is asked for."""
    options = context.recipe.quantize
    if not options.qat_epochs or not _calibrated(plans):
        return None
    found = train_quantized(
        network,
        context.data,
        images,
        context.recipe.train,
        epochs=options.qat_epochs,
        granularity=_hardest(plans),
        seed=context.recipe.seed,
        calibration_method=options.method,
        lr_factor=options.qat_lr_factor,
        checkpoint=context.out / _CHECKPOINT,
        progress=context.reporter.progress,
    )
    (context.out / _CHECKPOINT).unlink(missing_ok=True)
    context.save("qat.safetensors", found.network.state_dict())
    return {
        "epochs": options.qat_epochs,
        "best_epoch": found.best_epoch,
        "simulated_before": found.before,
        "simulated_after": found.after,
    }


def _calibrated(plans: Sequence[SchemePlan]) -> list[SchemePlan]:
    return [plan for plan in plans if plan.is_calibrated]


def _hardest(plans: Sequence[SchemePlan]) -> Granularity:
    """Return the coarsest scales of any integer file: what learns for them suits the finer."""
    grains = {plan.granularity for plan in _calibrated(plans)}
    return "per-tensor" if "per-tensor" in grains else "per-channel"


def _said(one: LayerSensitivity) -> str:
    """Say what quantizing one layer alone costs."""
    lost = f", {one.accuracy_drop * 100:.2f} points lost" if one.accuracy_drop else ""
    return (
        f"alone in int8: {one.sqnr_db:.1f} dB, {one.agreement:.1%} same class{lost}; "
        f"{one.macs_share:.1%} of the MACs"
    )
