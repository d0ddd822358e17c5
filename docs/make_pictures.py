"""What the docs show, from the real thing: `make pictures`, on what `make repro` left.

Pictures of the service's page, of a prediction in a terminal and of the report, taken with
Chromium; and in docs/questions, below commands, blocks of `text` with what the commands print.
With `--check`, as in `make lint`, nothing is made and no browser is needed: it compares hashes of
what is shown with those in docs/pictures/sources.json, which were taken when it was made.
"""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.text import Text

from pricer.files import writing

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/pictures"
RECORD = FOLDER / "sources.json"
CHROMIUM = Path("/usr/bin/chromium")
PRODUCT = "Electric kettle, stainless steel, 1.7 litres, 2200 W"
WIDTH = 1200  # pixels of every picture
MARGIN = 16  # CSS pixels above what a picture begins with
COLUMNS = 84  # of the terminal

# what is shown: files, functions of one, commands of a page. metrics/train.json changes with the
# adapter.
SOURCES = {
    "pictures/page.png": [
        "pricer/serving/page/index.html",
        "pricer/serving/page/script.js",
        "pricer/serving/page/style.css",
        "metrics/train.json",
    ],
    "pictures/terminal.png": [
        "pricer/commands/predict.py:_show_one",
        "pricer/commands/predict.py:_table",
        "pricer/commands/predict.py:_likened_to",
        "pricer/commands/predict.py:sketch",
        "metrics/train.json",
    ],
    "pictures/report.png": [
        "pricer/judging/report.html.jinja",
        "pricer/judging/style.css.jinja",
        "metrics/charts/leaderboard.png",
        "metrics/charts/scatter.png",
        "metrics/charts/residuals.png",
        "metrics/charts/running_error.png",
    ],
    "questions/which-base-model.md": [
        "docs/questions/which-base-model.md:commands",
        "pricer/commands/inspection.py:price_tokens",
    ],
    "questions/which-preset.md": [
        "docs/questions/which-preset.md:commands",
        "pricer/presets/lite.yaml",
        "pricer/presets/full.yaml",
    ],
    **{
        f"questions/{name}.md": [
            f"docs/questions/{name}.md:commands",
            "pricer/judging/comparison.py:comparison_text",
            "pricer/judging/comparison.py:verdict",
            "metrics/evaluate.json",
        ]
        for name in ("how-many-products", "is-b-better", "when-no-language-model")
    },
}
# commands, and what they print
SHOWN = re.compile(r"^```(bash|python)\n([^`]*)```\n\n```text\n(.*?)```", re.DOTALL | re.MULTILINE)


def make_pictures() -> None:
    """Make all pictures and outputs, and note what they show."""
    report = ROOT / "metrics/report.html"
    if not report.exists():
        sys.exit(f"{report} is missing: run `make repro` first")
    if not CHROMIUM.exists():
        sys.exit(f"{CHROMIUM} is missing: install Debian's chromium package")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        with serving() as url:
            picture_of_page(browser, url, FOLDER / "page.png")
        picture_of_terminal(browser, ROOT, FOLDER / "terminal.png")
        picture_of_report(browser, report, FOLDER / "report.png")
    write_outputs()
    note_sources()


def picture_of_page(browser: Browser, url: str, file: Path) -> None:
    """Ask the service for a price on its page, down to the end of the answer."""
    tab = open_tab(browser, 800)
    tab.goto(url)
    tab.fill("#description", PRODUCT)
    tab.click("#ask button")
    tab.wait_for_selector("#answer:not([hidden])")
    tab.evaluate("document.activeElement.blur()")
    take(tab, file, above="[aria-labelledby=many]")


def picture_of_terminal(browser: Browser, project: Path, file: Path) -> None:
    """Price a product on the command line of a project."""
    tab = open_tab(browser, WIDTH)
    tab.set_content(terminal_page(f'pricer predict "{PRODUCT}"', project))
    take(tab, file, above="footer")


def picture_of_report(browser: Browser, report: Path, file: Path) -> None:
    """Open a report at its first four charts."""
    tab = open_tab(browser, WIDTH)
    tab.goto(report.as_uri())
    take(tab, file, below="h2:text('Charts')", above=".charts figure >> nth=4")


def open_tab(browser: Browser, width: int) -> Page:
    """Return a tab for a page of so many CSS pixels."""
    return browser.new_page(
        viewport={"width": width, "height": 900},
        device_scale_factor=WIDTH / width,
        color_scheme="light",
        reduced_motion="reduce",
    )


def take(tab: Page, file: Path, *, below: str = "html", above: str) -> None:
    """Take a picture of a page, from one element on to the first that is not to be in it."""
    begin, end = (
        tab.locator(one).evaluate("one => scrollY + one.getBoundingClientRect().top")
        for one in (below, above)
    )
    begin = max(begin - MARGIN, 0)
    part = {"x": 0, "y": begin, "width": tab.evaluate("innerWidth"), "height": end - begin}
    shot = Image.open(BytesIO(tab.screenshot(full_page=True, clip=part)))
    # these have few colours: a palette makes the file a third as large
    shot.convert("RGB").quantize(256).save(file, optimize=True)


@contextmanager
def serving() -> Iterator[str]:
    """Run the service with a log of its own; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["pricer", "serve", "--port", "0", "--database", f"{folder}/log.sqlite"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            said = ""
            for line in process.stderr or []:
                said += line
                if address := re.search(r" on (http://\S+?),", line):
                    yield address[1]
                    return
            sys.exit(f"`pricer serve` has ended: {said}")
        finally:
            process.terminate()
            process.communicate()


def terminal_page(command: str, project: Path) -> str:
    """Return a page with what a command shows on a terminal."""
    done = subprocess.run(
        command,
        shell=True,
        cwd=project,
        env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(f"$ {command}", style="bold green", highlight=False)
        console.print(Text.from_ansi(done.stdout))
    svg = console.export_svg(title="")
    # its font would come from another host; unclipped and so large, blocks of lines touch
    for pattern, instead in (
        (r"(?s)@font-face \{.*?\}", ""),
        (r' clip-path="url\(#[\w-]+-line-\d+\)"', ""),
        ("Fira Code", "DejaVu Sans Mono"),
        ("font-size: 20px", "font-size: 21.6px"),
    ):
        svg = re.sub(pattern, instead, svg)
    return f"<body style='margin: 0'>{svg}<footer></footer>"


def write_outputs() -> None:
    """Write into the pages what their commands print."""
    for page in ROOT.glob("docs/questions/*.md"):
        page.write_text(SHOWN.sub(with_output, page.read_text(encoding="utf-8")), encoding="utf-8")


def with_output(shown: re.Match[str]) -> str:
    """Return commands as a page has them, with what they print now."""
    shell, commands, _ = shown.groups()
    done = subprocess.run(
        [shell, "-c", commands], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return f"```{shell}\n{commands}```\n\n```text\n{done.stdout}```"


def note_sources() -> None:
    """Note what all pictures and pages show now."""
    with writing(RECORD) as file:
        file.write_text(json.dumps({name: hashes(name) for name in SOURCES}, indent=2) + "\n")


def hashes(name: str) -> dict[str, str]:
    """Return the SHA-256 of everything that a picture or a page shows."""
    return {source: hashlib.sha256(content(source)).hexdigest() for source in SOURCES[name]}


def content(source: str) -> bytes:
    """Return a file, one function in it (FILE:FUNCTION), or commands and outputs of a page."""
    name, _, function = source.partition(":")
    file = ROOT / name
    if not function:
        return file.read_bytes()
    text = file.read_text(encoding="utf-8")
    if function == "commands":
        return repr(SHOWN.findall(text)).encode()
    definitions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    [definition] = [one for one in definitions if one.name == function]
    return (ast.get_source_segment(text, definition) or "").encode()


def changed_sources() -> dict[str, list[str]]:
    """Return by picture or page what has changed since it was made.

    Results that are not committed, as after `make repro` on another CPU, do not count.
    """
    made = json.loads(RECORD.read_text(encoding="utf-8"))
    same = ["git", "diff", "--quiet", "HEAD", "--", "metrics"]
    committed = subprocess.run(same, cwd=ROOT, capture_output=True).returncode == 0
    return {
        name: [
            source
            for source, value in hashes(name).items()
            if value != made.get(name, {}).get(source)
            and (committed or not source.startswith("metrics/"))
        ]
        for name in SOURCES
    }


def check() -> None:
    """End with a line for each picture and page that is older than what it shows."""
    lines = [
        f"docs/{name} is older than {', '.join(sources)}: `make pictures` remakes it"
        for name, sources in changed_sources().items()
        if sources
    ]
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    check() if sys.argv[1:] == ["--check"] else make_pictures()
