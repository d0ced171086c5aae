"""A penalty on mixing weights that have not made up their mind."""

from pydantic import Field

from dnas.parts import Part, PartOptions


class DecidedOptions(PartOptions):
    weight: float = Field(0.1, gt=0, description="of the penalty in the last epoch")


class Decided(Part):
    name, title, paper = "decided", "Decided early", "an example"
    Options = DecidedOptions

    def penalty(self, search, progress):
        """The mean square of the mixing weights, to be raised."""
        weight = progress.between(0.0, self.options.weight)
        return -weight * search.mixing(progress).psi.square().mean()
