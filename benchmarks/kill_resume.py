"""Kill a run at random moments, resume it each time, and compare it with one that was left alone.

    python benchmarks/kill_resume.py [--methods mezo lozo | all] [--kills 20] [--model DIR --data-dir DIR] [--quick]

The run is `foretune train` on SST-2-like rows in a process of its own, ended by SIGKILL: a quarter of the
times at any moment since it was started (loading, recovering), otherwise while it trains. Printed for each
resume: how many updates of the journal it found were made again, and the updates in the journal when it was
killed itself. The last line says whether the tuned weights and the journals are the same, bit for bit.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bits import count_changed_bits
from safetensors.torch import load_file
from workload import SHAPES

from foretune.errors import JournalError
from foretune.journal import Journal
from foretune.methods import METHODS

_POLL_SECONDS = 0.002
_ANYWHERE = 0.25
_SUBJECTS = (
    "the film",
    "this story",
    "the acting",
    "a quiet drama",
    "the last act",
    "her performance",
    "the music",
)
_GOOD = ("moving", "warm and funny", "a small wonder", "sharp from start to end", "full of life")
_BAD = ("dull", "a mess", "far too long", "without a single idea", "as flat as its jokes")


@dataclass(frozen=True, slots=True)
class Life:
    """One process from its start to its end.

    Attributes:
        finished: It ended by itself.
        redone: Updates of the journal it found that it dropped in order to make them again.
        first_update_after: Seconds from its start to its first new journal record; None if it wrote none.
        last_update_after: The same for its last.
        seconds: From its start to its end.
    """

    finished: bool
    redone: int
    first_update_after: float | None
    last_update_after: float | None
    seconds: float


def write_inputs(folder: Path, *, num_rows: int = 64, seed: int = 0) -> tuple[Path, Path]:
    """Write a small OPT of random weights with a tokenizer, and SST-2-like rows; return both folders."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    generator = random.Random(seed)
    rows = []
    for number in range(num_rows):
        label = generator.randrange(2)
        sentence = f"{generator.choice(_SUBJECTS)} is {generator.choice((_BAD, _GOOD)[label])} "
        rows.append({"idx": number, "sentence": sentence, "label": label})
    data = folder / "data"
    (data / "sst2").mkdir(parents=True)
    for split in ("train", "validation"):
        (data / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPES["tiny"].vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [row["sentence"] + "It was " + word for row in rows for word in ("great", "terrible")]
    tokenizer.train_from_iterator(texts * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    shape, model = SHAPES["tiny"], folder / "model"
    config = OPTConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        word_embed_proj_dim=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        ffn_dim=shape.ffn_dim,
        max_position_embeddings=shape.max_positions,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        OPTForCausalLM(config).save_pretrained(model)
    fast.save_pretrained(model)
    return model, data


def command(options: Namespace, method: str, model: Path, data: Path, output: Path) -> list[str]:
    """Return the command that starts or resumes the run in `output`."""
    settings = {
        "model": model,
        "data-dir": data,
        "task": "sst2",
        "method": method,
        "tuning": METHODS.get(method).schemes[0],
        "lr": options.lr,
        "steps": options.steps,
        "eval-steps": max(1, options.steps // 10),
        "batch-size": 4,
        "num-train": 32,
        "num-dev": 16,
        "num-eval": 16,
        "output": output,
    }
    start = [
        sys.executable,
        "-c",
        "from foretune.cli.main import main; raise SystemExit(main())",
        "train",
        "--resume",
    ]
    return [*start, *(text for name, value in settings.items() for text in (f"--{name}", str(value)))]


def live(arguments: list[str], output: Path, *, kill_after: float | None, once_it_trains: bool) -> Life:
    """Start the run and kill it after a time, counted from its first new record if `once_it_trains`.

    Raises:
        RuntimeError: the run failed by itself, with what it wrote.
    """
    path = output / "journal"
    found, lowest = num_steps(path), num_steps(path)
    size = _size(path)
    start, first_update, last_update = time.monotonic(), None, None
    with (output.parent / f"{output.name}.log").open("w+") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        while process.poll() is None:
            now = time.monotonic()
            if _size(path) < size:  # recovery drops what will be made again
                lowest = min(lowest, num_steps(path))
            elif _size(path) > size:
                first_update, last_update = first_update or now, now
            size = _size(path)
            since = first_update if once_it_trains else start
            if kill_after is not None and since is not None and now - since >= kill_after:
                process.kill()
                process.wait()
                break
            time.sleep(_POLL_SECONDS)
        if process.returncode > 0:
            log.seek(0)
            raise RuntimeError(f"The run ended with status {process.returncode}:\n{log.read()}")
    stop = time.monotonic()
    return Life(
        finished=process.returncode == 0,
        redone=found - lowest,
        first_update_after=None if first_update is None else first_update - start,
        last_update_after=None if last_update is None else last_update - start,
        seconds=stop - start,
    )


def num_steps(path: Path) -> int:
    """Return the updates that a journal holds; 0 if there is none yet."""
    if not path.exists():
        return 0
    try:
        return len(Journal.read(path).steps)
    except JournalError:  # killed before its header was whole
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def torture(options: Namespace, method: str, model: Path, data: Path, folder: Path) -> bool:
    """Run both runs of one method, print what happens, and return whether they are the same."""
    whole, killed = folder / f"{method}-whole", folder / f"{method}-killed"
    reference = live(command(options, method, model, data, whole), whole, kill_after=None, once_it_trains=False)
    assert reference.first_update_after is not None
    assert reference.last_update_after is not None
    loading = reference.first_update_after
    training = reference.last_update_after - loading
    print(f"{method}, uninterrupted: {options.steps} steps, {loading:.1f} s to the first, then {training:.1f} s")

    generator = random.Random(options.seed)
    most_redone = 0
    for number in range(options.kills + 1):
        is_last = number == options.kills
        once_it_trains = generator.random() >= _ANYWHERE
        limit = training / options.kills if once_it_trains else loading
        life = live(
            command(options, method, model, data, killed),
            killed,
            kill_after=None if is_last else generator.uniform(0.0, limit),
            once_it_trains=once_it_trains,
        )
        most_redone = max(most_redone, life.redone)
        fate = "finished" if life.finished else f"killed after {life.seconds:.1f} s"
        steps = num_steps(killed / "journal")
        print(f"life {number + 1:>3}: {life.redone} steps redone, {fate} with {steps} updates", flush=True)
        if life.finished:
            break
    weights = [load_file(next((run / "final").glob("*.safetensors"))) for run in (whole, killed)]
    changed_bits = count_changed_bits(*weights)
    same_journal = (whole / "journal").read_bytes() == (killed / "journal").read_bytes()
    print(
        f"{method}: {number} kills, at most {most_redone} steps redone, "
        f"{changed_bits} bits of the weights differ, journals {'are equal' if same_journal else 'DIFFER'}"
    )
    return changed_bits == 0 and same_journal


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["mezo"], choices=["all", *METHODS], metavar="METHOD")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--model", help="folder of a small model; default: one made on the spot")
    parser.add_argument("--data-dir", help="folder with sst2/{train,validation}.jsonl; with --model")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two kills in a hundred steps")
    found = parser.parse_args(arguments)
    if "all" in found.methods:
        found.methods = list(METHODS)
    if bool(found.model) != bool(found.data_dir):
        parser.error("--model and --data-dir belong together")
    if found.quick:
        found.steps, found.kills = 100, 2
    if found.kills < 1:
        parser.error(f"--kills must be at least 1, got {found.kills}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if the runs differ."""
    options = parse(arguments)
    with TemporaryDirectory() as name:
        folder = Path(name)
        inputs = (Path(options.model), Path(options.data_dir)) if options.model else write_inputs(folder)
        same = [torture(options, method, *inputs, folder) for method in options.methods]
    return int(not all(same))


if __name__ == "__main__":
    sys.exit(main())
