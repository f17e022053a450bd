"""What goes into an exported file and what comes out, as every reader must know it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.core.record import Record

Layout = Literal["NCHW", "NHWC"]

_PREPROCESSING = {"outside": "(pixel / 255 - mean) / std", "baked": "raw uint8"}


class Signature(Record):
    """The contract of an image classifier: one image tensor in, one row of logits out.

    Attributes:
        input_name: name of the input tensor in every file.
        output_name: name of the output tensor in every file.
        channels: of the image; 1 for grey, 3 for RGB.
        height: of the image in pixels.
        width: of the image in pixels.
        mean: one value a channel, subtracted from pixels in [0, 1].
        std: one value a channel, divides after the mean is subtracted.
        classes: the name of each logit, in order.
        preprocessing: whether the caller normalises, or the file itself: ``outside`` wants
            ``(pixel / 255 - mean) / std``, ``baked`` raw pixels from 0 to 255.
        calibrated_on: what the ranges of a calibrated file were taken from, in words.
        batch: images a call; ``None`` where the caller chooses at each call.
        producer: the program and version that wrote the file.
        recipe_hash: digest of the resolved recipe.
        licence: of the weights, where it is known.
    """

    input_name: str = "input"
    output_name: str = "logits"
    channels: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    mean: list[float]
    std: list[float]
    classes: list[str] = Field(min_length=1)
    preprocessing: Literal["outside", "baked"] = "outside"
    calibrated_on: str | None = None
    batch: int | None = Field(default=1, ge=1)
    producer: str
    recipe_hash: str
    licence: str | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Signature:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} values for "
                f"{self.channels} channels; give one a channel"
            )
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        return self

    def input_shape(self, layout: Layout) -> list[int | None]:
        """Return the shape of the input, batch first.

        >>> digits = Signature(channels=1, height=8, width=6, mean=[0.3], std=[0.2],
        ...                    classes=["a", "b"], producer="pare", recipe_hash="0")
        >>> digits.input_shape("NHWC")
        [1, 8, 6, 1]
        """
        if layout == "NCHW":
            return [self.batch, self.channels, self.height, self.width]
        return [self.batch, self.height, self.width, self.channels]

    def metadata(self, layout: Layout) -> dict[str, Any]:
        """Return what is stored in a file and beside it, as plain data.

        A licence that is not known has no key: a reader would take ``null`` for its name.

        Args:
            layout: order of the axes of the file's input.
        """
        return {
            "input_name": self.input_name,
            "input_shape": self.input_shape(layout),
            "input_layout": layout,
            "output_name": self.output_name,
            "output_shape": [self.batch, len(self.classes)],
            "preprocessing": _PREPROCESSING[self.preprocessing],
            "mean": self.mean,
            "std": self.std,
            "classes": self.classes,
            "producer": self.producer,
            "recipe_hash": self.recipe_hash,
            **({"licence": self.licence} if self.licence is not None else {}),
        }
