"""What the docs show: when it counts as outdated, and that commands' outputs are written anew."""

import importlib.util
import subprocess

import pytest

from tests.conftest import ROOT


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    """docs/make_pictures.py in a repository of its own, with all that it looks at."""
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "docs/make_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for source in {name.partition(":")[0] for names in module.SOURCES.values() for name in names}:
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source).write_bytes((ROOT / source).read_bytes())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RECORD", tmp_path / "sources.json")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    module.note_sources()
    return module


def git(folder, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder) -> None:
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "made")


def edit(file, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_picture_is_outdated_by_what_it_shows_and_by_nothing_else(pictures, capsys):
    predict = pictures.ROOT / "pricer/commands/predict.py"
    edit(predict, "every price's probability too", "the probability of every price")
    pictures.check()
    edit(predict, "▁▂▃▄▅▆▇█", "........")
    with pytest.raises(SystemExit) as ended:
        pictures.check()
    assert ended.value.code == (
        "docs/pictures/terminal.png is older than pricer/commands/predict.py:sketch: "
        "`make pictures` remakes it"
    )
    pictures.note_sources()
    pictures.check()


def test_results_outdate_pictures_when_they_are_committed(pictures):
    """`make repro` on another CPU gives other last digits, and nobody has to make pictures."""
    edit(pictures.ROOT / "metrics/train.json", "{", "{ ")
    pictures.check()
    commit(pictures.ROOT)
    with pytest.raises(SystemExit, match="docs/pictures/page.png is older than metrics/train.json"):
        pictures.check()


def test_an_output_is_outdated_by_its_command(pictures):
    page = pictures.ROOT / "docs/questions/is-b-better.md"
    edit(page, "# Is run B better?", "# Is run B the better one?")
    pictures.check()
    edit(page, "pricer compare ridge_log tuned", "pricer compare ridge tuned")
    with pytest.raises(SystemExit, match="is-b-better.md is older than .*:commands: `make pict"):
        pictures.check()


def test_every_page_with_outputs_is_looked_after(pictures):
    pages = ROOT.glob("docs/questions/*.md")
    shown = {f"questions/{page.name}" for page in pages if pictures.SHOWN.search(page.read_text())}
    assert shown == {name for name in pictures.SOURCES if name.endswith(".md")}


def test_outputs_below_commands_are_written_anew(pictures):
    for committed in pictures.ROOT.glob("docs/questions/*.md"):
        committed.unlink()
    page = pictures.ROOT / "docs/questions/page.md"
    page.write_text(
        "```bash\necho one\necho two\n```\n\n```text\nold\n```\n\n"
        "```bash\nexit 1\n```\n\nNothing below it.\n\n```\nas it is\n```\n"
    )
    pictures.write_outputs()
    assert "```text\none\ntwo\n```\n\n```bash\nexit 1" in page.read_text()
    assert "```\nas it is\n```" in page.read_text()


def test_the_readme_shows_every_picture():
    readme = (ROOT / "README.md").read_text()
    files = sorted(ROOT.glob("docs/pictures/*.png"))
    assert len(files) == 3
    for file in files:
        assert f"docs/pictures/{file.name}" in readme
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size < 200_000
    for page in ROOT.glob("docs/questions/*.md"):
        assert f"(docs/questions/{page.name})" in readme
