import json
from pathlib import Path

import pytest

from bloodedge.decision.kind_shares import KindRates, exact_limits
from bloodedge.decision.kinds import COUNTED, Kind
from bloodedge_device.outputs.home_assistant import status_payload
from bloodedge_device.outputs.messages import slide_message
from bloodedge_device.report.reading import DeviceReport, read_report
from bloodedge_device.slide.differential import Differential, KindKey
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.review import Review
from bloodedge_device.slide.share import SlideShare
from bloodedge_device.store import Store
from support import fakes, web_fakes

SEGMENTED: KindKey = (Kind.NEUTROPHIL, "segmented", "other")
BAND: KindKey = (Kind.NEUTROPHIL, "band", "other")
NORMAL: KindKey = (Kind.LYMPHOCYTE, None, "normal")
BLAST: KindKey = (Kind.LYMPHOCYTE, None, "blast")
SMEAR: dict[KindKey, int] = {
    SEGMENTED: 80, BAND: 10, NORMAL: 40, BLAST: 20, (Kind.LYMPHOCYTE, None, "uncertain"): 10,
    (Kind.UNKNOWN, None, "blast"): 4, (Kind.UNKNOWN, None, "normal"): 3, (Kind.MONOCYTE, None, "normal"): 16,
    (Kind.EOSINOPHIL, None, "other"): 10, (Kind.IMMATURE_GRANULOCYTE, None, "other"): 10,
    (Kind.ERYTHROBLAST, None, "other"): 5, (Kind.PLATELET, None, "other"): 7, (Kind.ARTEFACT, None, "other"): 2,
}  # fmt: skip
KINDS = tuple(Kind)[:9]


def rates_of(right: int) -> KindRates:
    """A network that is right for so many of 1000 cells of each kind, and takes the others for neutrophils."""
    rows = [[0] * 10 for _ in KINDS]
    for index, row in enumerate(rows):
        row[index] += right
        row[0] += 1000 - right
    return KindRates(kinds=KINDS, confusion=tuple(map(tuple, rows)))


def share_of(blasts: int, called: int) -> SlideShare:
    frames = 20
    return SlideShare.of(ClusteredShare([blasts // frames] * frames, [called // frames] * frames), fakes.RATES)


def count_of(
    kinds: dict[KindKey, int], rates: KindRates | None = None, share: SlideShare | None = None, target: int = 200
) -> Differential:
    made = Differential.of(kinds, rates, share, target)
    assert made is not None
    return made


def test_blasts_are_listed_as_blasts_and_what_is_no_leucocyte_beside_the_others() -> None:
    count = count_of(SMEAR)
    assert {row.kind: row.cells for row in count.rows} == {
        "blast": 24, "neutrophil": 90, "lymphocyte": 50, "monocyte": 16, "eosinophil": 10, "basophil": 0,
        "immature_granulocyte": 10,
    }  # fmt: skip
    assert (count.leucocytes, count.band, count.segmented) == (200, 10, 80)
    assert (count.erythroblasts, count.erythroblasts_per_100) == (5, 2.5)
    assert (count.platelets, count.artefacts, count.unknown, count.uncertain) == (7, 2, 3, 10)
    assert count.row("neutrophil").share == 0.45
    assert (count.row("neutrophil").low, count.row("neutrophil").high) == exact_limits(90, 200)
    assert sum(row.share or 0 for row in count.rows) == pytest.approx(1)


def test_no_kind_told_is_no_differential() -> None:
    assert Differential.of({}, rates_of(900), share_of(20, 60), 200) is None


@pytest.mark.parametrize(("target", "more"), [(100, 0), (200, 0), (400, 200)])
def test_the_target_says_how_many_more_cells_are_needed(target: int, more: int) -> None:
    count = count_of(SMEAR, target=target)
    assert (count.target, count.more) == (target, more)
    assert count.progress == (50 if target == 400 else 100)
    assert (f"200 of 400 leucocytes are counted; {more} more are needed." in count.sentences) == (target == 400)
    # Rümke's table: 45 % of 100 cells, 35 to 55
    low, high = count.row("neutrophil").target_low, count.row("neutrophil").target_high
    assert (low, high) == exact_limits(round(0.45 * target), target)


def test_shares_are_corrected_for_a_network_that_takes_others_for_neutrophils() -> None:
    truth = {Kind.NEUTROPHIL: 500, Kind.LYMPHOCYTE: 300, Kind.EOSINOPHIL: 200}
    told = {SEGMENTED: 600, NORMAL: 240, (Kind.EOSINOPHIL, None, "other"): 160}  # 80 % right
    count = count_of(told, rates_of(800))
    assert count.is_corrected
    for kind in (Kind.NEUTROPHIL, Kind.EOSINOPHIL):
        row = count.row(kind)
        assert row.corrected == pytest.approx(truth[kind] / 1000, abs=0.01)
        assert row.corrected_low is not None
        assert row.corrected_high is not None
        assert row.corrected_low < truth[kind] / 1000 < row.corrected_high
    assert count.row("lymphocyte").corrected is None
    assert any("Blasts, lymphocytes and monocytes are not corrected" in sentence for sentence in count.sentences)


def test_blasts_are_corrected_by_their_share_among_mononuclear_cells() -> None:
    told: dict[KindKey, int] = {SEGMENTED: 500, NORMAL: 280, BLAST: 220}
    share = share_of(220, 500)
    assert share.estimate.corrected is not None
    count = count_of(told, rates_of(1000), share)
    blast, lymphocyte = count.row("blast"), count.row("lymphocyte")
    assert blast.corrected == pytest.approx(0.5 * share.estimate.corrected, abs=0.002)
    assert lymphocyte.corrected == pytest.approx(0.5 - (blast.corrected or 0), abs=0.002)
    assert blast.corrected_low is not None
    assert lymphocyte.corrected_high is not None
    assert blast.corrected_low < blast.low  # the classifier's errors make it longer than the count alone
    assert lymphocyte.corrected_high > lymphocyte.high


def test_without_rates_nothing_is_corrected_and_that_is_said() -> None:
    count = count_of(SMEAR, None, share_of(20, 60))
    assert not count.is_corrected
    assert any("Not corrected" in sentence for sentence in count.sentences)


CALLS = [fakes.SEGMENTED, fakes.BAND, fakes.LYMPHOCYTE, fakes.LYMPHOCYTE, fakes.EOSINOPHIL, fakes.ERYTHROBLAST]
BLASTS = [0.5, 0.5, 0.9, 0.1, 0.5, 0.5]


@pytest.fixture
def stored(state: Path) -> Store:
    store = Store(state)
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    for index in range(4):
        store.put_frames(slide, [fakes.of_kinds(fakes.result(index, BLASTS), CALLS)], keep_crops=True)
    return store


def report_of(store: Store) -> DeviceReport:
    report = read_report(store.state)
    store.close()
    return report


def test_reviews_change_the_count_after_review_and_leave_the_devices_own(stored: Store) -> None:
    stored.review(1, Review.of(kind="eosinophil"), "gallery", "me")
    stored.review(3, Review.of("normal", "lymphocyte"), "gallery", "me")
    stored.review(4, Review.of("blast"), "random", "me")
    stored.review(5, Review.of("not_a_cell"), "random", "me")
    stored.review(6, Review.of("unsure"), "random", "me")
    stored.review(7, Review.of(kind="neutrophil", stage="band"), "random", "me")
    report = report_of(stored)
    before, after = report.differential, report.reviewed_differential
    assert before is not None
    assert after is not None
    assert [before.row(k).cells for k in ("blast", "neutrophil", "lymphocyte", "eosinophil")] == [4, 8, 4, 4]
    assert [after.row(k).cells for k in ("blast", "neutrophil", "lymphocyte", "eosinophil")] == [4, 7, 4, 4]
    assert (before.band, after.band, after.segmented) == (4, 5, 2)
    assert (after.artefacts, after.erythroblasts, before.erythroblasts) == (1, 4, 4)
    random, gallery = report.kind_agreement
    assert (random.sampling, random.told, random.agreed) == ("random", 3, 1)
    assert random.table[random.names.index("blast")][random.names.index("lymphocyte")] == 1
    assert (gallery.told, gallery.agreed) == (2, 0)
    told = report.to_json()
    assert told["reviewed_differential"]["leucocytes"] == after.leucocytes
    assert json.loads(json.dumps(told["kind_agreement"]))[0]["agreed"] == 1


def test_a_person_who_gives_only_a_mononuclear_kind_leaves_the_class_open(stored: Store) -> None:
    stored.review(1, Review.of(kind="lymphocyte"), "random", "me")
    report = report_of(stored)
    assert report.reviewed_differential is not None
    assert report.reviewed_differential.uncertain == 1


def test_rates_and_target_of_a_report_are_those_of_its_run(state: Path) -> None:
    store = Store(state)
    info = vars(fakes.run_info(fakes.make_manifest()))
    run = store.begin_run(type(fakes.run_info(fakes.make_manifest()))(**info | {
        "kind_rates": rates_of(900).model_dump_json(), "differential_cells": 400,
    }))  # fmt: skip
    slide = store.begin_slide(run, "")
    store.put_frames(slide, [fakes.of_kinds(fakes.result(0, BLASTS), CALLS)], keep_crops=False)
    differential = report_of(store).differential
    assert differential is not None
    assert differential.target == 400
    assert differential.is_corrected


def test_the_message_of_a_slide_and_the_page_tell_the_same(tmp_path: Path) -> None:
    daemon = web_fakes.busy_daemon(tmp_path)
    slide = daemon.state.slide
    assert slide is not None
    assert daemon.desk.snapshot().slide is not None
    assert json.loads(slide_message(slide, ended=False).payload)["differential"] is None
    assert status_payload(daemon.desk.snapshot())["leucocytes_missing"] is None
    slide.tally.add(fakes.of_kinds(fakes.result(99, BLASTS), CALLS))
    message = json.loads(slide_message(slide, ended=False).payload)
    status = web_fakes.client_of(daemon).get("/api/v1/status").json()["slide"]
    assert message["differential"] == status["differential"]
    assert (status["differential"]["leucocytes"], status["other"]) == (5, 4)
    payload = status_payload(daemon.desk.snapshot())
    assert (payload["leucocytes"], payload["leucocytes_missing"], payload["neutrophil_percent"]) == (5, 195, 40)
    daemon.store.close()


def test_the_counted_kinds_are_rows() -> None:
    assert {row.kind for row in count_of(SMEAR).rows} == {"blast", *COUNTED}
