"""One file per part: improvements from the literature that any differentiable method can use (`--with`).

Not here: methods, which do not depend on parts, and the search that combines them. The names that authors of parts
import are re-exported here.
"""

from dnas.parts.protocol import Part as Part
from dnas.parts.protocol import PartOptions as PartOptions
from dnas.parts.protocol import SearchView as SearchView
from dnas.parts.registry import check as check
from dnas.parts.registry import create as create
from dnas.parts.registry import get_part as get_part
from dnas.parts.registry import list_parts as list_parts
