// The playground: one conversation with the server that this page came from. Nothing is stored: a key and pictures live as long as the page.
"use strict";

const MOST_PICTURES = 16;
const MOST_BYTES = 20 * 2 ** 20;
const KINDS = ["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"];
// The colours of `osprey run --boxes`: one per label.
const PALETTE = ["#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#f0e442"];

const $ = (id) => document.getElementById(id);
let messages = []; // as the API takes them
let shown = null; // the element of the last picture that was sent: what the model points at
let tray = []; // pictures that wait: {name, url}
let running = null; // the AbortController of the answer under way
let model = null;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const say = (text) => { $("alert").textContent = text; };

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

// What a response that is no answer says.
async function refusal(response) {
  const error = (await response.json().catch(() => ({}))).error;
  if (response.status === 401) {
    $("locked").hidden = false;
    $("key").focus();
    return $("key").value ? "This key is wrong." : "This server wants a key.";
  }
  return error?.message ?? `The server answered ${response.status}.`;
}

async function connect() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await refusal(response));
    model = (await response.json()).data[0].id;
    $("model").textContent = model;
    say("");
    if (document.activeElement === $("key")) $("question").focus();
    $("locked").hidden = true;
  } catch (error) {
    $("model").textContent = "not connected";
    say(error.message);
  }
}

// ---- pictures

async function add(files) {
  say("");
  for (const file of files) {
    if (!KINDS.includes(file.type)) say(`${file.name} is no PNG, JPEG, WebP, BMP or GIF.`);
    else if (file.size > MOST_BYTES) say(`${file.name} has more than 20 MB.`);
    else if (tray.length === MOST_PICTURES) say(`A question may have ${MOST_PICTURES} pictures.`);
    else tray.push({ name: file.name || "pasted picture", url: await dataUrl(file) });
  }
  drawTray();
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function drawTray() {
  const items = tray.map((picture, i) => {
    const remove = make("button", { type: "button", "aria-label": `Remove ${picture.name}` }, "×");
    remove.onclick = () => { tray.splice(i, 1); drawTray(); $("question").focus(); };
    return make("li", {}, make("img", { src: picture.url, alt: picture.name }), remove);
  });
  $("tray").replaceChildren(...items);
}

// ---- answers

// The pieces of an answer: text, and boxes in thousandths of the picture. The same rules as src/media/boxes.rs.
function pieces(text) {
  const found = [];
  let label = "";
  let end = 0;
  const plain = (to) => { if (to > end) found.push({ text: text.slice(end, to) }); };
  for (const match of text.matchAll(/<\|object_ref_start\|>(.*?)<\|object_ref_end\|>|<\|box_start\|>(.*?)<\|box_end\|>/gs)) {
    plain(match.index);
    end = match.index + match[0].length;
    if (match[1] !== undefined) { label = match[1].trim(); continue; }
    const at = match[2].match(/^\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*$/);
    if (!at) continue;
    const [x1, y1, x2, y2] = at.slice(1).map((n) => Math.min(Number(n), 1000));
    found.push({ label, corners: [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)] });
  }
  // A mark that is not complete yet is not shown.
  const open = text.slice(end).search(/<\|(object_ref|box)_start\|>/);
  plain(open < 0 ? text.length : end + open);
  return found;
}

// Left, top, right and bottom pixel of a picture, all of them in the box.
function inPixels([left, top, right, bottom], width, height) {
  const map = (value, side) => Math.min(Math.round(value / 1000 * side), side - 1);
  return [map(left, width), map(top, height), map(right, width), map(bottom, height)];
}

function drawAnswer(element, text, picture) {
  const image = picture?.querySelector("img");
  const [width, height] = [image?.naturalWidth, image?.naturalHeight];
  const colours = new Map();
  const rects = [];
  const parts = pieces(text).map((piece) => {
    if (piece.text !== undefined) return piece.text;
    if (!colours.has(piece.label)) colours.set(piece.label, PALETTE[colours.size % PALETTE.length]);
    const colour = colours.get(piece.label);
    const corners = width ? inPixels(piece.corners, width, height) : piece.corners;
    if (width) rects.push(...outline(corners, colour, piece.label));
    const unit = width ? "px" : "‰";
    const where = make("small", {}, `${corners[0]}, ${corners[1]} – ${corners[2]}, ${corners[3]} ${unit}`);
    const chip = make("span", { class: "box" }, piece.label, where);
    chip.style.setProperty("--box", colour);
    return chip;
  });
  element.replaceChildren(...parts);
  picture?.querySelector("svg")?.replaceChildren(...rects);
}

function outline([left, top, right, bottom], colour, label) {
  const rect = (name) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const size = { x: left, y: top, width: right - left + 1, height: bottom - top + 1, class: name };
    for (const [key, value] of Object.entries(size)) element.setAttribute(key, value);
    element.style.setProperty("--box", colour);
    return element;
  };
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = label;
  const mark = rect("mark");
  mark.append(title);
  return [rect("halo"), mark];
}

async function pictureElement({ name, url }) {
  const image = make("img", { alt: name });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  image.src = url;
  await image.decode().catch(() => {});
  svg.setAttribute("viewBox", `0 0 ${image.naturalWidth || 1} ${image.naturalHeight || 1}`);
  svg.setAttribute("preserveAspectRatio", "none");
  return make("div", { class: "picture" }, image, svg);
}

function turn(role, title) {
  const text = make("div", { class: "text" });
  const element = make("article", { class: `turn ${role}` }, make("h2", {}, title), text);
  $("welcome").hidden = true;
  $("log").append(element);
  return { element, text };
}

// The JSON of every server-sent event.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

// Asks, and shows the answer as it comes. False if there is none: then nothing has been said.
async function ask(question, pictures) {
  const conversation = messages;
  const parts = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  conversation.push({ role: "user", content: [...parts, { type: "text", text: question }] });
  const asked = turn("user", "You");
  asked.text.textContent = question;
  asked.text.hidden = !question;
  const elements = await Promise.all(pictures.map(pictureElement));
  asked.text.before(make("div", { class: "pictures" }, ...elements));
  const before = shown;
  shown = elements.at(-1) ?? shown;
  const answer = turn("model", model ?? "Model");
  answer.element.classList.add("busy");
  answer.element.setAttribute("aria-busy", "true");
  const log = $("log");
  log.scrollTop = log.scrollHeight;

  const done = { text: "", start: performance.now(), first: 0, last: 0, usage: null, over: false, end: "" };
  const picture = shown;
  say("");
  try {
    await stream(done, () => {
      const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
      drawAnswer(answer.text, done.text, picture);
      if (follows) log.scrollTop = log.scrollHeight;
    });
  } catch (error) {
    if (error.name === "AbortError") done.end = "stopped";
    else say(error.message);
  }
  answer.element.classList.remove("busy");
  answer.element.removeAttribute("aria-busy");
  if (done.first || done.over) {
    conversation.push({ role: "assistant", content: done.text });
    answer.element.append(make("p", { class: "figures" }, summary(done)));
    log.scrollTop = log.scrollHeight;
    return true;
  }
  conversation.pop();
  if (conversation === messages) shown = before;
  [asked, answer].forEach(({ element }) => element.remove());
  $("welcome").hidden = messages.length > 0;
  return false;
}

async function stream(done, update) {
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  const asked = { method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal };
  const response = await fetch("v1/chat/completions", asked);
  if (!response.ok) throw new Error(await refusal(response));
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    if (event.usage) done.usage = event.usage;
    const choice = event.choices[0];
    done.over ||= Boolean(choice?.finish_reason);
    if (choice?.finish_reason) done.end = choice.finish_reason === "length" ? "out of room" : "";
    if (!choice?.delta.content) continue;
    done.last = performance.now();
    done.first ||= done.last;
    done.text += choice.delta.content;
    update();
  }
}

// Tokens, the time to the first and the last of them, and their rate between, unless that is too short to tell.
function summary({ start, first, last, usage, end }) {
  const parts = [];
  const after = (at) => `${((at - start) / 1000).toFixed(2)} s`;
  if (usage) parts.push(`${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written`);
  if (first) parts.push(`first after ${after(first)}, last after ${after(last)}`);
  if (usage && last - first > 100) parts.push(`${((usage.completion_tokens - 1) / (last - first) * 1000).toFixed(1)} tokens/s`);
  if (end) parts.push(end);
  return parts.join(" · ");
}

// ---- what the user does

async function send() {
  const question = $("question").value.trim();
  if (running || (!question && !tray.length)) return;
  const [pictures, conversation] = [tray, messages];
  running = new AbortController();
  tray = [];
  $("question").value = "";
  drawTray();
  buttons();
  const answered = await ask(question, pictures);
  // Unanswered, it is there to be sent again, unless there is something else already.
  if (!answered && conversation === messages && !tray.length && !$("question").value) {
    tray = pictures;
    $("question").value = question;
    drawTray();
  }
  running = null;
  buttons();
}

function buttons() {
  const had = [$("send"), $("stop")].includes(document.activeElement);
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  if (had) (running ? $("stop") : $("question")).focus();
}

$("ask").onsubmit = (event) => { event.preventDefault(); send(); };
$("stop").onclick = () => running?.abort();
$("key").onchange = connect;
$("files").onchange = async (event) => { await add(event.target.files); event.target.value = ""; $("question").focus(); };
$("fresh").onclick = () => {
  running?.abort();
  [messages, shown, tray] = [[], null, []];
  document.querySelectorAll(".turn").forEach((element) => element.remove());
  $("welcome").hidden = false;
  say("");
  drawTray();
  $("question").focus();
};

document.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
  const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === $("question");
  if (sends) { event.preventDefault(); send(); }
};
document.onpaste = (event) => add(event.clipboardData.files);
document.ondragover = (event) => { event.preventDefault(); $("drop").hidden = false; };
document.ondragleave = (event) => { if (!event.relatedTarget) $("drop").hidden = true; };
document.ondrop = (event) => { event.preventDefault(); $("drop").hidden = true; add(event.dataTransfer.files); };

connect();
$("question").focus();
