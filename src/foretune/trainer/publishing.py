"""A trainer that can be pushed to the Hugging Face hub: its repository is claimed first, and no stray file is sent."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftModel
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import SchedulerType

from foretune.hub import claim_repo, files_of, upload
from foretune.journal import RollbackRecord
from foretune.methods import AbstractRecipe
from foretune.trainer import model_card as cards
from foretune.trainer.arguments import RunArguments

FINAL_NAME = "final"
"""In a run's folder: the folder of its model."""


class PublishingTrainer(Trainer, abc.ABC):
    """A `transformers.Trainer` whose cards say what was done, and which pushes its model, card and record alone."""

    args: RunArguments  # pyrefly: ignore[bad-override-mutable-attribute]
    model: nn.Module  # pyrefly: ignore[bad-override-mutable-attribute]
    record_name: ClassVar[str]
    """File of the run's folder that says what was done."""

    @property
    @abc.abstractmethod
    def recipe(self) -> AbstractRecipe:
        """The method or baseline with its settings."""

    @property
    @abc.abstractmethod
    def base_weights_hash(self) -> str:
        """Digest of the weights before training."""

    @property
    def rollbacks(self) -> Sequence[RollbackRecord]:
        """How often the run went back to an earlier step, and why."""
        return ()

    @property
    def _output_dir(self) -> Path:
        return Path(self.args.output_dir or ".")

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Claim the repository of `hub_model_id`, by default one that is called as the folder (called when made).

        Raises:
            HubError: there is no token or network, or the token may not write there.
        """
        self.hub_model_id = claim_repo(
            self.args.hub_model_id or self._output_dir.absolute().name,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
        )
        self.push_in_progress = None

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the run's model card, README.md, into `output_dir`: method, settings, evaluation, hashes.

        Args:
            language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args: As in
                `transformers.Trainer`.
        """
        recipe = self.recipe
        inner = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        base = finetuned_from or getattr(getattr(inner, "config", None), "_name_or_path", None) or None
        figures, step = self._figures()
        (task,) = _listed(tasks)[:1] or [None]
        data = cards.metadata(
            self.model,
            recipe,
            base=base,
            task=", ".join(_listed(dataset)) or None,
            datasets=_listed(dataset_tags),
            figures=figures,
            language=language,
            license=license,
            tags=_listed(tags),
            model_name=model_name,
            pipeline_tag=task,
            dataset_args=dataset_args,
        )
        named = cards.base_name(base) if base else type(inner).__name__
        record = self._output_dir / self.record_name
        cards.save_card(
            cards.make_card(
                data,
                model_name or f"{named} tuned with {cards.recipe_name(recipe)}",
                f"{cards.describe_tuning(self.model)} `{named}`, tuned by {cards.describe_method(recipe)}.",
                {
                    "Figures": [cards.figures_table("evaluation", {f"tuned (step {step})": figures})],
                    "Rollbacks": cards.rollbacks_section([asdict(rollback) for rollback in self.rollbacks]),
                    "Method": cards.method_section(recipe, self._settings()),
                    "Hashes": [
                        cards.origins(weights_hash=self.base_weights_hash, record=record if record.is_file() else None),
                        cards.versions(self.model),
                    ],
                },
            ),
            self._output_dir,
        )

    # pyrefly: ignore[bad-override]
    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model in ``output_dir/final``, write the card, and upload both with the run's record.

        Args:
            commit_message, blocking, token, revision, private, kwargs: As in `transformers.Trainer`.
        Returns:
            The commit, or the future of one if not `blocking`.
        Raises:
            HubError: the hub cannot be reached, or refuses.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        repo_id = str(self.hub_model_id)
        self.save_model(str(self._output_dir / FINAL_NAME), _internal_call=True)
        tags = [*_listed(kwargs.pop("tags", None)), *(getattr(self.model, "model_tags", None) or [])]
        self.create_model_card(**{"model_name": repo_id.split("/")[-1], **kwargs}, tags=tags)
        return upload(
            repo_id,
            published_files(self._output_dir, [self.record_name]),
            message=commit_message or "End of training",
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            blocking=blocking,
        )

    def _figures(self) -> tuple[dict[str, float], int]:
        """Return the last evaluation of the model as it is, and its step."""
        state = self.state
        best = state.best_global_step if self.args.load_best_model_at_end else None
        step = best or state.global_step
        found = {}
        for entry in state.log_history:
            if entry["step"] == step:
                found |= {name: value for name, value in entry.items() if name.startswith("eval_")}
        clocks = ("_runtime", "_per_second", "_preparation_time")
        return {name.removeprefix("eval_"): value for name, value in found.items() if not name.endswith(clocks)}, step

    def _settings(self) -> dict[str, Any]:
        args = self.args
        return {
            "engine": getattr(args, "engine", None),
            "steps": self.state.global_step,
            "batch size": args.per_device_train_batch_size,
            "gradient accumulation steps": args.gradient_accumulation_steps,
            "lr scheduler": SchedulerType(args.lr_scheduler_type).value,
            "warmup steps": args.warmup_steps,
            "seed": args.seed,
            "seed of the rows' order": args.data_seed,
        }


def published_files(output: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return what is uploaded of a run's folder, by name there: its final model, its card, and files of these names."""
    beside = {name: output / name for name in (cards.CARD_NAME, *names) if (output / name).is_file()}
    return files_of(output / FINAL_NAME) | beside


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
