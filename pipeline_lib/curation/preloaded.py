"""What the fork server loads before it forks: slow modules, and what these load when they are first used.

Imported there and nowhere else (`workers`); every process has it then without a load of its own.
"""

from pipeline_lib import records
from pipeline_lib.curation.quality import limits, verdicts
from pipeline_lib.personal_data import detect

# The compiled loops of the quality rules are read from the disk, and Arrow looks for pandas.
_FIRST = records.from_rows(
    [{"id": "", "source": "", "messages": [records.message("text", "one or two words")]}]
)
verdicts.verdicts(_FIRST, limits.InstructLimits(), limits.WebLimits(web_rules="all"))
# The gates' automata are built.
detect.find("")
