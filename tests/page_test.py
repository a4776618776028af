"""The web page in a real Chromium: with a mock of the server for what a model seldom does, then with the real one.

Needs Chromium and Playwright: scripts/setup dev installs both. Without them every test here is skipped, unless
WEFT_PAGE=required. Screenshots of all sizes and colours are left in build/page."""
import os
import pathlib
import re
import shutil

import page_mock
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None
MISSING = "Playwright" if not sync_playwright else "" if CHROMIUM else "Chromium"
if MISSING and os.environ.get("WEFT_PAGE") == "required":
    raise RuntimeError(f"{MISSING} is missing: run scripts/setup dev")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} is missing: scripts/setup dev installs it")

PICTURES = pathlib.Path(page_mock.ROOT / "build/page")
SIZES = {"wide": (1400, 900), "narrow": (390, 844)}


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server():
    server = page_mock.Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser):
    """open_page(url, **context options): a page in a profile of its own. At the end nothing may have gone wrong in any
    of them: no exception, no violation of the Content-Security-Policy, no request to another origin."""
    faults, contexts = [], []

    def open_page(url, quiet=True, **options):
        context = browser.new_context(**{"viewport": dict(zip(("width", "height"), SIZES["wide"])), **options})
        context.set_default_timeout(10000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith((url, "data:")) or faults.append(request.url))
        if quiet:
            page.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, faults


@pytest.fixture
def page(open_page, server):
    return open_page(server.url)


def ask(page, text, wait=True):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    if wait:
        page.locator(".answer:last-child > footer").wait_for()


def answer(page):
    return page.locator(".answer").last


def test_an_answer_is_streamed_and_rendered(page, server):
    server.pause = 0.02
    ask(page, "essay", wait=False)
    expect(page.get_by_label("Stop")).to_be_visible()
    expect(answer(page).locator("h2")).to_have_text("Threads")  # while the rest is still to come
    assert answer(page).get_attribute("aria-busy") == "true"
    answer(page).locator("footer").wait_for()
    markdown = answer(page).locator(".markdown")
    assert markdown.locator("ol > li").all_inner_texts() == ["Set up the warp", "Throw the shuttle"]
    assert markdown.locator("td").all_inner_texts() == ["warp", "no", "weft", "yes"]
    assert markdown.locator("pre").inner_text() == "for row in cloth:\n    row.beat()  # firmly\n"
    assert markdown.locator("a").get_attribute("rel") == "noopener noreferrer nofollow"
    numbers = answer(page).locator(".numbers").inner_text()
    assert re.fullmatch(r"\d+ tokens · [\d.]+ tokens/s · first after \d+ ms · 16 of 40 prompt tokens cached", numbers), numbers
    [request] = server.requests
    assert request["messages"] == [{"role": "user", "content": "essay"}]
    assert request["stream"] and request["logprobs"] and "temperature" not in request


def test_the_conversation_goes_on_and_survives_a_reload(page, server):
    ask(page, "one")
    ask(page, "two")
    page.reload()
    expect(page.locator(".message")).to_have_count(4)
    expect(answer(page).locator(".markdown")).to_have_text("You said: two")
    ask(page, "three")
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["one", "You said: one", "two", "You said: two", "three"]
    page.get_by_label("New conversation").click()
    expect(page.locator(".message")).to_have_count(0)


def test_escape_stops_and_the_server_notices(page, server):
    ask(page, "slow", wait=False)
    expect(answer(page).locator(".markdown")).to_contain_text("again and again")
    page.keyboard.press("Escape")
    expect(answer(page).locator(".numbers")).to_contain_text("stopped")
    assert server.left.wait(5)
    said = answer(page).locator(".markdown").inner_text()
    page.wait_for_timeout(200)
    assert answer(page).locator(".markdown").inner_text() == said
    ask(page, "slow", wait=False)  # the button does the same
    page.get_by_label("Stop").click()
    expect(page.get_by_label("Send", exact=True)).to_be_visible()


def test_enter_sends_and_shift_enter_does_not(page, server):
    field = page.get_by_label("Message", exact=True)
    field.press_sequentially("two")
    page.keyboard.press("Shift+Enter")
    field.press_sequentially("lines")
    assert server.requests == []
    page.keyboard.press("Enter")
    answer(page).locator("footer").wait_for()
    assert server.requests[0]["messages"][0]["content"] == "two\nlines"
    assert field.input_value() == ""
    page.keyboard.press("Enter")  # nothing to send
    page.wait_for_timeout(100)
    assert len(server.requests) == 1


def test_the_last_message_is_edited_with_the_arrow_key(page, server):
    ask(page, "one")
    ask(page, "two")
    page.keyboard.press("ArrowUp")
    editor = page.get_by_label("Edit the message")
    expect(editor).to_be_focused()
    assert editor.input_value() == "two"
    page.keyboard.press("Escape")
    expect(editor).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    page.keyboard.type(" and more")
    page.keyboard.press("Enter")
    expect(answer(page).locator(".markdown")).to_have_text("You said: two and more")
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["one", "You said: one", "two and more"]
    expect(page.locator(".message")).to_have_count(4)


def test_an_earlier_message_is_edited_and_an_answer_retried(page, server):
    ask(page, "one")
    ask(page, "two")
    page.get_by_label("Answer again").first.click()
    expect(page.locator(".message")).to_have_count(2)
    answer(page).locator("footer").wait_for()
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "one"}]
    page.locator(".question").hover()
    page.get_by_label("Edit", exact=True).click()
    page.get_by_label("Edit the message").fill("another")
    page.get_by_role("button", name="Send").first.click()
    expect(answer(page).locator(".markdown")).to_have_text("You said: another")
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "another"}]


def test_parameters_are_sent_and_kept(page, server):
    page.get_by_role("button", name="Parameters").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Stop strings").fill("END\nSTOP")
    page.get_by_role("button", name="Done").click()
    page.reload()
    ask(page, "one")
    [request] = server.requests
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    sampled = {name: request.get(name) for name in ("temperature", "seed", "stop", "top_p", "max_tokens")}
    assert sampled == {"temperature": 0.3, "seed": 7, "stop": ["END", "STOP"], "top_p": None, "max_tokens": None}
    page.get_by_role("button", name="temperature 0.3").click()
    page.get_by_role("button", name="Reset").click()
    ask(page, "two")
    assert "temperature" not in server.requests[-1] and server.requests[-1]["messages"][0]["role"] == "user"


# Of every token: what the page would mark for it, and the token.
MARKED = """async (source) => {
  const { renderMarkdown } = await import('/page/markdown.js');
  const { TokenList, alignBlock, rangesOf } = await import('/page/tokens.js');
  const list = new TokenList();
  for (const token of source.tokens) list.push({ token, logprob: -1, bytes: [...new TextEncoder().encode(token)] });
  const element = document.createElement('div');
  const pieces = renderMarkdown(element, source.text).flatMap(alignBlock);
  return list.tokens.map(({ start, end }) => rangesOf(pieces, start, end).map(String).join(''));
}"""


def test_every_word_belongs_to_its_token(page):
    tokens = page_mock.pieces(page_mock.ESSAY)
    marked = page.evaluate(MARKED, {"text": page_mock.ESSAY, "tokens": tokens})
    for token, text in zip(tokens, marked, strict=True):
        assert text in token, (token, text)  # what it shows is of the token
    hidden = ["https", "example", "org"]  # markup shows nothing; the address's last word is also that of the link
    shown = [token.strip() for token in tokens if re.fullmatch(r"\s?\w+", token) and token.strip() not in hidden]
    shown = [token for token in shown if token not in ("loom", "1", "2", "python")]
    assert [text.strip() for text in marked if re.fullmatch(r"\s?\w+", text) and text.strip() != "loom"] == shown


def test_characters_of_several_tokens(page):
    marks = page.evaluate("""async () => {
      const { TokenList } = await import('/page/tokens.js');
      const list = new TokenList();
      const bytes = [...new TextEncoder().encode('a😀b')];
      for (const part of [[bytes[0]], bytes.slice(1, 3), bytes.slice(3, 5), [bytes[5]]]) {
        list.push({ token: '?', logprob: 0, bytes: part });
      }
      return [list.text, list.tokens.map(({ start, end }) => [start, end])];
    }""")
    assert marks == ["a😀b", [[0, 1], [1, 1], [1, 3], [3, 4]]]


def test_pointing_at_a_word_shows_its_probability(page):
    ask(page, "essay")
    word = answer(page).locator("strong")
    word.hover()
    tip = page.get_by_role("tooltip")
    expect(tip.locator(".chosen")).to_have_text(re.compile(r"^\s*weft\s*97\.0 %\s*$"))
    assert tip.locator(".tip-row").count() == 3
    page.mouse.move(1, 1)
    expect(tip).to_have_count(0)
    answer(page).locator(".markdown").focus()  # the same from the keyboard
    seen, marked = [], []
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        seen.append(tip.locator(".chosen code").inner_text())
        marked.append(page.evaluate("[...CSS.highlights.get('token')].map(String).join('')"))
    assert seen == ["·Thr", "eads", "A", "warp"], seen
    assert marked == ["Thr", "eads", "A", "warp"]
    page.get_by_label("Mark improbable tokens").click()
    assert page.evaluate("['surprise-1', 'surprise-3'].map((name) => CSS.highlights.get(name)?.size > 0)") == [True, True]
    page.get_by_label("Mark improbable tokens").click()
    assert page.evaluate("[...CSS.highlights].reduce((sum, [, marks]) => sum + marks.size, 0)") == 0


def test_thoughts_are_set_apart(page):
    ask(page, "think")
    assert answer(page).locator(".markdown").inner_text() == "You said: think"
    page.get_by_text("Thoughts").click()
    expect(answer(page).locator(".reasoning div")).to_have_text("Let me weave. ")
    answer(page).get_by_text("You said").hover(position={"x": 6, "y": 12})  # tokens of the thoughts come before those of the answer
    assert page.locator(".tip .chosen code").inner_text() == "You"


def test_a_hostile_answer_stays_text(page):
    ask(page, "hostile")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    markdown = answer(page).locator(".markdown")
    assert markdown.locator("script, img, svg, iframe, style, form, input, details, b, [onclick], [onmouseover], [style]").count() == 0
    hrefs = markdown.locator("a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    assert sorted(filter(None, hrefs)) == ["https://example.org"]
    text = markdown.inner_text()
    for shown in ("<script>window.hacked = 1</script>", "<style>", "[pixel: http://127.0.0.1:9/pixel.png]", '<b onclick="window.hacked = 8">'):
        assert shown in text, text
    for link in markdown.locator("a").all():
        link.dispatch_event("mouseover")
    page.get_by_label("Copy", exact=True).last.click()
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("asked, says, kept", [
    ("refuse", "temperature must be at most 2", ""),
    ("fail", "rank 1 was lost: exit status 9", "You said:"),
    ("break", "broke off", "You said:"),
])
def test_errors_are_shown_with_their_message(open_page, server, asked, says, kept):
    page = open_page(server.url, quiet=False)  # the browser itself logs a status of 400
    ask(page, asked)
    expect(answer(page).get_by_role("alert")).to_contain_text(says)
    assert answer(page).locator(".markdown").inner_text() == kept
    ask(page, "again")  # a failed answer without text is no part of the conversation
    roles = [m["role"] for m in server.requests[-1]["messages"]]
    assert roles == (["user", "assistant", "user"] if kept else ["user", "user"])


def test_a_server_that_went_away(open_page, server):
    page = open_page(server.url, quiet=False)
    expect(page.locator(".welcome em")).to_have_text("mock-1b")
    server.gone = True
    server.shutdown()
    server.server_close()
    ask(page, "one")
    expect(answer(page).get_by_role("alert")).to_have_text("The server cannot be reached.")
    expect(page.locator(".health")).to_have_text("The server cannot be reached.")


def test_the_key_is_asked_for_once_and_kept_by_the_tab(open_page, server):
    server.key = "secret"
    page = open_page(server.url, quiet=False)  # the browser itself logs a status of 401
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The API key is missing or wrong.")
    dialog.get_by_label("API key").fill("guess")
    page.keyboard.press("Enter")
    expect(dialog.get_by_label("API key")).to_have_value("guess")  # wrong: asked for again
    dialog.get_by_label("API key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator(".welcome em")).to_have_text("mock-1b")
    page.reload()
    ask(page, "one")
    expect(answer(page).locator(".markdown")).to_have_text("You said: one")
    assert page.evaluate("[sessionStorage['weft.key'], localStorage['weft.key'] ?? null, document.cookie]") == ["secret", None, ""]


def test_a_dismissed_key_dialog_does_not_come_back_by_itself(open_page, server):
    server.key = "secret"
    page = open_page(server.url, quiet=False)
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.wait_for_timeout(1500)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_label("API key").click()
    page.get_by_role("dialog").get_by_label("API key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator(".welcome em")).to_have_text("mock-1b")


def test_one_of_several_models_is_chosen(open_page, server):
    server.models = ["mock-1b", "adapter"]
    page = open_page(server.url)
    page.get_by_label("Model").select_option("adapter")
    ask(page, "one")
    assert server.requests[-1]["model"] == "adapter"


def test_the_live_view_follows_the_engine(page, server):
    live = page.get_by_role("complementary")
    expect(live.locator(".health")).to_have_text("Ready, 2 ranks")
    figures = live.get_by_label("Tokens per second").locator("b")
    expect(figures.first).to_have_text(re.compile(r"\d"))
    now = server.stats()
    assert abs(int(live.get_by_label("Requests", exact=True).locator("b").first.inner_text()) - now["running"]) <= 6
    expect(live.get_by_label("KV pages")).to_contain_text("700")
    expect(live.get_by_label("Prefix hits")).to_contain_text("60 %")
    assert live.get_by_label("Time of each rank").locator(".ranks > div").all_inner_texts() == ["0\n43.1 ms", "1\n45.2 ms"]
    page.wait_for_timeout(2500)  # a line needs points
    drawn = live.locator("canvas").evaluate_all("""all => all.map((canvas) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    })""")
    assert len(drawn) == 2 and min(drawn) > 10, drawn
    server.health = "unavailable: rank 1 exited with status 9"
    expect(live.locator(".health")).to_have_text(server.health)
    page.get_by_label("Live view", exact=True).click()
    expect(live).to_have_count(0)


def test_rates_come_from_counters_and_begin_anew_with_the_server(page):
    history = page.evaluate("""async () => {
      const { extend } = await import('/page/live.js');
      const at = (time_s, generation_tokens, steps) => ({ time_s, generation_tokens, steps, prompt_tokens: 0, running: 1,
        waiting: 0, prefix_queries: 0, prefix_hits: 0 });
      const empty = extend({}, null, at(0, 0, 0));
      const one = extend(empty, at(0, 0, 0), at(2, 100, 10));
      const two = extend(one, at(2, 100, 10), at(3, 100, 10));
      const restarted = extend(two, at(3, 100, 10), at(4, 5, 1));
      const late = extend(two, at(3, 100, 10), at(200, 100, 10));
      return [one, two, restarted, late].map(({ times, generated }) => [times, generated]);
    }""")
    assert history == [[[2], [50]], [[2, 3], [50, 0]], [[], []], [[200], [0]]]


# Texts that are hard to read: [text, contrast] of every visible one below WCAG's 4.5.
FAINT = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (color.startsWith('rgb(')) return parse(color);
    }
    return null;
  };
  const found = [];
  for (const element of document.querySelectorAll('#app *')) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join('');
    if (!text || !element.checkVisibility({ opacityProperty: true })) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push([text, contrast]);
  }
  return found;
}"""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_and_sizes(open_page, server, scheme, size):
    page = open_page(server.url, color_scheme=scheme, viewport=dict(zip(("width", "height"), SIZES[size])))
    PICTURES.mkdir(parents=True, exist_ok=True)

    def look(name):
        page.screenshot(path=PICTURES / f"{name}-{size}-{scheme}.png")
        assert page.evaluate(FAINT) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight")
        unnamed = page.locator("button").evaluate_all("all => all.filter((b) => !b.innerText.trim() && !b.ariaLabel).length")
        assert unnamed == 0

    page.locator(".welcome em").wait_for()
    look("welcome")
    ask(page, "essay")
    page.get_by_label("Mark improbable tokens").click()
    answer(page).locator("strong").hover()
    look("answer")
    page.mouse.move(1, 1)
    page.get_by_role("button", name="Parameters").click()
    look("parameters")
    page.get_by_role("button", name="Done").click()
    if size == "narrow":
        page.get_by_label("Live view", exact=True).click()
    page.wait_for_timeout(2500)
    look("live")
    dark = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] < 128"
    assert page.evaluate(dark) == (scheme == "dark")
    page.get_by_label(re.compile("colours")).click()
    assert page.evaluate(dark) == (scheme == "light")
    page.reload()
    assert page.evaluate(dark) == (scheme == "light")


def test_reading_above_is_not_disturbed(open_page, server):
    """A growing answer keeps the view at its end, unless the user has scrolled up."""
    page = open_page(server.url, viewport={"width": 360, "height": 420})
    ask(page, "slow", wait=False)
    scroll = page.locator(".scroll")
    expect(answer(page).locator(".markdown")).to_contain_text("again and " * 60, timeout=20000)
    assert scroll.evaluate("e => e.scrollHeight > 1.5 * e.clientHeight")
    from_end = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
    assert scroll.evaluate(from_end) < 40
    scroll.hover()
    page.mouse.wheel(0, -150)
    page.wait_for_timeout(300)
    top = scroll.evaluate("e => e.scrollTop")
    page.wait_for_timeout(500)
    assert scroll.evaluate("e => e.scrollTop") == top
    page.get_by_label("To the newest message").click()
    page.wait_for_timeout(300)
    assert scroll.evaluate(from_end) < 40
