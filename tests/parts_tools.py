"""What tests of parts share: the tiny search of `tiny_gradient`, with parts."""

import tiny_gradient
from tiny_gradient import INFO, SPLIT, tiny

from dnas import parts
from dnas.searching.search import Search


def taken(*names, **options):
    """The parts of these names; `options` by name, with _ for -."""
    return parts.create(names, {name.replace("_", "-"): values for name, values in options.items()})


def search_with(with_parts, name="dnas", mapping=None, options=None, seed=0, **changes):
    method, settings = tiny(name, mapping, options, **changes)
    parts.check(with_parts, method, settings)
    return Search(method, settings, SPLIT, INFO, seed, "cpu", with_parts=with_parts)


def run_whole(search):
    """All steps of a search. Returns it."""
    tiny_gradient.run_on(search, 0, search.settings.epochs * search.settings.steps_per_epoch)
    return search
