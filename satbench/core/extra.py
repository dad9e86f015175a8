"""Images of another data set that a training mixed into its batches, as a value. Needs no torch."""

from pydantic import BaseModel, ConfigDict, Field


class ExtraData(BaseModel):
    """A data set's name and the share of every batch that came from it.

    digest: of the images that were used, where they are known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fraction: float = Field(gt=0, lt=1, strict=True)
    digest: str | None = None

    def __str__(self) -> str:
        return f"{100 * self.fraction:g}% {self.name}"
