"use strict";
// One picture at a time. The server decides which; this page shows it, collects an answer to each question, and goes on
// when the server has said that the answers are on disk.

const $ = (id) => document.getElementById(id);
const base = location.pathname.replace(/\/$/, "");
const breakEvery = Number($("questions").dataset.break);
const rows = [...document.querySelectorAll("fieldset")];
const screens = ["welcome", "rating", "pause", "end"];

let state = null;
let answers = []; // one value or null a question, in the page's order
let active = 0;
let busy = false;
let since = 0; // when the picture began to be seen
let seen = 0; // milliseconds that it was seen before the page was hidden

function show(screen) {
  $("undo").hidden = screen === "welcome"; // there is nothing to take back before the start
  for (const id of screens) $(id).hidden = id !== screen;
}

function shown() {
  return screens.find((id) => !$(id).hidden);
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Sends until the server answers; sending an answer twice is harmless.
async function send(path, body) {
  for (let attempt = 0; ; attempt++) {
    let response = null;
    let why = "";
    try {
      response = await fetch(base + path, body === undefined ? { cache: "no-store" } : {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      if (response.ok) {
        const reply = await response.json();
        $("status").textContent = "";
        return reply;
      }
      why = (await response.json()).error || "";
    } catch (error) {
      console.warn("no answer from the server", error);
    }
    if (response && response.status === 404) {
      $("status").textContent = "This link is not valid any more.";
      return null;
    }
    // Rated on another device meanwhile (or not understood): show what the study stands at.
    if (response && [409, 413, 422].includes(response.status)) return send("/state");
    // What was answered stays here, and is sent until it is on disk.
    const what = body === undefined ? "Not loaded yet" : "Not saved yet";
    $("status").textContent = `${what}${why && `: ${why}`}. Your ratings are safe up to here; trying again…`;
    await wait(Math.min(500 * 2 ** attempt, 8000));
  }
}

function preload(task) {
  for (const url of [task.source, task.outline, task.result]) if (url) new Image().src = url;
}

function paint() {
  rows.forEach((row, i) => {
    row.classList.toggle("active", i === active);
    for (const button of row.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(answers[i] !== null && Number(button.dataset.value) === answers[i]));
    }
  });
  $("undo").disabled = busy || (answers.every((a) => a === null) && !state.last);
}

function enter(next, rest) {
  state = next;
  answers = rows.map(() => null);
  active = 0;
  $("progress").max = state.total;
  $("progress").value = state.done;
  $("count").textContent = `${state.done} of ${state.total}`;
  if (!state.task) {
    show("end");
  } else {
    $("prompt").textContent = `“${state.task.prompt}”`;
    $("source").src = state.task.source;
    $("result").src = state.task.result;
    $("outline").src = state.task.outline || "";
    $("outline").hidden = !state.task.outline || document.body.classList.contains("plain");
    document.body.dataset.task = state.task.id;
    if (state.next) preload(state.next);
    const due = rest && breakEvery > 0 && state.done > 0 && state.done % breakEvery === 0;
    if (due) $("pause-count").textContent = `${state.done} of ${state.total} pictures are rated.`;
    show(due ? "pause" : "rating");
    window.scrollTo(0, 0);
    seen = 0;
    since = performance.now();
  }
  paint();
}

async function rate(question, value) {
  if (busy || shown() !== "rating") return;
  answers[question] = value;
  const open = answers.indexOf(null);
  active = open < 0 ? question : open;
  paint();
  rows[active].scrollIntoView({ block: "nearest" }); // on a phone not all questions fit
  if (open >= 0) return;
  busy = true;
  paint();
  const seconds = Math.min((seen + performance.now() - since) / 1000, 86400);
  const given = Object.fromEntries(rows.map((row, i) => [row.dataset.question, answers[i]]));
  const reply = await send("/answer", { task: state.task.id, answers: given, seconds });
  busy = false;
  if (reply) enter(reply, true);
}

async function undo() {
  if (busy || !state) return;
  const given = answers.map((a, i) => (a === null ? -1 : i)).filter((i) => i >= 0);
  if (given.length && shown() === "rating") {
    active = given[given.length - 1];
    answers[active] = null;
    paint();
    return;
  }
  if (!state.last) return;
  busy = true;
  paint();
  const reply = await send("/undo", { task: state.last });
  busy = false;
  if (reply) enter(reply, false);
}

function compare(on) {
  if (state && state.task) $("result").src = on ? state.task.source : state.task.result;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const screen = shown();
  if (event.key === "Backspace" && !event.repeat) {
    event.preventDefault();
    undo();
  } else if (screen === "rating") {
    const buttons = rows[active].querySelectorAll("button");
    const at = event.key === "0" ? 9 : Number(event.key) - 1;
    if (/^[0-9]$/.test(event.key) && !event.repeat && buttons[at]) {
      event.preventDefault();
      rate(active, Number(buttons[at].dataset.value));
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      active = (active + (event.key === "ArrowDown" ? 1 : rows.length - 1)) % rows.length;
      paint();
    } else if (event.key === " " && document.activeElement.tagName !== "BUTTON") {
      event.preventDefault();
      compare(true);
    } else if (event.key.toLowerCase() === "m" && state.task.outline) {
      $("outline").hidden = document.body.classList.toggle("plain");
    }
  }
});
document.addEventListener("keyup", (event) => {
  if (event.key === " ") compare(false);
});
rows.forEach((row, i) => {
  for (const button of row.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      button.blur(); // so that Space goes on comparing
      rate(i, Number(button.dataset.value));
    });
  }
});
$("result").addEventListener("pointerdown", () => compare(true));
for (const kind of ["pointerup", "pointerleave", "pointercancel"]) {
  $("result").addEventListener(kind, () => compare(false));
}
$("undo").addEventListener("click", undo);
$("resume").addEventListener("click", () => {
  show("rating");
  since = performance.now();
});
$("start").addEventListener("click", async () => {
  const reply = await send("/state");
  if (reply) enter(reply, false);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seen += performance.now() - since;
  else since = performance.now();
});
// Another device may have gone on meanwhile.
window.addEventListener("focus", async () => {
  if (!state || busy || answers.some((a) => a !== null)) return;
  const reply = await send("/state");
  if (reply && (!reply.task || !state.task || reply.task.id !== state.task.id) && !busy) enter(reply, false);
});
