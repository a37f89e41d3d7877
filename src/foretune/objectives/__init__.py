"""What the loss reads: from examples to batches, and from a model and a batch to a loss."""

from foretune.objectives.base import Objective
from foretune.objectives.batches import CandidateBatch, collate_candidates
from foretune.objectives.classification import ClassificationObjective
from foretune.objectives.encoding import MAX_LENGTH, EncodedExample, encode_examples, usable_length
from foretune.objectives.forward import check_window
from foretune.objectives.lm import LMObjective
from foretune.objectives.masked import MaskedObjective
from foretune.objectives.masked_encoding import EncodedMaskedExample, encode_masked, usable_masked_length
from foretune.objectives.masked_head import MaskedHead, find_masked_head
from foretune.objectives.packing import find_packed_length
from foretune.objectives.split_head import SplitHead, find_split_head
from foretune.objectives.tied_head import TiedHead, find_tied_head

__all__ = [
    "MAX_LENGTH",
    "CandidateBatch",
    "ClassificationObjective",
    "EncodedExample",
    "EncodedMaskedExample",
    "LMObjective",
    "MaskedHead",
    "MaskedObjective",
    "Objective",
    "SplitHead",
    "TiedHead",
    "check_window",
    "collate_candidates",
    "encode_examples",
    "encode_masked",
    "find_masked_head",
    "find_packed_length",
    "find_split_head",
    "find_tied_head",
    "usable_length",
    "usable_masked_length",
]
