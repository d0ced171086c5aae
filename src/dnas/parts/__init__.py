"""One file a part: what the field found since, and any gradient method under any mapping can take (`--with`).

Not here: methods, which know nothing of parts, and the search that composes them. What the authors of parts import is
handed on here.
"""

from dnas.parts.protocol import Part as Part
from dnas.parts.protocol import PartOptions as PartOptions
from dnas.parts.protocol import SearchView as SearchView
from dnas.parts.registry import check as check
from dnas.parts.registry import create as create
from dnas.parts.registry import get_part as get_part
from dnas.parts.registry import list_parts as list_parts
