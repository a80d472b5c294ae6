"""Takes the pictures of the README from a running demo, in headless Chromium; `make screenshots` runs it."""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent / "images"
DAG = "uci_housing_train_to_serving"
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
RUN_MILLISECONDS = 120_000


def main() -> None:
    """Save the forms of a connection and of the trigger, trigger the Dag, and save its graph once it succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="address of Airflow, as the demo prints it")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="program to run")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", *QUIET])
        page = browser.new_page(viewport={"width": 1560, "height": 900}, color_scheme="light")
        # from above to below it is as wide as a page of text
        page.add_init_script(f"localStorage.setItem('direction-{DAG}', '\"DOWN\"')")
        page.goto(f"{options.url}/connections")
        _connection_form(page)
        page.goto(f"{options.url}/dags/{DAG}")
        _trigger_form(page)
        _graph(page)
        browser.close()


def _connection_form(page: Page) -> None:
    page.get_by_role("button", name="Add Connection").first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator("input[name=connection_id]").fill("hadoop_store")
    kind = dialog.get_by_role("combobox")
    kind.click()
    kind.fill("hadoop")
    page.get_by_role("option", name="HDFS or AFS by the Hadoop client").wait_for()
    page.keyboard.press("Enter")
    for section, field in (("Standard Fields", "fs_ugi"), ("Extra Fields", "hadoop_bin")):
        dialog.get_by_text(field).first.wait_for(state="attached")
        if not dialog.get_by_text(field).first.is_visible():
            dialog.get_by_role("button", name=section, exact=True).click()
        page.wait_for_timeout(1000)  # the fields unfold
        dialog.screenshot(path=FOLDER / f"connection-form-{section.split()[0].lower()}.png")


def _trigger_form(page: Page) -> None:
    page.get_by_role("button", name="Trigger Dag").first.click()
    dialog = page.get_by_role("dialog")
    parameters = dialog.get_by_role("button", name="Run Parameters")
    if parameters.get_attribute("aria-expanded") != "true":
        parameters.click()
    dialog.get_by_text("What to call the new model").wait_for()
    page.wait_for_timeout(1000)  # the fields unfold
    dialog.screenshot(path=FOLDER / "trigger-form.png")
    dialog.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url("**/runs/**")


def _graph(page: Page) -> None:
    page.get_by_role("button", name="Show Graph").click()
    last = page.locator(".react-flow__node", has_text="The new model is live")
    last.locator("svg").first.wait_for()
    last.get_by_text("Success").wait_for(timeout=RUN_MILLISECONDS)
    page.get_by_role("button", name="Collapse Details Panel").click()
    page.set_viewport_size({"width": 1000, "height": 1000})
    page.add_style_tag(content=".react-flow__minimap { display: none }")
    page.get_by_role("button", name="Fit View").click()
    page.wait_for_timeout(1500)  # the graph glides into its place
    page.locator(".react-flow").screenshot(path=FOLDER / "graph.png")


if __name__ == "__main__":
    main()
