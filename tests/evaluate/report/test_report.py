import html.parser
import json
import re
import shutil

import pytest

from mta_jax.errors import ConfigError
from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.lm_eval.paper import TASKS
from mta_jax.evaluate.paper import (
    TABLE_1,
    TABLE_2,
    TABLE_2_LONG,
    TABLE_3,
    TABLE_3_COLUMNS,
    TABLE_4,
)
from mta_jax.evaluate.report.command import report_of
from mta_jax.evaluate.report.config import ReportConfig
from mta_jax.evaluate.report.html import as_html
from mta_jax.evaluate.report.markdown import as_markdown
from mta_jax.training.records import read_rows
from tests.evaluate.report import samples

VOID = {"meta", "img", "br", "hr"}


class Page(html.parser.HTMLParser):
    """What a browser would find: tags that are closed in order, texts and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data.strip())

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def cells(markdown, title):
    """Rows of a table of the Markdown, the headings first."""
    _, _, rest = markdown.partition(f"**{title}")
    assert rest, title
    lines = [line for line in rest.split("\n\n")[1].splitlines() if not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def report(**settings):
    document = report_of(ReportConfig(output="unused", **settings))
    return document, as_markdown(document)


def titles(document):
    return [section.title for section in document.sections]


def test_the_command_writes_one_html_file_and_markdown_with_pictures(runs, tmp_path, capsys):
    toy = samples.toy(tmp_path / "toy")
    out = tmp_path / "out"
    given = ["--runs", str(runs / "*"), "--evaluations", str(toy), "--output", str(out)]
    assert main(["report", *given]) == 0
    assert "report.html" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "pictures"}
    markdown = (out / "report.md").read_text()
    linked = set(re.findall(r"\]\(pictures/([^)]+)\)", markdown))
    assert linked == {path.name for path in (out / "pictures").iterdir()}
    page = Page((out / "report.html").read_text())
    assert len(page.attributes("img")) == len(linked)
    assert {"Runs", "Learning curves", "Block search", "Kernels", "Attention"} <= set(page.texts)
    assert "2.0 ± 1.4" in page.texts


def test_html_needs_nothing_else_and_escapes_all(runs, tmp_path):
    document, _ = report(
        runs=str(runs / "*"), evaluations=[str(samples.toy(tmp_path / "<i>x</i>"))], prompt="a<c>&"
    )
    page = Page(as_html(document))
    assert {tag for tag, _ in page.tags} == {
        *("html", "head", "meta", "title", "style", "body", "h1", "p", "nav", "ul", "li", "a"),
        *("section", "h2", "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "img"),
        "figcaption",
    }
    ids = {attributes["id"] for attributes in page.attributes("section")}
    assert {attributes["href"] for attributes in page.attributes("a")} == {f"#{i}" for i in ids}
    for image in page.attributes("img"):
        assert image["src"].startswith("data:image/png;base64,")
        assert len(image["alt"]) > 10
    names = {name for _, attributes in page.tags for name in attributes}
    assert not names & {"srcset", "background", "action", "onload", "style"}
    assert "url(" not in as_html(document)
    assert "<b>" in page.texts
    assert any("'a<c>&'" in text for text in page.texts)


def test_markdown_has_no_markup_of_others(runs, tmp_path):
    _, markdown = report(runs=str(runs / "*"), evaluations=[str(samples.toy(tmp_path / "t"))])
    assert r"\<b\>" in markdown
    assert not re.search(r"(?<!\\)<", markdown)


def test_runs_are_told_with_what_they_took_and_their_differences(runs):
    document, markdown = report(runs=[str(runs / "<b>"), str(runs / "plain"), str(runs / "text")])
    assert titles(document) == ["Runs", "Learning curves", "Kernels", "Attention"]
    what = {row[0]: row[1:] for row in cells(markdown, "What they are")}
    assert what[r"\<b\>"][0] == "mta"
    assert what["plain"][0] == "transformer"
    assert what["text"][2] == "text: docs"
    for name, length, batch in (("<b>", 20, 4), ("text", 64, 16)):
        took = {row[0]: row[1:] for row in cells(markdown, "What they took")}
        own = took[name.replace("<", r"\<").replace(">", r"\>")]
        results = json.loads((runs / name / "results.json").read_text())
        assert own[0] == f"{results['num_params']:,}"
        assert own[1] == f"{results['step']:,}"
        assert own[2] == f"{results['step'] * length * batch:,}"
        assert own[3] == f"{results['seconds']:,.0f}"
    differences = {row[0]: row[1:] for row in cells(markdown, "Settings in which they differ")}
    assert differences["model.attention"] == ["mta", "transformer", "mta"]
    assert differences["num_steps"] == ["12", "12", "4"]
    assert "run_dir" not in differences
    assert "seed" not in differences
    # What describes the data of the other source is no difference.
    assert not [name for name in differences if name.startswith(("data.text", "data.block"))]


def test_runs_that_a_folder_compares_are_each_reported(runs, tmp_path):
    shutil.copytree(runs / "plain", tmp_path / "both/transformer")
    shutil.copytree(runs / "<b>", tmp_path / "both/mta")
    settings = (runs / "<b>/config.yaml").read_text()
    (tmp_path / "both/config.yaml").write_text(
        settings.replace("compare: null", "compare: [mta, transformer]")
    )
    _, markdown = report(runs=[str(tmp_path / "both"), str(tmp_path / "both/mta")])
    assert [row[0] for row in cells(markdown, "What they are")] == ["run", "mta", "transformer"]


def test_a_run_without_a_checkpoint_is_reported_as_far_as_it_is(runs, tmp_path):
    shutil.copytree(runs / "plain", tmp_path / "young")
    shutil.rmtree(tmp_path / "young/checkpoints")
    rows = (tmp_path / "young/metrics.jsonl").read_text().splitlines()
    (tmp_path / "young/metrics.jsonl").write_text(rows[0] + "\n")
    _, markdown = report(runs=str(tmp_path / "young"))
    assert cells(markdown, "What they took")[1][2] == "2 of 12"
    assert "young has no checkpoint yet." in markdown


def test_kernels_are_drawn_with_their_distance_from_the_identity(runs):
    document, markdown = report(runs=[str(runs / "<b>")])
    (kernels,) = [section for section in document.sections if section.title == "Kernels"]
    captions = [block.caption for block in kernels.blocks if hasattr(block, "caption")]
    assert captions == [
        "<b>, key-query kernels: layer 0, before softmax, heads 0 to 1.",
        "<b>, head mixing: layer 0, after softmax.",
    ]
    recorded = [row for row in read_rows(runs / "<b>/metrics.jsonl") if "loss" not in row][-1]
    shown = dict(zip(*cells(markdown, r"\<b\>: distance of kernels"), strict=True))
    assert shown == {
        "layer": "0",
        "pre_kq": f"{recorded['kernels/layer_0/pre_kq']:.3f}",
        "post_head": f"{recorded['kernels/layer_0/post_head']:.3f}",
    }


def test_attention_of_block_search_is_in_one_picture_and_of_text_in_its_own(runs):
    document, _ = report(runs=str(runs / "*"), prompt="ab ab")
    captions = [block.caption for block in document.sections[-1].blocks]
    assert len(captions) == 2
    assert captions[0].startswith("One held-out sample, question ")
    assert captions[1] == "text: attention to the prompt 'ab ab', layer 0, all 2 heads."


def test_table_1_stands_above_the_papers(tmp_path):
    document, markdown = report(evaluations=str(samples.toy(tmp_path / "t")))
    assert titles(document) == ["Block search"]
    heading, own, *paper = cells(markdown, "Wrong answers to the block-search task")
    assert heading[2:4] == ["N=5 all", "N=5 first"]
    assert heading[-1] == "N=3 all"
    assert own == ["here", "mta", "2.0 ± 1.4", *[""] * 5, "44.4"]
    assert [row[1:8] for row in paper] == [[kind, *row] for kind, row in TABLE_1.items()]
    assert "9 blocks, 1,000 samples" in markdown
    (picture,) = document.pictures
    assert picture.png == (tmp_path / "t/errors.png").read_bytes()


def test_every_table_says_how_it_was_made(tmp_path):
    _, markdown = report(evaluations=str(samples.toy(tmp_path / "t")))
    assert (
        "t. Made by: python -m mta_jax.evaluate it, commit 0123456789ab, 1 x TPU v5e (x86_64), "
        "jax 0.10.2, flax 0.12.8, Python 3.11.7, 2026-01-31, 12.5 s, seed 7."
    ) in markdown


def test_table_2_has_the_papers_domains_in_its_order(tmp_path):
    domains = {"wikipedia": 30.0, "arxiv": 20.125, "mean": 25.06}
    _, markdown = report(evaluations=str(samples.perplexity(tmp_path / "p", domains)))
    heading, own, *paper = cells(markdown, "Perplexity of held-out text by domain")
    assert heading[2:] == ["arxiv", "book", "c4", "cc", "github", "se", "wiki", "avg"]
    assert own == [r"m\&m", "mta", "20.12", *[""] * 5, "30.00", "25.06"]
    expected = [*TABLE_2.items(), *TABLE_2_LONG.items()]
    assert [row[1:] for row in paper] == [[kind, *figures] for kind, figures in expected]
    assert cells(markdown, "Bits per byte")[1][2:] == ["3.000", "2.013", "2.506"]


def test_other_domains_have_a_table_of_their_own_beside_table_2(tmp_path):
    domains = {"code": 3.0, "docs": 4.0, "mean": 3.5}
    _, markdown = report(evaluations=str(samples.perplexity(tmp_path / "p", domains)))
    assert cells(markdown, "Perplexity of held-out text by domain") == [
        ["model", "attention", "code", "docs", "mean"],
        [r"m\&m", "mta", "3.00", "4.00", "3.50"],
    ]
    assert cells(markdown, "The paper's table 2")[-1][2:] == list(TABLE_2_LONG["mta"])


def test_table_3_has_a_mean_only_of_all_nine(tmp_path):
    accuracies = {name: 0.1 + place / 100 for place, name in enumerate(TASKS)}
    assert list(TABLE_3_COLUMNS) == [*TASKS, "mean"]
    _, markdown = report(evaluations=str(samples.lm_eval(tmp_path / "all", accuracies)))
    heading, own, *paper = cells(markdown, "Accuracy in benchmarks")
    assert heading[2:4] == ["BoolQ", "PIQA"]
    assert own[2:] == [f"{10 + place:.1f}" for place in range(9)] + ["14.0"]
    assert [row[1:] for row in paper] == [[k, *map(str, row)] for k, row in TABLE_3.items()]
    assert cells(markdown, "Other figures")[1:] == [
        ["a", "diff", "wikitext", "word_perplexity", "3.46e+05"]
    ]
    _, markdown = report(evaluations=str(samples.lm_eval(tmp_path / "one", {"piqa": 0.5})))
    assert cells(markdown, "Accuracy in benchmarks")[1][2:] == ["", "50.0", *[""] * 8]


def test_table_4_has_both_variants(tmp_path):
    _, markdown = report(evaluations=str(samples.lambada(tmp_path / "l")))
    heading, own, *paper = cells(markdown, "LAMBADA, perplexity")
    assert heading[2:] == ["standard", "openai"]
    assert own == ["a", "mta", "", "77.12"]
    assert [row[1:] for row in paper] == [[k, *map(str, row)] for k, row in TABLE_4.items()]
    assert cells(markdown, "LAMBADA, last words")[1] == ["a", "mta", "23.4 %"]


def test_needles_and_babilong_say_that_the_paper_has_plots_only(tmp_path):
    document, markdown = report(
        evaluations=[str(samples.babilong(tmp_path / "b")), str(samples.needle(tmp_path / "n"))]
    )
    assert titles(document) == ["Needles in a haystack", "BABILong"]
    assert markdown.count("in plots without numbers") == 2
    assert cells(markdown, "Needles found, greedy decoding")[1] == [
        *("600 tokens", "a", "mta", "50.0 %")
    ]
    assert cells(markdown, "BABILong, bAbI, in 1,024 tokens")[1:] == [
        ["a", "mta", "generated", "12.5", "12.5"],
        ["a", "mta", "likeliest", "37.5", "37.5"],
        ["chance", "", "likeliest", "16.7", "16.7"],
    ]
    files = [tmp_path / "n/a_generated.png", tmp_path / "b/accuracy_generated.png"]
    assert [picture.png for picture in document.pictures] == [file.read_bytes() for file in files]


def test_a_task_that_is_not_known_is_shown_as_it_is(tmp_path):
    folder = samples.write(tmp_path / "x", "new", [{"a": 1, "b": "<u>"}])
    document, markdown = report(evaluations=str(folder))
    assert titles(document) == ["new"]
    assert cells(markdown, "new") == [["a", "b"], ["1", r"\<u\>"]]


def test_pictures_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "a b").mkdir()
    folders = [samples.toy(tmp_path / "a b" / "t"), samples.toy(tmp_path / "a-b" / "t")]
    document, _ = report(evaluations=[str(folder) for folder in folders])
    assert len({picture.name.lower() for picture in document.pictures}) == 2


def damaged(folder, text):
    samples.toy(folder)
    (folder / "figures.json").write_text(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "runs [], evaluations []: name at least one run or evaluation"),
        (["--runs", "nowhere"], "runs nowhere: no such folder; name a run folder"),
        (["--runs", "nowhere/*"], "runs nowhere/*: matches no run folder"),
        (["--runs", "{tmp}"], "holds no config.yaml, so no run; name a run folder"),
        (["--evaluations", "{tmp}"], "holds no figures.json; name what an evaluation wrote"),
        (["--evaluations", "{tmp}/cut"], "figures.json: is damaged (Expecting"),
        (["--evaluations", "{tmp}/list"], "figures.json: not the figures of an evaluation"),
        (["--evaluations", "{tmp}/rows"], "model of row 0 of toy is None, must be a string"),
        (["--evaluations", "{tmp}/png"], "errors.png: is damaged (no PNG file)"),
        (["--runs", "{runs}/text", "--prompt", ""], "prompt '': must have at least one character"),
        (["--runs", "{runs}/text", "--prompt", "x" * 64], "prompt: has 65 tokens with the token"),
        (["--runs", "{runs}/text", "--output", "{tmp}/full"], "exists already; choose a new or"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(runs, tmp_path, capsys, settings, message):
    damaged(tmp_path / "cut", '{"task": ')
    damaged(tmp_path / "list", "[]")
    damaged(
        tmp_path / "rows",
        json.dumps({"task": "toy", "provenance": {}, "config": {}, "rows": [{}]}),
    )
    samples.toy(tmp_path / "png")
    (tmp_path / "png/errors.png").write_bytes(b"no picture")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    given = [part.format(tmp=tmp_path, runs=runs) for part in settings]
    if "--output" not in given:
        given += ["--output", str(tmp_path / "out")]
    try:
        code = main(["report", *given])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_weights_are_no_run(runs, tmp_path):
    shutil.copytree(runs / "plain", tmp_path / "w")
    (tmp_path / "w/weights").mkdir()
    with pytest.raises(ConfigError, match="holds weights, and no run"):
        report(runs=str(tmp_path / "w"))
