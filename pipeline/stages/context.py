"""What every stage is given: the recipe, the targets, its inputs and a folder to fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.core.errors import PareError
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json
from pipeline.core.target import Target

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor, fx, nn

    from pipeline.data import Dataset
    from pipeline.stages.runner import Reporter

M = TypeVar("M", bound="nn.Module")


@dataclass(frozen=True)
class Context:
    """One run as its stages see it.

    Attributes:
        inputs: folders of the finished stages, by name.
        out: folder that the stage fills; it is renamed when the stage returns.
        shelf: folder that runs of a search have in common.
    """

    recipe: Recipe
    targets: list[Target]
    reporter: Reporter
    shared: Shared
    inputs: dict[str, Path] = field(default_factory=dict)
    out: Path = Path()
    shelf: Path | None = None

    def at(self, inputs: dict[str, Path], out: Path) -> Context:
        """Return the same run for one stage, with its inputs and its folder."""
        return replace(self, inputs=inputs, out=out)

    @property
    def data(self) -> Dataset:
        """The recipe's images, decoded once for all stages."""
        return self.shared.data

    def network(self) -> nn.Module:
        """Return the recipe's network with its first weights: drawn, or the checkpoint's."""
        return self._built(self.recipe.model.checkpoint)

    def teacher(self) -> nn.Module | None:
        """Return the network that the recipe's learns from, if there is one."""
        path = self.recipe.train.teacher
        return self._built(path) if path else None

    def _built(self, checkpoint: str | None) -> nn.Module:
        from pipeline.models import build, load_checkpoint

        choice = self.recipe.model
        channels, height, _ = self.data.shape
        model = build(
            choice.name,
            choice.options,
            classes=len(self.data.classes),
            channels=channels,
            size=height,
            seed=self.recipe.seed,
        )
        if checkpoint:
            load_checkpoint(model, Path(checkpoint).expanduser())
        return model

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors to a safetensors file of the stage's folder.

        Each is stored on its own, also where two share their memory. A full disk is an
        ``OSError`` here, which safetensors' own ``save_file`` does not raise.
        """
        from safetensors.torch import save

        own = {
            key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()
        }
        (self.out / name).write_bytes(save(own))

    def save_array(self, name: str, values: npt.NDArray[Any]) -> None:
        """Write an array to a file of the stage's folder."""
        import numpy as np

        np.save(self.out / name, values, allow_pickle=False)

    def folded(self, weights: str) -> fx.GraphModule | None:
        """Return the compacted network as it is exported, its batch norms folded.

        Args:
            weights: ``float`` for what every file can hold; ``per-channel``, ``per-tensor``
                or ``qat`` for what the quantize stage left for files of integers, nothing
                where it left none.
        """
        from pipeline.graph.fold import fold_batch_norm

        path = self.inputs["quantize"] / f"{weights}.safetensors"
        if not path.is_file() and weights != "float":
            return None
        network = fold_batch_norm(self.compacted())
        return _with_weights(network, path) if path.is_file() else network

    def trained(self, stage: str) -> nn.Module:
        """Return the network with the weights that ``train`` or ``prune`` left."""
        return _with_weights(self.network(), self.inputs[stage] / "model.safetensors")

    def compacted(self) -> fx.GraphModule:
        """Return the compacted network, rebuilt from its plan and its weights."""
        from torch import fx

        from pipeline.graph.plan import CutPlan
        from pipeline.graph.surgery import rebuild

        folder = self.inputs["compact"]
        model: nn.Module = self.network()
        for name in ("plan.json", "paid.json"):  # the second where that was asked for
            if (folder / name).is_file():
                plan = CutPlan.model_validate(read_json(folder / name))
                model = rebuild(model, self.data.shape, plan)
        assert isinstance(model, fx.GraphModule)
        return _with_weights(model, folder / "model.safetensors")

    def metric(self, stage: str, name: str) -> float:
        """Return a figure that a finished stage recorded."""
        return float(read_json(self.inputs[stage] / "stage.json")["metrics"][name])

    def masks(self) -> dict[str, Tensor]:
        """Return the masks that training left, boolean, by parameter name."""
        from safetensors.torch import load_file

        stored = load_file(self.inputs["train"] / "masks.safetensors")
        return {name: mask.bool() for name, mask in stored.items()}


def _with_weights(model: M, path: Path) -> M:
    """Return the network with the weights that a stage left, in evaluation mode.

    Raises:
        PareError: the network is not the one they were trained in.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise PareError(
            f"the network does not take the weights in {path}: the model's code has changed "
            "since it was trained; run with --fresh."
        ) from error
    model.eval()
    return model


class Shared:
    """What the stages of one run share in memory."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    @cached_property
    def data(self) -> Dataset:
        """The recipe's images, decoded once."""
        from pipeline.data import load

        return load(self._recipe.data)
