import sys

import pytest


def test_a_process_is_killed_in_time(tmp_path):
    from kill_resume import live

    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    life = live(command, tmp_path / "run", kill_after=0.2, once_it_trains=False)
    assert not life.finished
    assert 0.2 <= life.seconds < 30
    assert life.redone == 0
    assert life.first_update_after is None


def test_a_run_that_fails_by_itself_is_an_error(tmp_path):
    from kill_resume import live

    with pytest.raises(RuntimeError, match="status 1:\nno such model"):
        live(
            [sys.executable, "-c", "raise SystemExit('no such model')"],
            tmp_path / "run",
            kill_after=None,
            once_it_trains=False,
        )


def test_the_inputs_can_be_trained_on(tmp_path):
    from kill_resume import write_inputs
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from foretune.data import load_task_data
    from foretune.objectives import encode_examples

    model_dir, data_dir = write_inputs(tmp_path)
    data = load_task_data("sst2", str(data_dir), num_train=8, num_dev=4, num_eval=4)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    rows = encode_examples(data.examples(data.train), tokenizer)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    assert max(row.length for row in rows) <= model.config.max_position_embeddings
    assert max(max(map(max, row.token_ids)) for row in rows) < model.config.vocab_size
