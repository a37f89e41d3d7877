"""SST-5: how good does a movie review find its movie, on a scale of five?

The masked prompt is that of LM-BFF (Gao et al. 2021, arXiv:2012.15723). None for causal language models was published;
ours is SST-2's (Malladi et al. 2023, arXiv:2305.17333) with LM-BFF's five label words.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, HubSource, Template
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.masked import judged_sentence

_WORDS = ("terrible", "bad", "okay", "good", "great")

TASK = TASKS.register("sst5", aliases=("SST5",))(
    ClassificationTask(
        name="sst5",
        summary="movie reviews: very negative to very positive, five steps",
        sources=(HubSource("SetFit/sst5"),),
        fields={"text": str, "label": int},
        label_words=_WORDS,
        templates={
            "v0": Template(prompt=lambda row: f"{row['text'].strip()} It was", sfc_prompt=lambda row: "It was"),
        },
        masked=judged_sentence("text", " It was", _WORDS, limit=110, test_split="test"),
    )
)
