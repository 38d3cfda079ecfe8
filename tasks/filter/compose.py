"""What is made of the section when parameters are composed."""

from typing import Any


def under(base: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """The base's section, for a preset: where that has a source which the base has not, rules that the base keeps to some of
    its own sources are for all, since which texts a rule is for is the corpus's matter."""
    rules: dict[str, Any] = base["filter"]
    before, after = labels(base), labels(preset)
    if not after - before:
        return rules
    return {
        slot: {key: value for key, value in rule.items() if key != "sources"} if isinstance(rule, dict) else rule
        for slot, rule in rules.items()
    }


def labels(params: dict[str, Any]) -> set[str]:
    """What the sources of ingest are called, as far as that can be told of params that nobody has checked."""
    ingest = params.get("ingest")
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    named = [source for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []
    return {str(source.get("label") or source.get("name")) for source in named}
