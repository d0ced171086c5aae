"""One file per method, and the interface of methods (`protocol`). Not here: the loop that runs them, images, kernels.

The names that authors of methods import are re-exported here.
"""

from dnas.methods.protocol import Candidate as Candidate
from dnas.methods.protocol import GradientMethod as GradientMethod
from dnas.methods.protocol import GradientOptions as GradientOptions
from dnas.methods.protocol import Method as Method
from dnas.methods.protocol import MethodOptions as MethodOptions
from dnas.methods.protocol import Progress as Progress
from dnas.methods.protocol import SupernetMethod as SupernetMethod
from dnas.methods.protocol import SupernetOptions as SupernetOptions
from dnas.methods.protocol import Trial as Trial
from dnas.methods.protocol import TrialMethod as TrialMethod
from dnas.methods.protocol import best as best
from dnas.methods.protocol import whole_network as whole_network
from dnas.methods.registry import create as create
from dnas.methods.registry import get_method as get_method
from dnas.methods.registry import list_methods as list_methods
from dnas.supernet.mapping import Nothing as Nothing
