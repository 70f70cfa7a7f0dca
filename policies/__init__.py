"""Ways to search. A policy is a frozen dataclass of options with one method; see `searchkit.types.Policy`."""

from policies.beam_search import BeamSearch
from policies.best_of_n import BestOfN
from policies.best_of_n_per_chunk import BestOfNPerChunk
from policies.front_loading import FrontLoading
from policies.greedy import Greedy
from policies.preview_pruning import PreviewPruning
from policies.stream_t1 import StreamT1

__all__ = ["BeamSearch", "BestOfN", "BestOfNPerChunk", "FrontLoading", "Greedy", "PreviewPruning", "StreamT1"]
