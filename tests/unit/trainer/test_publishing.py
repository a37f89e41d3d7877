"""ZOTrainer's pushes and cards, as a user of transformers' Trainer calls them, on a hub of this machine."""

from __future__ import annotations

import hashlib
import json

import pytest
from huggingface_hub import ModelCard
from transformers import TrainerCallback

from fake_hub import COMMIT
from foretune import FOTrainer, FOTrainingArguments
from foretune.adapters import LoRATuning
from foretune.errors import HubError
from foretune.journal import hash_weights
from unit.trainer.runs import MeanOverRows, TinyLM, collate, make_opt, make_rows, make_trainer

SETTINGS = {"max_steps": 4, "eval_strategy": "no", "save_strategy": "no"}


class Pushes(TrainerCallback):
    """Counts the pushes that are announced."""

    num_pushes = 0

    def on_push_begin(self, args, state, control, **kwargs):
        self.num_pushes += 1


def test_a_push_holds_model_card_and_journal(hub, tmp_path):
    announced = Pushes()
    settings = {**SETTINGS, "eval_strategy": "steps", "eval_steps": 2}
    trainer = make_trainer(
        tmp_path / "run",
        model=make_opt(),
        callbacks=[announced],
        push_to_hub=True,
        hub_model_id="tuned",
        hub_private_repo=True,
        **settings,
    )
    assert list(hub.repos) == ["me/tuned"]  # before training
    assert not hub.repos["me/tuned"].files
    trainer.train()
    (tmp_path / "run" / "notes.txt").write_text("of the user")
    commit = trainer.push_to_hub("a run", tags="reviews", license="mit", language="en", dataset_tags="me/reviews")
    repo, final = hub.repos["me/tuned"], tmp_path / "run" / "final"
    assert (commit.oid, repo.messages, repo.private, announced.num_pushes) == (COMMIT, ["a run"], True, 1)
    assert repo.files == {path.name: path.read_bytes() for path in final.iterdir()} | {
        name: (tmp_path / "run" / name).read_bytes() for name in ("README.md", "journal")
    }
    assert b"hf_mine" not in b"".join(repo.files.values())
    card = ModelCard(repo.files["README.md"].decode())
    assert (card.data.license, card.data.language, card.data.datasets) == ("mit", "en", ["me/reviews"])
    assert card.data.tags == ["foretune", "mezo", "zeroth-order", "reviews"]
    assert card.data.pipeline_tag == "text-generation"
    evaluated = next(entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry)
    assert evaluated["step"] == 4
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "loss": evaluated["eval_loss"],
        "draw": evaluated["eval_draw"],
    }
    for digest in (hash_weights(make_opt().named_parameters()), hashlib.sha256(repo.files["journal"]).hexdigest()):
        assert digest in card.text


def test_saving_a_model_pushes_as_in_transformers(hub, tmp_path):
    trainer = make_trainer(tmp_path / "run", push_to_hub=True, **SETTINGS)
    trainer.train()
    trainer.save_model()
    assert hub.repos["me/run"].messages == ["Model save"]
    assert "journal" in hub.repos["me/run"].files


def test_a_refused_repository_stops_before_training(hub, tmp_path):
    with pytest.raises(HubError, match="Cannot push to them/tuned: the token may not write there"):
        make_trainer(tmp_path / "run", push_to_hub=True, hub_model_id="them/tuned", **SETTINGS)


def test_a_push_that_was_not_announced_claims_its_repository_then(hub, tmp_path):
    trainer = make_trainer(tmp_path / "run", **SETTINGS)
    trainer.train()
    assert not hub.repos
    assert trainer.push_to_hub(blocking=False, private=True).result().oid == COMMIT
    assert hub.repos["me/run"].private


def test_a_card_lists_the_method_s_settings_and_keeps_what_a_user_adds(tmp_path):
    trainer = make_trainer(tmp_path / "run", method="lozo", method_options={"rank": 3}, **SETTINGS)
    trainer.train()
    trainer.create_model_card(model_name="my model", finetuned_from="org/base", tasks="text-classification")
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.text.splitlines()[1] == "# my model"
    assert (card.data.base_model, card.data.pipeline_tag) == ("org/base", "text-classification")
    assert card.data.eval_results is None  # nothing was evaluated
    cells = dict(line[2:-2].split(" | ") for line in card.text.splitlines() if line.count("|") == 3)
    assert (cells["rank"], cells["lr"], cells["steps"], cells["seed"]) == ("3", "0.01", "4", "7")
    assert "arXiv:2410.07698" in card.text
    trainer.save_model(str(tmp_path / "run"))
    assert ModelCard.load(tmp_path / "run" / "README.md").content == card.content


def test_an_adapter_saved_beside_a_card_leaves_it_alone(tmp_path):
    trainer = make_trainer(tmp_path / "run", model=LoRATuning(r=2).attach(make_opt(), seed=0), **SETTINGS)
    (tmp_path / "run" / "README.md").write_text("# of the user\n")
    trainer.save_model()
    assert (tmp_path / "run" / "README.md").read_text() == "# of the user\n"
    trainer.save_model(str(tmp_path / "other"))
    assert (tmp_path / "other" / "adapter_config.json").is_file()
    assert not (tmp_path / "other" / "README.md").exists()


def test_a_first_order_run_is_pushed_with_its_settings(hub, tmp_path):
    args = FOTrainingArguments(
        output_dir=str(tmp_path / "run"),
        method="sgd",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        push_to_hub=True,
        per_device_train_batch_size=4,
        **SETTINGS,
    )
    trainer = FOTrainer(TinyLM(), args, objective=MeanOverRows(), train_dataset=make_rows(8), data_collator=collate)
    trainer.train()
    trainer.push_to_hub()
    files = hub.repos["me/run"].files
    assert json.loads(files["run.json"])["method"]["name"] == "sgd"
    card = ModelCard(files["README.md"].decode())
    assert card.data.tags == ["foretune", "sgd"]
    assert card.data.base_model is card.data.library_name is None  # a module of one's own
    assert "All weights of `TinyLM`" in card.text
