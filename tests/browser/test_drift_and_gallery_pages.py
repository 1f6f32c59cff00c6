"""Who an individual turned into; what the gallery is; the charts; and what stands about all of it."""

from pathlib import Path

import numpy as np
import pytest
from pages import Visits
from playwright.sync_api import expect
from site_boards import ANIMALS, LIKENESS, LONG, SECOND, TURNED
from sites import NEW, Records, address, drawn, follow, shown_number, texts


def test_confusions_are_those_of_the_nearest_photos(open_page: Visits, site: Path, records: Records) -> None:
    page = drawn(open_page(address(site, "drift")))
    page.locator("#model").select_option(label=LONG)
    queries = records.nearest(LONG)
    kept = int(queries["is_right"].sum())
    expect(page.locator("#status")).to_contain_text(f"the right identity for {kept} of 32 images.")
    counts = queries.groupby(["identity", "found"], observed=True).size().to_dict()
    cells = {
        (row.locator("th bdi").text_content(), name): text
        for row in page.locator("#matrix tbody tr").all()
        for name, text in zip(texts(page, "#matrix thead bdi"), row.locator("td").all_text_contents(), strict=False)
    }
    assert {pair: int(text) for pair, text in cells.items() if text} == {
        pair: n for pair, n in counts.items() if pair[1] in ANIMALS
    }
    strays = sum(n for (_, found), n in counts.items() if found not in ANIMALS)
    last = page.locator("#matrix tbody td:last-child").all_text_contents()
    assert strays == 0 or sum(int(text) for text in last if text) == strays
    lost = {pair: n for pair, n in counts.items() if pair[0] != pair[1]}
    rows = [row.locator("th, td").all_text_contents() for row in page.locator("#confusions tbody tr").all()]
    assert {(row[0], row[1]): int(row[2]) for row in rows} == lost
    shares = [float(row[3]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    means = queries.groupby(["identity", "found"], observed=True)["average_precision"].mean()
    for asked, found, _, share, mean, _ in rows:
        assert float(share) == lost[asked, found] / 2
        assert float(mean) == pytest.approx(means[asked, found], abs=6e-4)
    taken = page.locator("#attractors tbody tr").all()
    assert sum(int(row.locator("td").first.inner_text()) for row in taken) == sum(lost.values())


def test_a_category_leaves_the_others_out_and_a_confusion_leads_to_its_neighbours(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = drawn(open_page(address(site, "drift")))
    page.locator("#model").select_option(label=LONG)
    page.locator("#category").select_option("dogs")
    queries = records.nearest(LONG).query("category == 'dogs'")
    expect(page.locator("#status")).to_contain_text(f"for {int(queries['is_right'].sum())} of 16 images.")
    again = drawn(open_page(page.url))
    assert texts(again, "#matrix tbody th") == texts(page, "#matrix tbody th")
    assert len(texts(page, "#matrix tbody th")) == 8
    asked = page.locator("#confusions tbody th").first.text_content()
    follow(page.locator("#confusions tbody a").first, "neighbours")
    wrong = queries[(queries["identity"] == asked) & ~queries["is_right"]]
    expect(page.locator("#status")).to_contain_text(f"{len(wrong)} of 32 queries; the nearest photo is right for 0.")


def test_a_model_that_was_not_scored_leaves_no_other_ones_numbers(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "drift")))
    page.locator("#model").select_option(label=SECOND)
    expect(page.locator("#matrix table")).to_have_count(1)
    page.locator("#embedder").select_option(index=1)
    expect(page.locator("#status")).to_contain_text("was not scored by")
    assert page.locator("#matrix table, #confusions tbody tr, #attractors tbody tr").count() == 0


def test_the_gallerys_card_identities_and_anchors(open_page: Visits, site: Path, records: Records) -> None:
    page = open_page(address(site, "gallery"))
    card = dict(zip(texts(page, "main dt"), texts(page, "main dd"), strict=True))
    summary = records.summary(TURNED)
    assert card["licence"] == "CC-BY-4.0"
    assert card["description"] == "Cats & <dogs> of '1'"
    assert card["SHA-256 of images"] == summary["gallery"]["images_sha256"]
    rows = {
        row.locator("th bdi").text_content(): row.locator("td").all_text_contents()
        for row in page.locator("table.sortable tbody tr").all()
    }
    assert rows.keys() == set(ANIMALS)
    for name, (category, photos, pool, chance, held_out, models, _) in rows.items():
        part = summary["identities"][name]
        scores = [records.summary(model)["identities"][name]["mAP"]["value"] for model in LIKENESS]
        assert (category, photos, pool) == (("cats <i>", "3", "24") if category != "dogs" else ("dogs", "3", "27"))
        assert float(chance) == pytest.approx(part["chance"], abs=5.1e-4)
        assert float(held_out) == pytest.approx(part["held_out"], abs=5.1e-4)
        # Of the ranked models: neither of the untuned generator nor of incomplete runs.
        assert float(models) == pytest.approx(np.mean(scores), abs=5.1e-4)
    hardest = [float(row[5]) for row in rows.values()]
    assert hardest == sorted(hardest)
    anchors = {row.locator("th").inner_text(): row.locator("td").all_text_contents() for row in
               page.get_by_role("region", name="Anchors").locator("tbody tr").all()}  # fmt: skip
    held_out = summary["gallery_anchors"]["held_out"]
    assert anchors["held-out photos"] == [f"{held_out[key]['value']:.3f}" for key in ("mAP", "AUC")]


def test_identities_of_a_gallery_sort_show_pictures_and_lead_to_their_neighbours(open_page: Visits, site: Path) -> None:
    page = open_page(address(site, "gallery"))
    page.get_by_role("button", name="chance").click()
    values = [float(text) for text in texts(page, "table.sortable tbody td:nth-child(5)")]
    assert values == sorted(values, reverse=True)
    images = page.locator("table.sortable img")
    assert images.evaluate_all("images => images.every((image) => image.loading === 'lazy')")
    images.first.scroll_into_view_if_needed()
    assert images.first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    follow(page.get_by_role("link", name="../../rex", exact=True), "neighbours")
    expect(page.locator("#status")).to_contain_text("2 of 32 queries")
    assert page.locator("#identity").input_value() == "../../rex"


def test_the_page_of_a_gallery_that_may_not_be_shown_has_no_picture(open_page: Visits, site: Path) -> None:
    page = open_page(f"{site.as_uri()}/{NEW}/gallery.html")
    assert page.locator("img").count() == 0
    assert len(texts(page, "table.sortable tbody tr")) == len(ANIMALS)


def test_charts_lead_from_a_point_to_the_models_neighbours(open_page: Visits, site: Path, records: Records) -> None:
    page = drawn(open_page(address(site, "charts")))
    titles = texts(page, "figure.chart:visible h2")
    assert titles == ["Identity against prompt fidelity", "Similarity against mAP", "Encoders' agreement"]
    chart = page.locator("figure.chart:visible", has_text="Similarity against mAP")
    assert chart.locator("a").count() == len(LIKENESS)
    assert page.locator("figure.chart:visible").first.locator("a").count() == 2  # those with CLIP-T
    page.locator("#embedder").select_option(index=1)
    expect(chart.locator("a")).to_have_count(len(LIKENESS) - 1)
    href = chart.locator("a").first.get_attribute("href")
    assert href
    assert href.startswith("neighbours.html#")
    chart.locator("a").first.locator("path").hover()
    expect(page.locator("#status")).to_contain_text(": mAP ")
    status = page.locator("#status").text_content() or ""
    follow(chart.locator("a").first.locator("path"), "neighbours")
    expect(page.locator("#query article")).to_have_count(1)
    model = page.locator("#model").evaluate("select => select.selectedOptions[0].textContent")
    value = records.summary(model, records.second)["scores"]["mAP"]["value"]
    assert status.startswith(f"{model}: mAP {value:.3f}, ")


def test_the_first_page_has_a_card_for_each_board_and_about_says_how_to_submit(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = open_page(site / "index.html")
    old, new = (card.inner_text() for card in page.locator(".cards > li").all())
    best = max(records.summary(name)["scores"]["mAP"]["value"] for name in LIKENESS)
    assert f"mAP {shown_number(best)}" in old
    assert "not told apart from 1 more" in old
    assert "5, and 2 incomplete" in old
    assert "Frozen: 2 has taken its place." in old
    assert "not published: the gallery does not allow it" in new
    follow(page.get_by_role("link", name="About"), "about")
    text = page.locator("main").inner_text()
    for heading in ("Protocol", "Uncertainty", "How to submit", "Threat model", "How to cite"):
        assert heading in text
