"""Two-cell genotype as in the literature, as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnas.deploy.protocol import Exported, Format
from dnas.errors import InputError
from dnas.pipeline.model import Trained
from dnas.space.architecture import Architecture


class Genotype(Format):
    """Genotype for the DARTS code and programs that read its genotypes: one cell pair for all layers, no weights."""

    name = "darts"
    title = "DARTS genotype, without weights"
    files = ("genotype.txt",)

    def objection(self, trained: Trained) -> str | None:
        if not isinstance(trained.subject, Architecture):
            return f"{trained.subject.name} is a reference network and has no cells"
        try:
            trained.subject.to_darts()
        except InputError as error:
            return str(error)
        return None

    def write(self, exported: Exported, folder: Path) -> Mapping[str, Any]:
        architecture = exported.trained.subject
        assert isinstance(architecture, Architecture)
        (folder / self.file).write_text(genotype_text(architecture) + "\n", "utf-8")
        return {"layers": len(architecture), "channels": exported.trained.channels}


def genotype_text(architecture: Architecture) -> str:
    """Return `Genotype(normal=[('sep_conv_3x3', 1), …], normal_concat=[…], reduce=[…], reduce_concat=[…])`.

    Raises InputError if layers differ.
    """
    genotype = architecture.to_darts()
    values = (
        f"{key}={[tuple(gene) for gene in value] if not key.endswith('_concat') else value}"
        for key, value in genotype.items()
    )
    return f"Genotype({', '.join(values)})"
