"""From the commands of the research codes to those of foretune.

    (migration,) = migrate("python run.py --task_name=SST2 --trainer=zo --model_name=facebook/opt-13b ...").migrations
    print(migration.shell)

A research code is a table of flags and what they mean together, one module each (`mezo`, `lozo`, `zo_llm`, ...);
`scripts` knows their shell scripts, `sweep` the sweep files of ZO-LLM.

The command that comes out asks for what the original ran. A flag that the original ignored is left out, with a note of
the option that follows it. A method is what its name says, in the variant of the published code where foretune has that
as an option; a note says where a fault made the published run something else.
"""

from foretune.migration.result import NOTE_KINDS, Migration, Note, as_yaml
from foretune.migration.sweep import SweepMigration, migrate_sweep
from foretune.migration.translate import CODES, Translation, migrate, migrate_words

__all__ = [
    "CODES",
    "NOTE_KINDS",
    "Migration",
    "Note",
    "SweepMigration",
    "Translation",
    "as_yaml",
    "migrate",
    "migrate_sweep",
    "migrate_words",
]
