"""Each mistake of sense has its path, value and remedy."""

import pytest

from tests.pipeline.checks.template import DOMAIN_ORDER, LOWEST, MAPPED, SOURCES, found

PERPLEXITY_MODEL = "versions.base.mixture.perplexity_model"
CLUSTERS = "sources.code.topics={type: cluster, num_clusters: 2}"


REWEIGHT = "versions.base.mixture.reweight"
BOTH = "versions.base.mixture.sources={code: {}, prose: {}}"


@pytest.mark.parametrize(
    ("overrides", "path", "remedy"),
    [
        (
            ["sources.code.reader.packages=[stdlib, numpie]"],
            "sources.code.reader.packages.1",
            "did you mean `numpy`?",
        ),
        (["sources.code.reader.packages=[zzqq]"], "sources.code.reader.packages.0", "pip install zzqq"),
        (
            ["sources.code.reader={type: jsonl, path: data_recipez}"],
            "sources.code.reader.path",
            "no such file",
        ),
        (
            ["sources.code.reader={type: text, path: /gone/x}"],
            "sources.code.reader.path",
            "no directory /gone",
        ),
        (
            ["sources.code.reader={type: huggingface, path: /gone/x}"],
            "sources.code.reader.path",
            "no directory /gone",
        ),
        (["tokenizer.sources=[prose, coed]"], "tokenizer.sources.1", "did you mean `code`?"),
        (["tokenizer={type: huggingface, path: gone}"], "tokenizer.path", "no such directory"),
        (["tokenizer={type: sentencepiece, path: gone.model}"], "tokenizer.path", "no such file"),
        (["model={type: huggingface, path: gone}"], "model.path", "no such directory"),
        (["model.num_query_groups=3"], "model.num_query_groups", "divide num_attention_heads (4)"),
        (["model.hidden_size=132"], "model.hidden_size", "even multiple of num_attention_heads (4)"),
        (["parallel.tensor_parallel=4"], "parallel.tensor_parallel", "model.num_query_groups (2)"),
        (["parallel.tensor_parallel=3"], "parallel.tensor_parallel", "padded vocabulary (4,096)"),
        (["parallel.pipeline_parallel=3"], "parallel.pipeline_parallel", "layers (4)"),
        (["parallel.data_parallel=3"], "training.global_batch_size", "8 x 3 = 24"),
        (["training.adam_beta2=1"], "training.adam_beta2", "below 1"),
        (
            [
                "versions.base.elastic_reset={interval: 5, ema: 0.9}",
                "versions.base.reptile={interval: 5, rate: 0.1}",
            ],
            "versions.base.reptile",
            "should not stand beside elastic_reset",
        ),
        (
            ["versions.base.start={type: update, parent: base}"],
            "versions.base.start.parent",
            "this version itself",
        ),
        (["versions.base.start={type: update, parent: update}"], "versions.base.start.parent", "comes later"),
        (["versions.base.mixture.sources={prosa: {}}"], "versions.base.mixture.sources.prosa", "`prose`"),
        (
            ["versions.update.mixture.replay.sources={xyz: {}}"],
            "versions.update.mixture.replay.sources.xyz",
            "there is `code`, `prose`",
        ),
        (
            ["versions.update.mixture.perplexity_model=null"],
            "versions.update.mixture.perplexity_model",
            "required by",
        ),
        (
            ["versions.base.mixture.perplexity_model=x"],
            "versions.base.mixture.perplexity_model",
            "has no use",
        ),
        (
            ["versions.update.selection.reference=update"],
            "versions.update.selection.reference",
            "version itself",
        ),
        (
            ["versions.update.selection.reference=refrence"],
            "versions.update.selection.reference",
            "`reference`?",
        ),
        (
            ["versions.update.selection.reference=./gone"],
            "versions.update.selection.reference",
            "no such directory",
        ),
        (["versions.base.schedule.min_lr=1"], "versions.base.schedule.min_lr", "at most max_lr (0.001)"),
        (["versions.base.schedule.warmup=1"], "versions.base.schedule.warmup", "below 1"),
        (
            ["versions.update.schedule.constant_lr=1"],
            "versions.update.schedule.constant_lr",
            "at most max_lr",
        ),
        (["versions.update.schedule.min_lr=6e-4"], "versions.update.schedule.min_lr", "at most constant_lr"),
        (
            ["versions.update.schedule.cooldown=.9"],
            "versions.update.schedule.constant_until",
            "at least cooldown",
        ),
        (
            ["versions.update.schedule.warmup=.2"],
            "versions.update.schedule.constant_until",
            "no step to anneal",
        ),
        (
            ["versions.update.start={type: branch, parent: base, step: 99}"],
            "versions.update.start.step",
            "at most 98, the steps of `base`",
        ),
        (["versions.base.keep=[98, 99]"], "versions.base.keep.1", "at most 98"),
        (["versions.base.schedule={type: decay}"], "versions.base.schedule.max_lr", "no parent"),
        (
            ["versions.update.schedule={type: decay, min_lr: 1}"],
            "versions.update.schedule.min_lr",
            "at most max_lr (0.0001)",  # where `base` ends
        ),
        (
            ["versions.base.schedule={type: wsd, max_lr: 1, min_lr: 0, decay_shape: inverse}"],
            "versions.base.schedule.min_lr",
            "above 0: the decay is inverse",
        ),
        (
            ["versions.base.schedule={type: wsd, max_lr: 1, min_lr: 0, decay_ends: [.5, .5]}"],
            "versions.base.schedule.decay_ends",
            "should rise",
        ),
        (
            ["versions.update.mixture.replay.from_parents=true"],
            "versions.update.mixture.replay.from_parents",
            "cannot stand beside `sources`",
        ),
        (
            ["versions.base.mixture.replay={share: .5, from_parents: true}"],
            "versions.base.mixture.replay.from_parents",
            "an `init` version has no parents",
        ),
        (
            ["versions.base.mixture.replay={share: .5}"],
            "versions.base.mixture.replay.sources",
            "`from_parents",
        ),
        (
            ["versions.base.mixture.switches=[{sources: {code: {}}}]"],
            "versions.base.mixture.switches.0",
            "exactly one of",
        ),
        (
            ["versions.base.mixture.switches=[{at: .5, sources: {coda: {}}}]"],
            "versions.base.mixture.switches.0.sources.coda",
            "did you mean `code`?",
        ),
        (
            ["versions.base.mixture.switches=[{at_tokens: 1_000_000, sources: {code: {}}}]"],
            "versions.base.mixture.switches.0",
            "the version ends at step 98",
        ),
        (
            ["versions.base.mixture.switches=[{at_lr: .01, sources: {code: {}}}]"],
            "versions.base.mixture.switches.0",
            "the learning rate never falls so far",
        ),
        (
            [
                "versions.base.mixture.switches=[{at: .5, sources: {code: {}}}, {at: .2, sources: {prose: {}}}]"
            ],
            "versions.base.mixture.switches.1",
            "should come after step 49",
        ),
        (
            ["versions.base.mixture.switches=[{at: .5, sources: {prose: {order: given}}}]"],
            "versions.base.mixture.switches.0.sources.prose.order",
            "began as shuffled",
        ),
        (
            [
                "versions.base.mixture.sources={code: {}, prose: {}}",
                f"{REWEIGHT}={{interval: 9, alpha: .5, weights: {{code: 2}}}}",
            ],
            f"{REWEIGHT}.alpha",
            "alpha times the largest weight (2) should be below 1",
        ),
        (
            [
                "versions.base.mixture.sources={code: {}, prose: {}}",
                f"{REWEIGHT}={{interval: 9, alpha: .1, floor: .5}}",
            ],
            f"{REWEIGHT}.floor",
            "below 1/2",
        ),
        ([f"{REWEIGHT}={{interval: 9, alpha: .1}}"], REWEIGHT, "there is one new source"),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{all: [code, pros]}}}}"],
            f"{REWEIGHT}.groups.all",
            "no such new source; did you mean `prose`?",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: [code, prose], two: [code]}}}}"],
            f"{REWEIGHT}.groups.two",
            "stands in `one` already",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: [code, prose, code]}}}}"],
            f"{REWEIGHT}.groups.one",
            "stands in `one` already",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: [code]}}}}"],
            f"{REWEIGHT}.groups",
            "no group has two sources",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, groups: {{one: []}}}}"],
            f"{REWEIGHT}.groups.one",
            "not be empty",
        ),
        (
            [BOTH, f"{REWEIGHT}={{interval: 9, alpha: .1, floor: .5, groups: {{one: [code, prose]}}}}"],
            f"{REWEIGHT}.floor",
            "below 1/2, for 2 sources of a group",
        ),
        ([f"{SOURCES}={{prosa/x: {{}}}}"], f"{SOURCES}.prosa/x", "did you mean `prose`?"),
        ([f"{SOURCES}={{code/x: {{}}}}"], f"{SOURCES}.code/x", "no topics; set sources.code.topics"),
        ([f"{SOURCES}={{code/cluster-02: {{}}}}", CLUSTERS], f"{SOURCES}.code/cluster-02", "no such topic"),
        ([f"{SOURCES}={{code/wars: {{}}}}", MAPPED], f"{SOURCES}.code/wars", "did you mean `war`?"),
        ([f"{SOURCES}={{code: {{}}, code/war: {{}}}}", MAPPED], f"{SOURCES}.code/war", "overlaps `code`"),
        (
            [f"{SOURCES}={{code/war: {{}}, code@de: {{}}}}", MAPPED],
            f"{SOURCES}.code@de",
            "overlaps `code/war`",
        ),
        ([f"{SOURCES}={{prose: {LOWEST}}}"], PERPLEXITY_MODEL, "required by lowest_perplexity"),
        (
            [f"{SOURCES}={{prose: {{lowest_perplexity: {{}}}}}}"],
            f"{SOURCES}.prose.lowest_perplexity",
            "exactly one of `tokens` and `share`",
        ),
        (
            [
                "versions.base.mixture.switches=[{at: .5, sources: {prose/war: {}}}]",
                "sources.prose.topics={type: metadata, field: x, map: {Battle: war}}",
            ],
            "versions.base.mixture.switches.0.sources.prose/war",
            "overlaps `prose` of earlier steps",
        ),
        ([f"{DOMAIN_ORDER}=random"], DOMAIN_ORDER, "there is one new source"),
        (
            [f"{SOURCES}={{code: {{}}, prose: {{}}}}", f"{DOMAIN_ORDER}=given", "versions.base.tokens=9"],
            DOMAIN_ORDER,
            "1 steps are fewer than its 2 domains",
        ),
        (
            [
                f"{SOURCES}={{code: {{}}, prose: {{}}}}",
                f"{DOMAIN_ORDER}=given",
                f"{REWEIGHT}={{interval: 9, alpha: .1}}",
            ],
            DOMAIN_ORDER,
            "cannot stand beside `reweight`",
        ),
        (
            [f"{REWEIGHT}={{interval: 9, alpha: .1, weights: {{coda: 1}}}}"],
            f"{REWEIGHT}.weights.coda",
            "no such new source",
        ),
        (["out=/dev/null/x"], "out", "is a file"),
    ],
)
def test_each_mistake_of_sense(overrides, path, remedy):
    assert remedy in found(*overrides)[path][1]
