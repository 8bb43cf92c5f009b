"""The report, the model card and the list of runs: what they say, and that nothing in them runs but our script."""

import base64
import dataclasses
import hashlib
import json
import math
import shutil
import subprocess
from html.parser import HTMLParser

import click
import huggingface_hub
import pytest
import yaml
from report_fixture import old_run, read_run, write_run

from ftp import Answer, Evaluation, Example, Interval, Message, Metric
from ftp.results import finished
from ftp.stats.paired import paired_metric
from ftp.testing import assert_component_ok
from ftp.types import EvalView
from ftp_plugins.reporters import charts, curves, html, judge_panel, run_costs, tables
from ftp_plugins.reporters.html import Html
from ftp_plugins.reporters.model_card import ModelCard

POISON = (
    "<script>document.title='pwned'</script></details></section></style></svg>"
    "<img src=x onerror=\"document.title='pwned'\">"
    "<a href=\"javascript:document.title='pwned'\" autofocus onfocus=\"document.title='pwned'\">x</a> "
    "\"' onmouseover='x' "
    "{{ 7 * 7 }} ]]> --> "
)
VOID = {"meta", "input", "img", "br", "path", "use", "link", "rect"}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
browser = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")


class Page(HTMLParser):
    """A page as a browser would take it apart: elements with attributes, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts, self.unbalanced = [], [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        # A cell may be left open before the next one: HTML closes it.
        while self.open and self.open[-1] != tag and self.open[-1] in ("td", "th"):
            self.open.pop()
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unbalanced.append((tag, self.getpos()))

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(run, **options):
    return Html(**options).report(run).read_text(encoding="utf-8")


def chromium(*arguments, tmp_path):
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'chromium'}", "--virtual-time-budget=3000", *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def hashes(page, tag):
    return [f"'sha256-{base64.b64encode(hashlib.sha256(page.texts[tag].encode()).digest()).decode()}'"]


def test_the_reporters_are_sound_components():
    assert_component_ok(Html)
    assert_component_ok(ModelCard)


def assert_inert(text):
    """Our style and our script are all that the page's policy allows and all that is there."""
    page = Page(text)
    assert not page.unbalanced and not page.open
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert len(page.all("script")) == 1 and [rules["script-src"]] == hashes(page, "script")
    assert len(page.all("style")) == 1 and [rules["style-src"]] == hashes(page, "style")
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "style", "srcdoc", "action")]
    assert not page.all("img") and not page.all("iframe") and not page.all("link")
    return page


def test_nothing_from_data_or_models_is_markup(tmp_path):
    text = page_of(read_run(tmp_path, poison=POISON))
    page = assert_inert(text)
    assert all(a["href"].startswith("#") for a in page.all("a"))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert all(a["href"][1:] in ids for a in page.all("a"))
    assert text.count("&lt;script&gt;document.title=&#39;pwned&#39;&lt;/script&gt;") > 24 * 4
    assert "49" not in page.texts["li"]  # a template in the data is text
    assert POISON[:26] in page.texts["text"]  # the source's name in a chart


@browser
def test_a_browser_runs_our_script_and_no_other(tmp_path):
    page = write_run(tmp_path, poison=POISON)
    text = page_of(finished(page))
    # Even if something had come through unescaped, the policy would not let it run.
    text = text.replace(
        "<main ", "<script>document.title='pwned'</script><b onclick='x' style='color:red'></b><main ", 1
    )
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    shown = chromium("--dump-dom", (tmp_path / "page.html").as_uri(), tmp_path=tmp_path)
    assert "<title>medicine · FTP report</title>" in shown
    assert '<output id="count" aria-live="polite">24 of 24</output>' in shown
    assert shown.count("<details") == text.count("<details")


DRIVE = """<!doctype html><iframe id="frame" src="%s" width="1000" height="700"></iframe><pre id="found"></pre><script>
frame.onload = () => {
  const page = frame.contentDocument, found = {};
  const get = (id) => page.getElementById(id);
  const set = (id, value) => { get(id).value = value; get(id).dispatchEvent(new Event("input", { bubbles: true })); };
  const press = (key) =>
    page.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const visible = () => [...page.querySelectorAll("details.ex:not([hidden])")];
  const shown = () => visible().map((e) => e.querySelector(".id").textContent);
  const at = () => page.activeElement.closest("details")?.querySelector(".id").textContent;
  found.all = shown().length;
  set("search", "NUMBER 27? treatment"); found.search = shown(); set("search", "");
  for (const kind of ["worse", "better", "unscored"]) { set("show", kind); found[kind] = shown(); }
  set("by", "0 1"); set("show", "worse"); found.one = shown();
  set("by", "0"); set("show", ""); found.set = shown().length;
  press("j"); press("j"); found.second = at(); found.open = page.activeElement.closest("details").open;
  press("k"); found.first = at();
  press("/"); found.focus = page.activeElement.id; press("j"); found.typed = page.activeElement.id;
  get("theme").value = "dark"; found.dark = frame.contentWindow.getComputedStyle(page.body).backgroundColor;
  get("theme").value = "light"; found.light = frame.contentWindow.getComputedStyle(page.body).backgroundColor;
  found.wide = page.documentElement.scrollWidth <= frame.clientWidth;
  frame.width = 400; found.narrow = page.documentElement.scrollWidth <= 400;
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>"""


@browser
def test_search_filters_keys_themes_and_widths(tmp_path):
    run = read_run(tmp_path, n=30)
    (tmp_path / "drive.html").write_text(DRIVE % Html().report(run).as_uri(), encoding="utf-8")
    shown = chromium(
        *("--allow-file-access-from-files", "--disable-web-security", "--dump-dom"),
        (tmp_path / "drive.html").as_uri(),
        tmp_path=tmp_path,
    )
    found = json.loads(Page(shown).texts["pre"])
    ids = [example.id for example in run.views[0].examples]
    metrics = [m for e in run.evaluations if e.evals == "heldout" for m in e.metrics]

    def where(holds, some=metrics):
        return [id for i, id in enumerate(ids) if any(holds(m, m.base_scores[i], m.tuned_scores[i]) for m in some)]

    def worse(metric, base, tuned):
        return tuned < base if metric.higher_is_better else tuned > base

    assert found["all"] == found["set"] == 30 and found["search"] == ["heldout.jsonl:28"]
    assert found["worse"] == where(worse) and found["one"] == where(worse, metrics[1:2])
    assert found["better"] == where(lambda m, base, tuned: worse(m, tuned, base))
    assert found["unscored"] == where(lambda m, *scores: any(map(math.isnan, scores))) == ["heldout.jsonl:4"]
    assert 0 < len(found["one"]) < len(found["worse"])
    assert (found["second"], found["open"], found["first"]) == (ids[1], True, ids[0])
    assert found["focus"] == found["typed"] == "search"
    assert (found["dark"], found["light"]) == ("rgb(17, 21, 27)", "rgb(246, 247, 249)")
    assert found["wide"] and found["narrow"]


def test_five_hundred_long_examples_fit_into_three_megabytes(tmp_path):
    text = page_of(read_run(tmp_path, n=500, length=1200))
    assert len(text.encode()) < 3_000_000 and "500 of 500 examples" in text
    assert text.count('<details class="ex"') == 500


def test_examples_that_evaluators_brought_are_shown_after_the_recipes_own(tmp_path, monkeypatch):
    run = read_run(tmp_path, windows=True)
    assert [view.name for view in run.views] == ["heldout", "general-text"]
    text = page_of(run)
    assert text.count("24 of 24 examples") == 2 and text.index("general.txt:1<") > text.index("heldout.jsonl:24<")
    assert '<optgroup label="general-text">' in text and run.views[1].examples[23].text in Page(text).texts["div"]
    # Where there isn't room for all, the recipe's own come first.
    monkeypatch.setattr(html, "PAGE_BYTES", len(text.encode()) - 8_000)
    few = page_of(run)
    shown = few.count('id">general.txt:')
    assert "24 of 24 examples" in few and 0 < shown < 24 and f"{shown} of 24 examples; all of them" in few


@pytest.mark.slow
def test_five_hundred_examples_and_five_hundred_windows_fit_into_three_megabytes(tmp_path):
    text = page_of(read_run(tmp_path, n=500, length=1200, windows=True))
    assert len(text.encode()) < 3_000_000 and "500 of 500 examples" in text


def test_what_does_not_fit_is_left_out_and_counted(tmp_path, monkeypatch):
    run = read_run(tmp_path)
    monkeypatch.setattr(html, "PAGE_BYTES", len(page_of(run).encode()) - 20_000)
    text = page_of(run)
    shown = text.count('<details class="ex"')
    assert 0 < shown < 24 and f"{shown} of 24 examples; all of them are in answers/" in text
    assert "3 of 24 examples; all of them are in answers/" in page_of(run, max_examples=3)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(4.0, "4"), (0.0, "0"), (0.25, "0.25"), (2 / 3, "0.667"), (-1.5, "-1.5"), (math.nan, "unscored"), (100.0, "100")],
)
def test_a_score_is_as_short_as_it_is(value, shown):
    assert tables.score(value) == shown


def test_a_long_text_is_cut_visibly(tmp_path):
    text = page_of(read_run(tmp_path, n=3, length=9000))
    assert "… (1,000 more characters)" in text


def test_the_report_says_everything(tmp_path):
    run = read_run(tmp_path)
    text = page_of(run)
    page = Page(text)
    assert not page.unbalanced
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert ids >= {"verdict", "metrics", "curves", "judge", "forgetting", "leaks", "examples", "data", "cost", "lock"}
    titles = (
        "Loss,Validation loss of each source,The score by which the best step is chosen,Learning rate,Gradient norm"
    )
    assert page.texts["figcaption"] == titles.replace(",", "")
    assert len(page.all("svg")) == 7 and all(a["role"] == "img" and a["aria-label"] for a in page.all("svg"))
    assert "divergence went back to a checkpoint" in text and "rolled back to this step" in text
    assert "unscored: the reply is not the JSON" in text and "scored</dt>" in text
    assert "General abilities: No evidence of a difference on general-text, forgetting general_nll" in text
    special, general = (
        text.split(f'<section id="{part}">')[1].split("</section>")[0] for part in ("metrics", "forgetting")
    )
    assert "general_nll" in general and "32 texts" in general and "win_rate" not in general
    assert "general_nll" not in special and "32 texts" not in special and "win_rate" in special
    for word in ("clean", "leaked", "may prefer longer answers", "81.0% (70.0% to 89.0%)", "15.3 min", "2.22 GB"):
        assert word in text, word
    assert run.evaluations[0].metrics[0].p_adjusted is not None and "adjusted for testing several" in text


def test_a_run_of_an_older_release_can_be_reported(tmp_path):
    run = old_run(tmp_path)
    page = assert_inert(page_of(run))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert not ids & {"judge", "forgetting", "leaks"} and "by chance alone one in twenty" in page.texts["p"]
    ModelCard().report(run)


def test_an_evaluation_without_training_and_one_without_metrics(tmp_path):
    run = read_run(tmp_path)
    bare = dataclasses.replace(run, training={}, events=[], evaluations=[], views=[], ledger_totals=())
    shutil.rmtree(run.directory / "model")
    text = page_of(bare)
    assert "This recipe names no evaluator" in text and "not measured" in text and "No step was logged" in text
    assert "None: the recipe names no evaluator" in ModelCard().report(bare).read_text()


def test_odd_figures_and_odd_examples_are_shown(tmp_path):
    nan = Interval(math.nan, math.nan, math.nan, 3, "t")
    metrics = (
        Metric("broken", math.nan, 1.0, nan, True, (1.0, math.nan), (1.0, 2.0)),
        Metric("endless", math.inf, 1.0, Interval(1e9, -math.inf, math.inf, 3, "t"), False),
    )
    call = Message("assistant", "", tool_calls='[{"name": "look"}]')
    examples = [
        Example(text="running text", id="t:1"),
        Example(
            (Message("user", "q"), call, Message("tool", "42", name="f"), Message("assistant", "日本語")), id="t:2"
        ),
    ]
    view = EvalView("odd", examples, [Answer("", 0, True), Answer("日本人", 2, False)], [], [], [])
    odd = Evaluation(metrics, (), "e", "odd", 2, {"x": math.inf}, {"clean": metrics[:1], "leaked": ()})
    run = read_run(tmp_path)
    recipe = {**run.recipe, "data": {"evals": {"odd": {}}}}
    run = dataclasses.replace(run, recipe=recipe, evaluations=[odd], views=[view])
    text = page_of(run)
    assert (
        "<i>nothing</i>" in text and "<b>日本</b>人" in text and "&#34;look&#34;" in text and "cut at 2 tokens" in text
    )
    assert "a score is not a finite number" in text and "<td>unscored<td>2" in text
    ModelCard().report(run)


def metric(mean, low, high, n=50, higher=True, adjusted=None):
    return Metric("m", 0.5, 0.5 + mean, Interval(mean, low, high, n, "t"), higher, p_adjusted=adjusted)


UP, DOWN, NONE = metric(0.2, 0.1, 0.3), metric(-0.2, -0.3, -0.1), metric(0.0, -0.1, 0.1)


@pytest.mark.parametrize(
    ("metrics", "word", "sentence"),
    [
        ([], "not measured", "there is no evidence that the tuned one is better"),
        ([Metric("perplexity", 2.0, 1.0, None)], "not measured", "there is no evidence"),
        ([UP], "better", "0.500 → 0.700, difference +0.200 (95% interval +0.100 to +0.300, n = 50)"),
        ([NONE], "no evidence", "No evidence of a difference on set, eval m"),
        ([UP, UP], "better", "better than the base on 2 of 2 metrics, over 50 held-out examples; worse on none."),
        ([UP, NONE], "better", "on 1 of 2 metrics, over 50 held-out examples; on 1 there is no evidence either way."),
        ([UP, DOWN], "mixed", "better than the base on 1 of 2 metrics and worse on 1, over"),
        ([DOWN, DOWN, NONE], "worse", "The tuned model is worse on 2 of 3 metrics, over 50 held-out examples; on 1"),
        ([NONE, NONE], "no evidence", "No evidence that the tuned model differs from the base, on any of 2 metrics"),
        ([metric(0.2, 0.1, 0.3, adjusted=0.2), NONE], "no evidence", "No evidence that the tuned model differs"),
        ([metric(-0.2, -0.3, -0.1, higher=False)], "better", "The tuned model is better on set, eval m"),
    ],
)
def test_the_headline(metrics, word, sentence):
    found = tables.headline(tables.rows_of([Evaluation(tuple(metrics), evaluator="eval", evals="set", n=50)]))
    assert found[0] == word and sentence in found[1]


def test_the_figure_to_name_first_is_conclusive_and_of_answers():
    def rows(**metrics):
        return tables.rows_of([Evaluation((m,), evaluator=name, evals="set", n=50) for name, m in metrics.items()])

    assert "set, rouge m" in tables.first_figure(rows(loss=UP, exact=NONE, rouge=DOWN))
    assert "set, loss m" in tables.first_figure(rows(loss=UP, exact=NONE))
    assert "set, exact m" in tables.first_figure(rows(loss=NONE, exact=NONE))
    assert tables.first_figure(rows(exact=UP)) == ""


def test_what_lies_beyond_the_forest_is_an_arrow():
    inside = charts.forest([("a", "better", (0.5, 0.1, 0.9))])
    assert charts.forest([("a", "better", (5.8, 5.0, 6.0)), ("b", "worse", (-9.0, -9.5, -8.0))]) != inside
    assert "5" not in Page(charts.forest([("a", "better", (5.8, 5.0, 6.0))])).texts["text"]


def test_the_axis_of_the_forest_is_the_same_for_every_unit():
    scores = [0.1, 0.5, 0.2, 0.9, 0.4, 0.3]
    worse = [score - 0.1 * (place + 1) for place, score in enumerate(scores)]
    found = []
    for scale, higher in ((1, True), (1000, True), (-1, False)):
        metric = paired_metric("m", [scale * s for s in scores], [scale * s for s in worse], higher_is_better=higher)
        found.append(tables.standardised(tables.row(Evaluation((metric,), n=6), metric)))
    assert found[1] == pytest.approx(found[0]) and found[2] == pytest.approx(found[0])
    assert found[0][1] < found[0][0] < found[0][2] < 0
    assert tables.standardised({"difference": None}) is None
    assert tables.standardised({"difference": Interval(1, 1, 1, 5, "t"), "better": "higher"}) is None
    assert tables.standardised({"difference": Interval(1, -math.inf, math.inf, 5, "t"), "better": "higher"}) is None


def events(*lines):
    names = {"m": "metric", "v": "validation", "p": "plan", "r": "resume", "b": "rollback", "w": "watcher"}
    return [{"event": names[name], "step": step, "loss": float(step) if step else 0.0} for name, step in lines]


def test_curves_hold_what_holds():
    resumed = events(("p", None), ("m", 1), ("m", 2), ("m", 3), ("p", None), ("r", 2), ("m", 3), ("m", 4))
    assert [e["step"] for e in curves.last_training(resumed) if e["event"] == "metric"] == [1, 2, 3, 3, 4]
    anew = events(("p", None), ("m", 1), ("m", 2), ("p", None), ("m", 1), ("p", None), ("r", 1), ("m", 2))
    assert [e["step"] for e in curves.last_training(anew) if e["event"] == "metric"] == [1, 2]
    line = curves.points([*events(("m", 1)), {"event": "metric", "step": 2, "loss": "nan"}], "metric", "loss")
    assert line == [(1, 1.0)]


def test_curves_of_a_run_that_was_resumed_and_rolled_back(tmp_path):
    run = read_run(tmp_path, judged=False)
    held = curves.points(curves.done_until(curves.last_training(run.events)), "metric", "loss")
    assert [step for step, _ in held] == list(range(1, 121))
    assert [(h["step"], h["what"].split()[0]) for h in curves.happenings(run.events)] == [
        (40, "resumed"),
        (71, "divergence"),
        (60, "rolled"),
        (120, "val_valley"),
        (90, "the"),
    ]
    assert curves.curves([]) == []


def test_a_long_curve_is_thinned_and_a_mean_stays_a_mean():
    line = [(float(i), float(i % 7)) for i in range(100_001)]
    thin = curves.thinned(line)
    assert len(thin) <= curves.MOST_POINTS + 1 and thin[0] == line[0] and thin[-1] == line[-1]
    assert curves.smooth([(0, 1.0), (1, 4.0), (2, 1.0)]) == [(0, 2.5), (1, 2.0), (2, 2.5)]
    assert curves.thinned([(1, 2.0)]) == [(1, 2.0)]


@pytest.mark.parametrize(
    "name", ["$a_b$ and $", "_hidden", "</svg><script>", "日本語", "a\x00b\x1bc", "x" * 90, '"><a', ""]
)
def test_any_name_can_stand_in_a_chart(name):
    svg = charts.forest([(name, "better", (0.5, 0.1, 0.9)), ("other", "no evidence", (0, -1, 1))])
    page = Page(svg)
    assert not page.unbalanced and not page.open and "<script" not in svg and "style" not in svg
    assert charts.printable(name, 34)[:20] in page.texts["text"]
    assert "#0102" not in svg and "var(--good)" in svg


def test_the_panel_keeps_what_it_does_not_know(tmp_path):
    panel = {"order consistency": 0.5, "order consistency, low": 0.4, "order consistency, high": 0.6, "unscored": 0.2}
    found = judge_panel.panel(Evaluation((), panel={**panel, "new": "x", "calls": 3, "cost": 0.00123, "odd": math.nan}))
    assert [(line["name"], line["value"]) for line in found] == [
        ("order consistency", "50.0% (40.0% to 60.0%)"),
        ("unscored", "20.0%"),
        ("new", "x"),
        ("calls", "3"),
        ("cost", "0.0012"),
        ("odd", "nan"),
    ]
    assert [line["name"] for line in found if line["bad"]] == ["unscored"]


def test_the_plan_stands_beside_what_was_measured(tmp_path):
    run = read_run(tmp_path)
    plan = {"event": "plan", "steps": 120, "seconds": 900.0, "memory_mb": 2500, "trained_tokens": 90_000}
    run = dataclasses.replace(run, events=[plan, *(e for e in run.events if e["event"] != "plan")])
    found = {line["what"]: (line["planned"], line["measured"]) for line in run_costs.costs(run)}
    assert found["Training time"] == ("15.0 min", "15.3 min") and found["Peak memory"] == ("2.50 GB", "2.22 GB")
    assert found["Trained tokens"] == ("90,000", "81,694") and found["Judge cost"] == ("", "0.0712")


def test_leaked_rows_stand_beside_the_clean_ones(tmp_path):
    run = read_run(tmp_path)
    [line] = tables.subsets(run.evaluations)
    assert {part: found["count"] for part, found in line["parts"].items()} == {"all": 24, "clean": 19, "leaked": 5}


def test_the_model_card_has_the_metadata_of_the_hub(tmp_path):
    run = read_run(tmp_path)
    text = ModelCard().report(run).read_text(encoding="utf-8")
    assert (run.directory / "model" / "README.md").read_text(encoding="utf-8") == text
    card = huggingface_hub.ModelCard(text)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct" and card.data.library_name == "peft"
    assert card.data.datasets == ["org/general"] and card.data.license is None
    results = {result.metric_type: result for result in card.data.eval_results}
    assert len(results) == 7 and results["judge_tone"].metric_value == pytest.approx(
        run.evaluations[2].metrics[2].tuned
    )
    assert "n=23" in results["judge_tone"].metric_name and "95% interval" in results["judge_tone"].metric_name
    assert "judge on heldout: 2.1% unscored" in card.content and "adjusted p=" in card.content
    assert not (run.directory / "model" / ".eval_results").exists()


def test_figures_on_a_set_of_the_hub_are_where_the_hub_looks(tmp_path):
    run = read_run(tmp_path)
    recipe = {**run.recipe, "model": {"use": "huggingface", "id": str(tmp_path)}}
    recipe["data"] = {"train": [], "evals": {"heldout": {"hub": "org/bench", "split": "test", "revision": None}}}
    text = ModelCard().report(dataclasses.replace(run, recipe=recipe)).read_text(encoding="utf-8")
    assert huggingface_hub.ModelCard(text).data.base_model is None  # a directory is no id
    files = sorted((run.directory / "model" / ".eval_results").iterdir())
    assert len(files) == 6  # general text is no set of the hub
    [entry] = huggingface_hub.parse_eval_result_entries(yaml.safe_load(files[0].read_text()))
    assert entry.dataset_id == "org/bench" and entry.task_id == "exact_match_score" and "split test" in entry.notes


def test_a_figure_that_is_no_number_is_not_in_the_metadata(tmp_path):
    run = read_run(tmp_path)
    endless = Metric("perplexity", 2.0, math.inf, None, higher_is_better=False)
    run = dataclasses.replace(run, evaluations=[Evaluation((endless,), evaluator="loss", evals="heldout", n=3)])
    assert "model-index" not in ModelCard().report(run).read_text()


def test_the_list_of_runs(ftp, tmp_path):
    write_run(tmp_path / "runs", id="20260101-120000-aaaa")
    run = write_run(tmp_path / "runs", name="a & b <c>", id="20260102-120000-bbbb", judged=False)
    Html().report(finished(run))
    (tmp_path / "runs" / "odd" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "odd" / "1" / "run.lock.json").write_text("{}")
    table = ftp("runs").out
    assert "2 better, 1 worse, 4 no evidence" in table and "begun" in table
    records = json.loads(ftp("runs", "--json").out)
    assert [record["name"] for record in records] == ["a & b <c>", "medicine", "odd"]
    assert records[0]["scores"]["heldout: loss nll"]["verdict"] == "better"

    done = ftp("runs", "--html", "pages/runs.html")
    assert done.code == 0 and done.out.strip() == "pages/runs.html"
    text = (tmp_path / "pages" / "runs.html").read_text(encoding="utf-8")
    page = assert_inert(text)
    [link] = page.all("a")
    assert link["href"] == "../runs/a%20%26%20b%20%3Cc%3E/20260102-120000-bbbb/report.html"
    assert "a & b <c>" in page.texts["a"] and "medicine" in page.texts["td"]


@browser
def test_the_list_of_runs_can_be_sorted(ftp, tmp_path):
    for number in (2, 10, 1):
        write_run(tmp_path / "runs", name=f"run{number}", id=f"20260101-12000{number % 10}-aaaa", judged=False)
    ftp("runs", "--html", "runs.html")
    drive = """<iframe id="frame" src="runs.html"></iframe><pre id="found"></pre><script>frame.onload = () => {
      const page = frame.contentDocument;
      const names = () => [...page.querySelectorAll("tbody tr")].map((r) => r.cells[0].textContent);
      const found = [names()];
      for (let i = 0; i < 2; i++) { page.querySelector("button").click(); found.push(names()); }
      document.getElementById("found").textContent = JSON.stringify(found); }; </script>"""
    (tmp_path / "drive.html").write_text(drive)
    options = ("--allow-file-access-from-files", "--disable-web-security", "--dump-dom")
    shown = chromium(*options, (tmp_path / "drive.html").as_uri(), tmp_path=tmp_path)
    newest, up, down = json.loads(Page(shown).texts["pre"])
    assert up == ["run1", "run2", "run10"] and down == up[::-1] and newest == ["run2", "run1", "run10"]


@pytest.mark.parametrize(("code", "told"), [(0, ""), (1, "no browser could be started; open ")])
def test_the_page_is_opened(ftp, tmp_path, monkeypatch, code, told):
    run, opened = write_run(tmp_path / "runs"), []
    monkeypatch.setattr(click, "launch", lambda url: opened.append(url) or code)
    done = ftp("report", str(run.path), "--open")
    assert done.code == 0, done.err
    assert opened == [str(run.path / "report.html")] and told in done.err
    assert done.out.splitlines() == [str(run.path / "report.html"), str(run.path / "README.md")]
    assert ftp("report", str(run.path)).code == 0 and len(opened) == 1


def test_figures_of_one_thing_count_once():
    def of(*metrics):
        rows = [dataclasses.replace(m, family="rouge") for m in metrics]
        other = Evaluation((UP,), evaluator="exact", evals="set", n=50)
        return tables.headline(tables.rows_of([Evaluation(tuple(rows), evaluator="rouge", evals="set", n=50), other]))

    assert "better than the base on 2 of 2 metrics" in of(UP, UP, UP)[1]
    assert "better than the base on 2 of 2 metrics" in of(NONE, UP, UP)[1]
    assert "on 1 of 2 metrics" in of(NONE, NONE, NONE)[1]
    assert "on 2 of 4 metrics and worse on 1" in of(UP, DOWN, NONE)[1]
