"""A person at the playground, in headless Chromium: clicks, keys, a phone. Arguments: the osprey binary, the browser, a folder for screenshots."""

import base64
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

from playwright.sync_api import expect, sync_playwright

OSPREY, BROWSER, SHOTS = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
KEY = "page-key"
SHAPES = pathlib.Path("examples/shapes.png")
POINT = "Point to the red circle."
# Any token is as likely as the next: how long an answer gets, the seed says.
WILD = {"temperature": 1e6, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}


def api(address, path, body=None):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(f"{address}{path}", data, headers)) as response:
        return response.read().decode()


def answer(address, question):
    """What the server says of the picture, asked without the page."""
    url = "data:image/png;base64," + base64.b64encode(SHAPES.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    reply = json.loads(api(address, "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}))
    return reply["choices"][0]["message"]["content"], reply["usage"]


def endless(address, question):
    """What to add to the page's request, so that it can be stopped before it ends."""
    for seed in range(100):
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": question}]}], **WILD, "seed": seed}
        if json.loads(api(address, "/v1/chat/completions", body))["usage"]["completion_tokens"] > 800:
            return {**WILD, "seed": seed}
    raise AssertionError("no seed gives a long answer")


@contextlib.contextmanager
def slowly(server):
    """Lets the server run a tenth of the time, so that there is some to stop an answer in."""
    over = threading.Event()

    def brake():
        while not over.is_set():
            server.send_signal(signal.SIGSTOP)
            time.sleep(0.045)
            server.send_signal(signal.SIGCONT)
            time.sleep(0.005)

    thread = threading.Thread(target=brake)
    thread.start()
    yield
    over.set()
    thread.join()


class Visit:
    """A page that must not fail, ask strangers, or keep anything."""

    def __init__(self, browser, address, **how):
        self.context = browser.new_context(**how)
        self.page, self.address, self.wrong = self.context.new_page(), address, []
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        # Refusals are failed loads for the browser.
        self.page.on("console", lambda m: m.type == "error" and "Failed to load resource" not in m.text and self.wrong.append(m.text))
        own = (address, "data:")
        self.page.on("request", lambda r: r.url.startswith(own) or self.wrong.append(r.url))
        self.page.goto(address)

    def unlock(self):
        key = self.page.get_by_label("API key")
        expect(key).to_be_focused()
        self.page.keyboard.type(KEY)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#model")).to_have_text("demo")
        expect(self.page.get_by_label("API key")).to_be_hidden()
        expect(self.page.get_by_role("textbox", name="Question")).to_be_focused()

    def figures(self, n):
        """Waits for the n-th answer; its figures."""
        expect(self.page.locator(".figures")).to_have_count(n)
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()
        return self.page.locator(".figures").last.inner_text()

    def shot(self, name):
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def end(self):
        assert not self.wrong, self.wrong
        kept = self.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""], kept
        self.context.close()


def check_box(page, said):
    """The box is where the model said, in pixels of the file, and on the screen it lies over the picture's red."""
    corners = [int(n) for n in re.findall(r"\d+", said.split("<|box_start|>")[1])]
    width, height = page.evaluate("(() => { const i = document.querySelector('.picture img'); return [i.naturalWidth, i.naturalHeight]; })()")
    left, top, right, bottom = (min(round(v / 1000 * side), side - 1) for v, side in zip(corners, [width, height] * 2))
    rect = page.locator(".picture rect.mark")
    got = [int(rect.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert got == [left, top, right - left + 1, bottom - top + 1], (got, said)
    expect(page.locator(".box")).to_have_text(f"red circle{left}, {top} – {right}, {bottom} px")
    image, box = page.locator(".picture img").bounding_box(), rect.bounding_box()
    scale = image["width"] / width
    for side, at in (("x", left), ("y", top)):
        # Half the stroke lies outside.
        assert abs(box[side] - (image[side] + at * scale)) <= 3, (box, image)
    red = page.evaluate(RED)
    overlap = [min(right, red[2]) - max(left, red[0]), min(bottom, red[3]) - max(top, red[1])]
    both = max(overlap[0], 0) * max(overlap[1], 0)
    area = lambda b: (b[2] - b[0]) * (b[3] - b[1])
    assert both / (area(red) + area((left, top, right, bottom)) - both) > 0.5, (red, got)


RED = """(() => {
  const image = document.querySelector('.picture img');
  const canvas = Object.assign(document.createElement('canvas'), { width: image.naturalWidth, height: image.naturalHeight });
  const draw = canvas.getContext('2d');
  draw.drawImage(image, 0, 0);
  const { data, width } = draw.getImageData(0, 0, canvas.width, canvas.height);
  const [xs, ys] = [[], []];
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] > 170 && data[i + 1] < 90 && data[i + 2] < 90) { xs.push(i / 4 % width); ys.push(Math.floor(i / 4 / width)); }
  }
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
})()"""

# The contrast of every text with the ground behind it, by WCAG's formula.
CONTRAST = """(() => {
  const light = (colour) => {
    const canvas = document.createElement('canvas').getContext('2d');
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const rgb = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255);
    const [r, g, b] = rgb.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
  };
  const texts = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return texts.map((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
    return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)];
  });
})()"""


def readable(page):
    seen = page.evaluate(CONTRAST)
    assert len(seen) >= 5 and min(seen)[0] >= 4.5, min(seen)


def desktop(browser, address, server):
    visit = Visit(browser, address, viewport={"width": 1100, "height": 800}, color_scheme="light")
    page = visit.page
    expect(page.get_by_role("alert")).to_have_text("This server wants a key.")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This key is wrong.")
    page.get_by_label("API key").fill("")
    visit.unlock()
    expect(page.get_by_role("alert")).to_be_empty()
    visit.shot("empty")

    # A click, the file dialog, the keyboard.
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Add pictures").click()
    chooser.value.set_files(SHAPES)
    expect(page.get_by_role("img", name="shapes.png")).to_be_visible()
    expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    page.keyboard.type("Point to the")
    page.keyboard.press("Shift+Enter")
    expect(page.get_by_role("textbox", name="Question")).to_have_value("Point to the\n")
    page.keyboard.press("Backspace")
    page.keyboard.type(POINT.removeprefix("Point to the"))
    page.keyboard.press("Enter")
    figures = visit.figures(1)
    said, usage = answer(address, POINT)
    check_box(page, said)
    read, drawn = usage["prompt_tokens"], usage["completion_tokens"]
    assert re.fullmatch(rf"{read} tokens read, {drawn} written · first after [\d.]+ s, last after [\d.]+ s( · [\d.]+ tokens/s)?", figures), figures
    expect(page.get_by_role("textbox", name="Question")).to_be_empty()
    visit.shot("light")
    readable(page)

    # The conversation goes on: the picture is still in it.
    page.keyboard.type("What color is the star?")
    page.get_by_role("button", name="Send").click()
    assert int(visit.figures(2).split()[0]) > read
    expect(page.locator(".picture rect.mark")).to_have_count(0)

    # Long answers stream, and end with the button or the key.
    more = endless(address, "Go on.")
    page.route("**/v1/chat/completions", lambda r: r.continue_(post_data=json.dumps({**r.request.post_data_json, **more})))
    with slowly(server):
        for stop in [lambda: page.get_by_role("button", name="Stop").click(), lambda: page.keyboard.press("Escape")]:
            page.get_by_role("button", name="New chat").click()
            page.get_by_role("textbox", name="Question").fill("Go on.")
            page.keyboard.press("Enter")
            text = page.locator(".model .text").last
            expect(text).not_to_be_empty()
            expect(text).not_to_have_text(text.inner_text(), use_inner_text=True)
            assert page.locator(".busy").count() == 1
            stop()
            assert "stopped" in visit.figures(1)
            expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("textbox", name="Question").fill("Go on.")
    page.keyboard.press("Enter")
    first, last, written, rate = map(float, re.search(r"([\d.]+) written · first after ([\d.]+) s, last after ([\d.]+) s · ([\d.]+)", visit.figures(1)).group(2, 3, 1, 4))
    # Times are shown in hundredths.
    assert abs(rate - (written - 1) / (last - first)) < 0.011 / (last - first) * rate, (first, last, written, rate)
    running = lambda: re.search(r"^vllm:num_requests_running\S* (\S+)$", api(address, "/metrics"), re.M)[1]
    for _ in range(100):
        if float(running()) == 0:
            break
        page.wait_for_timeout(50)
    assert float(running()) == 0, "a stopped answer goes on"
    page.unroute("**/v1/chat/completions")

    # New chat; dropped and pasted files; what is no picture.
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_text("Ask about a picture")).to_be_visible()
    transfer = page.evaluate_handle(TRANSFER, ["dropped.png", base64.b64encode(SHAPES.read_bytes()).decode(), "image/png"])
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    expect(page.get_by_text("Drop the pictures")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.get_by_text("Drop the pictures")).to_be_hidden()
    page.evaluate("(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", transfer)
    expect(page.locator("#tray img")).to_have_count(2)
    page.get_by_role("button", name="Remove dropped.png").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#tray img")).to_have_count(1)
    page.get_by_label("Add pictures").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"})
    expect(page.get_by_role("alert")).to_have_text("a.txt is no PNG, JPEG, WebP, BMP or GIF.")

    # A picture that the server refuses: nothing is lost, and it can be taken out.
    page.get_by_label("Add pictures").set_input_files({"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.get_by_role("textbox", name="Question").fill("What is it?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("image_url")
    expect(page.locator("#tray img")).to_have_count(2)
    expect(page.get_by_role("textbox", name="Question")).to_have_value("What is it?")
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("button", name="Remove bad.png").click()
    page.get_by_role("button", name="Send").click()
    visit.figures(1)

    # Every control is reached by Tab, and seen.
    page.locator("body").focus()
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
    assert {"New chat", "files", "question", "Send"} <= set(names), names
    page.reload()
    expect(page.get_by_label("API key")).to_be_empty()
    visit.end()


TRANSFER = """([name, data, type]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
  return transfer;
}"""


def phone(browser, address):
    how = {"viewport": {"width": 360, "height": 640}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
    visit = Visit(browser, address, color_scheme="dark", **how)
    page = visit.page
    visit.unlock()
    page.get_by_label("Add pictures").set_input_files(SHAPES)
    page.get_by_role("textbox", name="Question").tap()
    page.keyboard.type(POINT)
    visit.shot("phone-asking")
    page.get_by_role("button", name="Send").tap()
    visit.figures(1)
    check_box(page, answer(address, POINT)[0])
    readable(page)
    for control in [page.get_by_role("button", name="Send"), page.get_by_text("Add pictures"), page.get_by_role("textbox", name="Question")]:
        box = control.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 640, box
        assert min(box["width"], box["height"]) >= 44, box
    assert box["width"] > 300, "the question has no room"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    visit.shot("phone-dark")
    visit.end()


expect.set_options(timeout=60_000)


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OSPREY_API_KEY": KEY}
    serve = [OSPREY, "serve", "--device", "cpu", "--port", "0", "--log-format", "json"]
    server = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = map(json.loads, server.stderr)
        address = "http://" + next(line["address"] for line in lines if "address" in line)
        # Nobody reads the rest, which must not fill the pipe.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        with sync_playwright() as play:
            # Chromium's own sandbox needs rights that containers do not give; the page is ours.
            browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            desktop(browser, address, server)
            phone(browser, address)
            print(f"playground: all right in Chromium {browser.version}")
            browser.close()
    finally:
        server.kill()


main()
