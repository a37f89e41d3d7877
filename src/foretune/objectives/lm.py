"""Teacher forcing: how likely does the model find the right text?"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from foretune.objectives.batches import ReadBatch, collate_texts
from foretune.objectives.encoding import EncodedExample
from foretune.objectives.split_head import SplitHead, find_split_head, read_logprobs


class LMObjective:
    """Negative log-likelihood of the right option's tokens, a mean over the tokens of the whole batch.

        loss = - 1/N sum over rows and option tokens t of log p(t | everything before t)

    One forward a call, one sequence a row. Logits are computed at the option's positions only, in chunks of
    them: never batch x length x vocabulary. Log-probabilities and loss are float32 whatever the model's dtype. Same
    inputs give the same bits; the model's mode (train or eval) is left alone.

    Args:
        only_train_option: If not, N counts every token of a sequence but its first.
        split_head: What `find_split_head` says of the model that `loss` will be given. Without it the model
            computes the logits of as many last positions of every row as the longest option has tokens.
    References:
        `only_train_option` of Malladi et al. 2023, arXiv:2305.17333. Differs from the published code, which
        computes logits at every position, and finds padding by its id.
    """

    def __init__(self, *, only_train_option: bool = True, split_head: SplitHead | None = None) -> None:
        self._only_train_option = only_train_option
        self._split_head = split_head

    @classmethod
    def for_model(cls, model: nn.Module, *, only_train_option: bool = True) -> LMObjective:
        """Return the objective with the shortcuts that hold for this model."""
        return cls(only_train_option=only_train_option, split_head=find_split_head(model))

    def collate(self, rows: Sequence[EncodedExample]) -> ReadBatch:
        """Put the right candidate of each row into the batch the other methods read."""
        return collate_texts(rows, only_option=self._only_train_option)

    def weight(self, batch: ReadBatch) -> int:
        """Return the denominator of `loss`, its number of tokens: micro-batches combine by it."""
        return batch["read_ids"].shape[0]

    def loss(self, model: nn.Module, batch: ReadBatch) -> Tensor:
        """Return the mean over tokens of -log p, a float32 scalar, in nats per token.

        Raises:
            UsageError: the objective was made for another model.
        """
        return -read_logprobs(model, batch, self._split_head).mean()
