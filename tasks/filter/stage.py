"""Filter: drops what no rule should let pass, changes what some mend, and says of each document why."""

from collections import Counter
from pathlib import Path

from pydantic import model_validator

from lm import problems
from lm.config import Config, choice
from tasks.core.config import Checkpoint, ConfigError, References, check_watched
from tasks.core.log import Log
from tasks.core.parts import Part, link_or_copy
from tasks.core.tables import shard_path, shard_paths
from tasks.filter import methods
from tasks.filter.judge import TABLES, Work, judge_shard
from tasks.filter.methods import KeepAll
from tasks.filter.rule import Rule, Setting

# What each is for; any method of the room may stand in any. In this order: the first reason is the one that is kept, and
# those after see the texts as those before left them.
SLOTS = (
    "language",
    "repetition",
    "quality",
    "lines",
    "structure",
    "classifier",
    "perplexity",
    "rating",
    "contamination",
    "personal_data",
)


class FilterConfig(Config):
    """A rule a slot; `keep_all` where there is none."""

    language: choice(methods) = KeepAll()
    repetition: choice(methods) = KeepAll()
    quality: choice(methods) = KeepAll()
    lines: choice(methods) = KeepAll()
    structure: choice(methods) = KeepAll()
    classifier: choice(methods) = KeepAll()
    perplexity: choice(methods) = KeepAll()
    rating: choice(methods) = KeepAll()
    contamination: choice(methods) = KeepAll()
    personal_data: choice(methods) = KeepAll()
    problems: choice(problems)
    checkpoint: Checkpoint
    references: References = References()

    @model_validator(mode="after")
    def _reads_what_is_watched(self) -> "FilterConfig":
        for slot in SLOTS:
            check_watched(slot, getattr(getattr(self, slot), "reads", []), [self.references.folder])
        return self


def run(config: FilterConfig, data: Path, log: Log) -> dict[str, float]:
    """data/dedup -> data/filter: documents/, and what became of the others in dropped/ and changed/."""
    source, out = data / "dedup" / "documents", data / "filter"
    rules = {slot: getattr(config, slot) for slot in SLOTS}
    rules = {slot: rule for slot, rule in rules.items() if not isinstance(rule, KeepAll)}
    prepared = log.parts / "prepared"
    for slot, rule in rules.items():
        prepare(rule, Setting(source, config.problems, prepared / slot, log, Path(config.checkpoint.folder)))
    files = shard_paths(source)
    works = [Work(number, path, rules, prepared) for number, path in enumerate(files)]
    parts = log.map(judge_shard, works, "shards")
    _check_any_left(parts)
    for number, part in enumerate(parts):
        for name in TABLES:
            link_or_copy(part.folder / f"{name}.parquet", shard_path(out / name, number))
    return metrics_of(parts)


def prepare(rule: Rule, setting: Setting) -> None:
    """Let the rule prepare, unless it did so before a kill."""
    done = setting.folder.with_suffix(".done")
    if not done.exists():
        setting.folder.mkdir(parents=True, exist_ok=True)
        rule.prepare(setting)
        done.touch()


def metrics_of(parts: list[Part]) -> dict[str, float]:
    """Documents in all, kept and dropped, bytes kept, documents by reason, and what rules counted in those that stay."""
    sums = Counter[str]()
    for part in parts:
        sums.update(part.facts)
    return {name: sums[name] for name in sorted(sums)}


def _check_any_left(parts: list[Part]) -> None:
    sums = metrics_of(parts)
    if not sums["kept"]:
        reasons = Counter({name.removeprefix("dropped_"): n for name, n in sums.items() if name.startswith("dropped_")})
        why = ", ".join(f"{reason} {int(count)}" for reason, count in reasons.most_common(5))
        raise ConfigError(f"filter: none of {int(sums['documents'])} documents is left: {why}")
