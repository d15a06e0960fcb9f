"""The report's sentences say what the records show, and no more."""

import pytest

from ipjax.report import sentences
from ipjax.report.losses import depth_order
from ipjax.report.words import change, flags, interval, listed, plain, told_apart
from tests import report_records as made
from tests.report_records import LN2


def course(*label_bits, **values):
    """Records of one representation with this label information, in bits, and the last ones' other values."""
    names = ("input", "maxpool", "layer1.0", "layer2.0", "avgpool")[: len(label_bits)]
    return [
        made.layer("activation", n, i, b * LN2, 4.0, **values) for i, (n, b) in enumerate(zip(names, label_bits, strict=True))
    ]


def only(found):
    (sentence,) = found
    return sentence


def test_rising_label_information_is_said_with_ends_ceiling_interval_and_null():
    sentence = only(sentences.label_course(course(0.5, 1.2, 1.3, 2.2, 2.7)))
    assert sentence.text.startswith(
        "Label information in the activations rises from 1.2 bits at maxpool to 2.7 at avgpool [2.6,\u00a02.8]"
    )
    assert "of the 3.3 bits that the labels hold" in sentence.text
    assert "largest single gain is between layer1.0 and layer2.0: 0.90 bits" in sentence.text
    assert "change 1.50 bits" in sentence.evidence and "Shuffled labels give 0.1 and 0.1." in sentence.text
    assert sentence.kind == "found"


def test_falling_label_information_is_not_said_to_rise():
    assert "falls from 2.0 bits" in only(sentences.label_course(course(2.5, 2.0, 1.0))).text


def test_a_change_within_its_interval_is_not_shown():
    first, last = course(1.0, 1.0, 1.05)[1:]
    first["label_subsamples"] = tuple(0.6 + 0.2 * (i % 2) for i in range(10))
    text = only(sentences.label_course([first, last])).text
    assert "not shown to change" in text and "rises" not in text


def test_without_halves_no_change_is_claimed():
    records = course(1.0, 1.0, 2.0)
    for record in records:
        record["label_subsamples"] = None
    sentence = only(sentences.label_course(records))
    assert sentence.kind == "unknown" and "rises" not in sentence.text


def test_ends_within_their_nulls_tell_nothing():
    sentence = only(sentences.label_course(course(0.1, 0.1, 0.12)))
    assert sentence.kind == "unknown" and "shuffled labels give as much" in sentence.text


def test_a_single_layer_has_no_course():
    sentence = only(sentences.label_course([made.layer("activation", "avgpool", 0, 2 * LN2, 4.0)]))
    assert (sentence.text, sentence.kind) == ("Label information in the activations is 2.0 bits at avgpool.", "found")
    sentence = only(sentences.label_course([made.layer("activation", "avgpool", 0, 0.1 * LN2, 4.0)]))
    assert sentence.text == "Label information in the activations is not shown at avgpool: shuffled labels give as much."
    assert sentence.kind == "unknown"


def test_nuisances_are_judged_above_their_null():
    records = course(1.0, 1.0, 2.0)
    for record, value, null in zip(records, (0.9, 0.8, 0.5), (0.1, 0.1, 0.1), strict=True):
        record |= made.information("position", value, null=null)
    for record, null in zip(records, (0.1, 0.1, 0.4), strict=True):  # all of the rise is the null's
        record |= made.information("contrast", 0.2 + null, null=null)
    sentence = only(sentences.nuisance_course(records))
    assert f"position falls ({0.7 / LN2:.2f} to {0.4 / LN2:.2f} bits)" in sentence.text
    assert "image contrast is not shown to change" in sentence.text


def test_ite_names_the_layers_that_are_not_told_apart_from_the_best():
    records = course(0.5, 1.0, 2.0, 2.6, 2.7)
    sentence = only(sentences.efficiency(records))
    assert "largest at avgpool: 0.47" in sentence.text and "smallest at input: 0.09" in sentence.text
    assert sentence.evidence.endswith("not told apart from avgpool: layer2.0")


def test_withheld_ite_is_said_with_its_reason():
    records = course(1.0, 2.0, ite=None, ite_lower=None, ite_upper=None, ite_withheld="input information saturated")
    sentence = only(sentences.efficiency(records))
    assert sentence.text == "ITE is withheld at every layer."
    assert (sentence.kind, sentence.evidence) == ("unknown", "input information saturated")


@pytest.mark.parametrize(
    ("leak", "lower", "said", "kind"),
    [
        (0.5, 0.4, "leaks the label: at layer2.0 it adds 0.72 bits by KDE", "found"),
        (0.05, -0.1, "No leak of the target is shown by KDE", "found"),
        (0.5, None, "without an interval, it is not shown to be one", "unknown"),
    ],
)
def test_a_leak_is_claimed_only_beyond_its_interval(leak, lower, said, kind):
    upper = None if lower is None else 2 * leak - lower
    record = made.layer("predicted", "layer2.0", 3, 1.0, 4.0, leak=leak, leak_lower=lower, leak_upper=upper, leak_null=-0.2)
    sentence = only(sentences.leakage([record]))
    assert said in sentence.text and sentence.kind == kind
    assert "a class at random gives −0.29 bits" in sentence.evidence


def test_the_costliest_block_is_named_with_what_is_not_told_apart_and_what_costs_nothing():
    costly, free = sentences.blocks(made.ablation(("layer1.0", "layer1.1", "layer1.2", "layer1.3")))
    assert "Knocking out layer1.3 costs most: cross-entropy rises by 0.75 bits [0.69,\u00a00.81]" in costly.text
    assert "Not told apart" not in costly.text
    assert "accuracy falls by 10.4 points [9.4,\u00a011.4]" in costly.text
    assert costly.text.endswith("Next: layer1.2 0.51, layer1.1 0.27.")
    assert free.text.startswith("1 of 4 blocks") and free.evidence == "layer1.0"
    close = made.ablation([f"layer1.{i}" for i in range(30)])
    assert "Not told apart from it: layer1.25, layer1.26, layer1.27 and layer1.28." in sentences.blocks(close)[0].text


def test_blocks_whose_intervals_reach_zero_cost_nothing_that_is_shown():
    records = [record | {"loss_lower": -0.1} for record in made.ablation() if record["kind"] == "block"]
    assert only(sentences.blocks(records)).text.startswith("No single block's loss is shown")


def test_areas_are_compared_with_the_spread_of_random_orders():
    text = only(sentences.channel_areas(made.areas())).text
    assert text.startswith("In 3 of 3 layers") and text.endswith("For other rankings: activation in 0.")
    weaker = [r | {"cross_entropy_area": 1.15} if r["ranking"] == "conductance" else r for r in made.areas()]
    assert only(sentences.channel_areas(weaker)).text.startswith("In 0 of 3 layers")


def test_no_ranking_is_said_to_beat_depth_unless_its_interval_does():
    sentence, _ = sentences.rankings(made.rankings())
    said = "No ranking of the layers, ITE included, is shown to predict the loss of a block better than plain depth does."
    assert (sentence.text, sentence.kind) == (said, "unknown")
    assert "depth 0.90" in sentence.evidence and "4 scores tried" in sentence.evidence


def test_a_score_beats_depth_only_with_the_interval_widened_for_all_that_were_tried():
    ahead = made.ranking("label_gain", 0.95, 0.7, representation="contrast")
    sentence, _ = sentences.rankings((*made.rankings(), ahead | {"partial_lower": 0.5}))
    assert sentence.text == "Beyond depth, the loss of a block is predicted by label gain (contrast), of 5 scores tried."
    assert sentence.kind == "found" and "widened for 5 scores" in sentence.evidence
    sentence, _ = sentences.rankings((*made.rankings(), ahead | {"partial_lower": 0.1}))
    assert sentence.text.startswith("Whether any score predicts the loss of a block beyond depth is not shown: label gain")
    assert sentence.kind == "unknown" and "1 chance in 40" in sentence.evidence


@pytest.mark.parametrize(("correlation", "said"), [(0.8, "The later a layer lies"), (-0.8, "The earlier a layer lies")])
def test_depth_itself_is_said_to_order_the_losses(correlation, said):
    depth = made.ranking("depth", correlation, None, trivial=True)
    sentence = only(depth_order((depth, depth | {"loss": "channels"})))
    assert sentence.text.startswith(said)
    assert sentence.text.endswith("the larger tends to be the loss of a block and the loss of half of a layer's channels.")
    assert depth_order((made.ranking("depth", 0.05, None, trivial=True),)) == []


def test_a_trivial_score_never_counts_as_beating_depth():
    trivial = made.ranking("num_channels", 0.95, 0.7, trivial=True)
    sentence = only(sentences.rankings((made.ranking("label_gain", 0.5, 0.1), trivial)))
    assert sentence.text.startswith("No ranking of the layers is shown")


def test_scores_that_rank_as_depth_does_are_not_judged():
    sentence, _ = sentences.rankings((made.ranking("ite", 0.9, None, representation="contrast"),))
    assert sentence.kind == "unknown" and "none differs from depth" in sentence.text


@pytest.mark.parametrize(
    ("correlation", "said", "kind"),
    [
        (0.8, "The higher a layer's ITE, the larger is the loss of a block.", "found"),
        (-0.8, "The higher a layer's ITE, the smaller is the loss of a block: as a mark", "found"),
        (0.05, "ITE is not shown to order the layers by the loss of a block.", "unknown"),
    ],
)
def test_ite_is_held_against_the_loss_with_its_sign(correlation, said, kind):
    _, sentence = sentences.rankings((made.ranking("ite", correlation, 0.0, representation="contrast"),))
    assert sentence.text.startswith(said) and sentence.kind == kind and "as depth does" not in sentence.text
    channels = made.ranking("ite", correlation, 0.0, representation="contrast") | {"loss": "channels"}
    *_, sentence = sentences.rankings((made.ranking("ite", correlation, 0.0, representation="contrast"), channels))
    assert "the loss of a block and the loss of half of a layer's channels" in sentence.text
    depth = made.ranking("depth", correlation, None, trivial=True)
    _, sentence = sentences.rankings((made.ranking("ite", correlation, None, representation="contrast"), depth))
    assert ("ranks the layers as depth does" in sentence.text) == (kind == "found")


def test_checks_are_counted_and_contradictions_named():
    found = {sentence.text.split(" (")[0]: sentence for sentence in sentences.theory(made.theory())}
    assert "holds in 1, violated in 1 of 2 checks. That refutes no theorem" in found["Data processing"].text
    assert found["Invariance"].text.endswith("holds in 1 of 1 check.")
    assert found["Data processing"].evidence == "by KDE and Probe; estimators disagree on data processing (label, activation)"
    assert [found[claim].kind for claim in ("Compression", "Sufficiency", "Invariance")] == ["unknown", "unknown", "found"]


def test_cautions_count_points_and_opposite_estimators():
    plane = list(made.plane())
    found = [sentence.text for sentence in sentences.cautions(plane)]
    assert any(text.startswith("At 1 of 18 points input information is saturated") for text in found)
    assert any(text.startswith("At 1 of 18 points ITE is withheld") for text in found)
    assert sentences.families(plane) == []
    for record in plane:
        if record["input_estimator"] is None:
            record["label_information"] = 2 - record["label_information"]
    assert sum("Estimators disagree" in sentence.text for sentence in sentences.families(plane)) == 3


def test_a_probe_that_reads_far_more_than_the_plane_shows_is_a_caution():
    assert sentences.probed(made.plane()) == []
    plane = [r if r["input_estimator"] else r | {"label_information": r["label_information"] + 0.5} for r in made.plane()]
    sentence = only(sentences.probed(plane))
    assert sentence.text.startswith("A linear classifier (Probe) reads") and "largest gain: KDE" in sentence.evidence
    assert sentence.kind == "caution"
    assert sentences.probed([record for record in plane if record["input_estimator"]]) == []


def test_dependence_on_the_noise_is_a_caution():
    sentence = only(sentences.of_noise(made.profile()))
    assert "at noise 0.01 to 1. Verdicts" in sentence.text and sentence.kind == "caution"
    assert sentences.of_noise(()) == []


def test_what_was_not_measured_is_said():
    whole = [sentence.text for sentence in sentences.unknown(made.run())]
    assert len(whole) == 1 and whole[0].startswith("Intervals cover the choice of images alone")
    bare = made.run(ablation=(), rankings=(), config={"weights": "random"}, environment={"accuracy": None})
    found = {sentence.text: sentence for sentence in sentences.unknown(bare)}
    lost = "what the network loses without a block or channels and whether any score predicts which layers matter"
    missing = found[f"Not measured in this run: {lost}."]
    assert missing.evidence == "no ablation.npz, rankings.npz"
    assert any("accuracy" in text for text in found) and any("weights are random" in text for text in found)


def test_findings_come_before_cautions_and_the_unknown():
    kinds = [sentence.kind for sentence in sentences.summary(made.run())]
    assert kinds == sorted(kinds, key=("found", "caution", "unknown").index) and len(set(kinds)) == 3


def test_every_section_that_a_sentence_points_to_is_on_the_page():
    from ipjax.report import build

    page = build(made.run())
    assert all(f'id="{sentence.section}"' in page for sentence in sentences.summary(made.run()))


def test_numbers_read_as_they_should():
    assert [plain(-0.001), plain(-1.5, 1), plain(None)] == ["0.00", "−1.5", "–"]
    assert interval(None, 1.0) == "" and interval(-1, 1, 1) == "[−1.0,\u00a01.0]"
    assert [listed(list("ab")), listed(list("abc")), listed(list("abcdef"), 2)] == ["a and b", "a, b and c", "a, b and 4 more"]
    assert (
        told_apart((1, 0.9, 1.1), (2, 1.2, 2.2))
        and not told_apart((1, 0.9, 1.3), (2, 1.2, 2.2))
        and not told_apart((1, None, None), (2, 1, 3))
    )
    value, lower, upper = change(*course(1.0, 2.0), "label")
    assert (value, lower, upper) == pytest.approx((LN2, LN2, LN2))


def test_flags_are_those_of_the_record():
    record = made.layer("activation", "a", 0, 0.1, 4.0, label_warnings="depends on the sample's size beyond its interval")
    assert flags(record) == ["within null", "sample size"]
    assert flags(record | {"label_information": 1.0, "input_saturated": True, "ite_withheld": "saturated"}) == [
        "saturated",
        "sample size",
        "ITE withheld",
    ]
