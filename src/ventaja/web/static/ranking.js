// The ranking page: what a rater lays out by mouse, touch or keys, shown, and kept at every step.
import * as board from "./board.js";

const LINE = board.LINE;
const root = document.getElementById("ranking");
const state = JSON.parse(root.dataset.state);
const count = state.answers;
const by = (id) => document.getElementById(id);

let rows = board.rowsOf(state.draft ?? state.ranking);
let chosen = null; // an answer, LINE, or null
let history = [];
let seen = state.version;
let busy = false;
let warned = false; // of answers that are not placed

const excerpts = [...document.querySelectorAll(".answer .text")].map((text) => {
  const words = text.textContent.trim().replace(/\s+/g, " ").slice(0, 90);
  return words || "(empty)";
});

// ---------------------------------------------------------------------------------------------- showing

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const hidden = (text) => make("span", { class: "visually-hidden" }, text);

function action(name, sign, who, says) {
  return make("button", { type: "button", "data-do": name, "data-answer": who, title: says }, make("span", { "aria-hidden": "true" }, sign), hidden(says));
}

function chip(who, where) {
  const number = who + 1;
  const choose = make(
    "button",
    { type: "button", class: "choose", "data-do": "choose", "data-answer": who, "aria-pressed": String(chosen === who) },
    hidden("Answer "),
    make("b", {}, String(number)),
    make("span", { class: "excerpt", dir: "auto", "aria-hidden": "true" }, excerpts[who]),
    hidden(where),
  );
  const handle = make("span", { class: "handle", "data-drag": who, "aria-hidden": "true" }, "⠿");
  const out = make("div", { class: "chip" + (chosen === who ? " chosen" : ""), "data-answer": who }, handle, choose);
  if (board.find(rows, who) < 0) {
    out.append(action("place", "+", who, `Place answer ${number} next`));
  } else if (chosen === who) {
    const tied = rows[board.find(rows, who)].length > 1;
    out.append(
      make(
        "span",
        { class: "moves" },
        action("up", "↑", who, `Move answer ${number} up`),
        action("down", "↓", who, `Move answer ${number} down`),
        action("tie", tied ? "≠" : "=", who, tied ? `Untie answer ${number}` : `Tie answer ${number} with the one above`),
        action("remove", "×", who, `Take answer ${number} out of the order`),
      ),
    );
  }
  return out;
}

function lineRow() {
  const choose = make(
    "button",
    { type: "button", class: "choose", "data-do": "choose", "data-answer": LINE, "aria-pressed": String(chosen === LINE) },
    "acceptable ↑ line ↓ not",
  );
  const out = make("div", { class: "line-chip" + (chosen === LINE ? " chosen" : "") }, make("span", { class: "handle", "data-drag": LINE, "aria-hidden": "true" }, "⠿"), choose);
  if (chosen === LINE) {
    out.append(
      make("span", { class: "moves" }, action("up", "↑", LINE, "Move the line up"), action("down", "↓", LINE, "Move the line down"), action("remove", "×", LINE, "Remove the line")),
    );
  }
  return out;
}

function show() {
  const focused = document.activeElement?.closest?.("#rows button, #pool button");
  const focus = focused && { answer: focused.dataset.answer, does: focused.dataset.do };
  const line = rows.indexOf(LINE);
  const places = rows.filter((row) => row !== LINE).length;
  let at = 0;
  by("rows").replaceChildren(
    ...rows.map((row) => {
      if (row === LINE) return make("li", { class: "line" }, lineRow());
      at += 1;
      const tied = row.length > 1 ? `, tied with ${row.length - 1}` : "";
      return make("li", { class: "tier" }, make("span", { class: "number", "aria-hidden": "true" }, String(at)), make("div", { class: "tied" }, ...row.map((who) => chip(who, `, place ${at} of ${places}${tied}`))));
    }),
  );
  const rest = board.unplaced(rows, count);
  by("pool").replaceChildren(...rest.map((who) => make("li", {}, chip(who, ", not placed"))));
  by("pool-part").hidden = rest.length === 0;
  by("empty").hidden = rows.length > 0;
  document.querySelector('.tools [data-do="line"] .does').textContent = line < 0 ? "Draw the line" : "Line";
  for (const card of document.querySelectorAll(".answer")) {
    const who = Number(card.dataset.answer);
    const index = board.find(rows, who);
    const place = rows.slice(0, index + 1).filter((row) => row !== LINE).length;
    const good = line >= 0 && index >= 0 && index < line;
    const bad = line >= 0 && (index < 0 || index > line);
    card.classList.toggle("placed", index >= 0);
    card.classList.toggle("chosen", chosen === who);
    card.classList.toggle("good", good);
    card.classList.toggle("bad", bad);
    card.querySelector(".rank").textContent = [index < 0 ? "" : `place ${place}`, good ? "acceptable" : "", bad ? "not acceptable" : ""].filter(Boolean).join(", ");
    card.querySelector(".place").dataset.do = index < 0 ? "place" : "remove";
    card.querySelector(".place .does").textContent = index < 0 ? "Place next" : "Take out";
  }
  const flag = document.querySelector('.finish [data-do="flag"] .does');
  flag.textContent = state.comment ? "Flagged" : "Flag";
  if (focus) {
    const again =
      document.querySelector(`.board [data-do="${focus.does}"][data-answer="${focus.answer}"]`) ??
      document.querySelector(`.board [data-do="choose"][data-answer="${focus.answer}"]`);
    again?.focus();
  }
}

function say(text) {
  by("live").textContent = text;
}

function trouble(text, canReload = false) {
  by("problem").hidden = !text;
  by("problem").querySelector("p").textContent = text;
  by("problem").querySelector("button").hidden = !canReload;
}

function where(who) {
  const index = board.find(rows, who);
  if (who === LINE) {
    if (index < 0) return "The line is gone.";
    const above = rows.slice(0, index).flat().length;
    return `The line: ${above} above, ${count - above} below.`;
  }
  if (index < 0) return `Answer ${who + 1} is not placed.`;
  const place = rows.slice(0, index + 1).filter((row) => row !== LINE).length;
  const others = rows[index].filter((other) => other !== who).map((other) => other + 1);
  return `Answer ${who + 1} is at place ${place}${others.length ? `, tied with ${others.join(" and ")}` : ""}.`;
}

// ---------------------------------------------------------------------------------------------- changing

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function change(next, who = chosen, text = null) {
  if (busy) return;
  warned = false;
  if (!same(next, rows)) {
    history.push({ rows, chosen });
    rows = next;
    keep();
  }
  chosen = who !== null && board.find(rows, who) < 0 && who === LINE ? null : who;
  trouble("");
  show();
  say(text ?? (who === null ? "" : where(who)));
}

const actions = {
  place: (who) => change(board.place(rows, who), who),
  remove: (who) => change(board.remove(rows, who), null, who === LINE ? "The line is gone." : `Answer ${who + 1} is taken out.`),
  choose(who) {
    chosen = chosen === who ? null : who;
    show();
    say(chosen === null ? "Nothing is chosen." : `Chosen. ${where(who)}`);
  },
  up: (who) => change(board.move(rows, who, -1), who),
  down: (who) => change(board.move(rows, who, 1), who),
  tie: (who) => change(board.tie(rows, who), who),
  line() {
    const next = board.drawLine(rows, chosen !== null && board.find(rows, chosen) >= 0 ? chosen : null);
    change(next, chosen === LINE ? null : chosen, null);
    say(where(LINE));
  },
  good: () => change(board.allGood(rows, count), chosen, "All are acceptable."),
  bad: () => change(board.allBad(rows), chosen, "None is acceptable."),
  undo() {
    const last = history.pop();
    if (last) {
      ({ rows, chosen } = last);
      keep();
      trouble("");
      show();
      say("Undone.");
    } else if (state.before !== null) leave(`/item/${state.before}`);
    else say("There is nothing to undo.");
  },
  submit() {
    if (!rows.length) {
      trouble("Nothing is placed yet. Place the answers, draw the line, or skip.");
      return;
    }
    const rest = board.unplaced(rows, count).map((who) => who + 1);
    if (rest.length > 1 && rest.length < count && !warned) {
      warned = true;
      trouble(`Answers ${rest.join(", ")} are not placed. They count as worse than all others, in no order. Submit again if that is meant.`);
      return;
    }
    judge(board.orderOf(rows), "Saved.");
  },
  skip: () => judge({ tiers: null, line: null }, "Skipped."),
  flag() {
    by("comment").value = state.comment;
    by("flag-box").showModal();
    by("comment").focus();
  },
  "keep-flag": keepFlag,
  "close-flag": () => by("flag-box").close(),
  reload: () => leave(location.pathname === "/rank" ? `/item/${state.showing}` : location.pathname),
};

// ---------------------------------------------------------------------------------------------- keeping

async function send(what, body) {
  let response;
  try {
    response = await fetch(`/item/${state.showing}/${what}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      keepalive: true,
    });
  } catch {
    return { error: "The server does not answer. Your order stays on this page; submit again when it is back.", status: 0 };
  }
  const answer = await response.json().catch(() => ({ error: `The server said ${response.status}.` }));
  return { ...answer, status: response.status };
}

let waiting = null; // of a step that is kept soon
let sending = Promise.resolve();

function keep() {
  clearTimeout(waiting);
  by("kept").textContent = "saving …";
  waiting = setTimeout(sendStep, 250);
}

function sendStep() {
  clearTimeout(waiting);
  if (waiting === null) return;
  waiting = null;
  const step = { seen, ...board.orderOf(rows) };
  sending = sending.then(async () => {
    const answer = await send("draft", step);
    if (answer.saved) by("kept").textContent = waiting === null ? "every step is saved" : "saving …";
    else {
      by("kept").textContent = "not saved";
      trouble(answer.error, answer.status === 409);
    }
  });
}

window.addEventListener("pagehide", sendStep);

let attempt = null; // its key is used again if the answer was lost on the way

async function judge(order, text) {
  if (busy) return;
  busy = true;
  root.setAttribute("aria-busy", "true");
  clearTimeout(waiting);
  waiting = null;
  await sending;
  if (attempt === null || !same(attempt.order, order)) attempt = { order, key: key() };
  const answer = await send("judge", { key: attempt.key, seen, ...order, seconds: looked() });
  busy = false;
  root.removeAttribute("aria-busy");
  if (answer.saved) {
    sessionStorage.setItem("said", text);
    leave("/rank");
    return;
  }
  const elsewhere = answer.status === 409;
  trouble(elsewhere ? "This item was judged in another tab since. Nothing was overwritten." : `Not saved: ${answer.error}`, elsewhere);
}

async function keepFlag() {
  const comment = by("comment").value.trim();
  const answer = await send("flag", { comment });
  by("flag-box").close();
  if (answer.saved) {
    state.comment = comment;
    show();
    say(comment ? "The flag is kept." : "The flag is taken away.");
  } else trouble(`The flag was not saved: ${answer.error}`);
}

const key = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function leave(address) {
  busy = true;
  location.assign(address);
}

// Seconds for which the page was in front.
let since = document.visibilityState === "visible" ? performance.now() : null;
let before = 0;

function looked() {
  return (before + (since === null ? 0 : performance.now() - since)) / 1000;
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") since = performance.now();
  else if (since !== null) {
    before += performance.now() - since;
    since = null;
  }
});

// ---------------------------------------------------------------------------------------------- by key

const KEYS = { t: "tie", "=": "tie", l: "line", g: "good", b: "bad", u: "undo", s: "skip", f: "flag", ArrowUp: "up", k: "up", ArrowDown: "down", j: "down", Backspace: "remove", Delete: "remove", x: "remove" };

by("keys").checked = localStorage.getItem("keys") !== "off";
by("keys").addEventListener("change", () => localStorage.setItem("keys", by("keys").checked ? "on" : "off"));

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drag) endDrag(null);
  const undo = (event.ctrlKey || event.metaKey) && event.key === "z";
  if (by("flag-box").open || event.target.closest("textarea, input")) return;
  if (undo) {
    event.preventDefault();
    actions.undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !by("keys").checked) return;
  if (event.key === "Enter") {
    if (event.target.closest("button, a, summary") || event.repeat) return; // it presses what has the focus
    event.preventDefault();
    actions.submit();
    return;
  }
  if (/^[1-9]$/.test(event.key) && Number(event.key) <= count) {
    event.preventDefault();
    const who = Number(event.key) - 1;
    if (board.find(rows, who) < 0) actions.place(who);
    else if (chosen !== who) actions.choose(who);
    return;
  }
  const does = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!does) return;
  const needsChosen = ["up", "down", "tie", "remove"].includes(does);
  if (needsChosen && chosen === null) return; // the arrows scroll, then
  event.preventDefault();
  if (event.repeat && ["skip", "undo", "line"].includes(does)) return;
  if (needsChosen) actions[does](chosen);
  else actions[does]();
});

// ---------------------------------------------------------------------------------------------- by pointer

const named = (text) => (text === undefined || text === LINE ? text : Number(text));

let dragged = false; // a click that ends a drag is none

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  if (dragged) {
    dragged = false;
    return;
  }
  const does = button.dataset.do;
  actions[does](named(button.dataset.answer));
  // After a click of the mouse Enter submits; who goes by Tab keeps the focus.
  if (event.detail > 0 && !by("flag-box").open) document.activeElement?.blur?.();
});

let drag = null;

document.addEventListener("pointerdown", (event) => {
  dragged = false;
  if (event.button !== 0 || busy || drag) return;
  const handle = event.target.closest("[data-drag]");
  const whole = event.pointerType === "mouse" && event.target.closest(".chip, .line-chip, .answer-head");
  if (!handle && (!whole || event.target.closest(".moves, .place"))) return;
  const who = named(handle ? handle.dataset.drag : whole.querySelector("[data-drag]").dataset.drag);
  drag = { who, x: event.clientX, y: event.clientY, id: event.pointerId, ghost: null, target: null };
  if (handle) event.preventDefault();
});

document.addEventListener("pointermove", (event) => {
  if (!drag || event.pointerId !== drag.id) return;
  if (!drag.ghost) {
    if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 6) return;
    drag.ghost = make("div", { class: "ghost", "aria-hidden": "true" }, drag.who === LINE ? "line" : `${drag.who + 1} · ${excerpts[drag.who].slice(0, 40)}`);
    document.body.append(drag.ghost);
    document.body.classList.add("dragging");
    getSelection()?.removeAllRanges();
  }
  drag.ghost.style.left = `${event.clientX + 10}px`;
  drag.ghost.style.top = `${event.clientY + 10}px`;
  if (event.clientY < 50) scrollBy(0, -14);
  if (event.clientY > innerHeight - 50) scrollBy(0, 14);
  drag.target = target(event.clientX, event.clientY);
  mark(drag.target);
});

document.addEventListener("pointerup", (event) => {
  if (!drag || event.pointerId !== drag.id) return;
  endDrag(drag.ghost ? drag.target : null);
});
document.addEventListener("pointercancel", () => drag && endDrag(null));

function endDrag(to) {
  const { who, ghost } = drag;
  drag = null;
  ghost?.remove();
  document.body.classList.remove("dragging");
  mark(null);
  if (!ghost) return;
  dragged = true;
  setTimeout(() => (dragged = false), 0); // where no click follows
  if (!to) return;
  if (to.kind === "out") {
    if (board.find(rows, who) >= 0) actions.remove(who);
  } else change(to.kind === "join" ? board.join(rows, who, to.index) : board.insert(rows, who, to.index), who);
}

// Where a drop at this point leads: between two rows, into a tie, out of the order, or nowhere.
function target(x, y) {
  const inside = (rect, margin) => x > rect.left - margin && x < rect.right + margin && y > rect.top - margin && y < rect.bottom + margin;
  if (!by("pool-part").hidden && inside(by("pool-part").getBoundingClientRect(), 0)) return { kind: "out" };
  const list = [...by("rows").children];
  const place = (list.length ? by("rows") : by("empty")).getBoundingClientRect();
  if (!inside(place, 36)) return null;
  for (const [index, element] of list.entries()) {
    const rect = element.getBoundingClientRect();
    const canJoin = drag.who !== LINE && rows[index] !== LINE && !(rows[index].length === 1 && rows[index][0] === drag.who);
    const edge = canJoin ? 0.27 : 0.5;
    if (y < rect.top + edge * rect.height) return { kind: "insert", index };
    if (canJoin && y < rect.bottom - edge * rect.height) return { kind: "join", index };
  }
  return { kind: "insert", index: list.length };
}

function mark(to) {
  for (const element of document.querySelectorAll(".drop-before, .drop-after, .drop-join")) element.classList.remove("drop-before", "drop-after", "drop-join");
  if (!to) return;
  const list = by("rows").children;
  if (to.kind === "out") by("pool-part").classList.add("drop-join");
  else if (to.kind === "join") list[to.index].classList.add("drop-join");
  else if (to.index < list.length) list[to.index].classList.add("drop-before");
  else (list[list.length - 1] ?? by("empty")).classList.add("drop-after");
}

// ---------------------------------------------------------------------------------------------- begin

// A text that is wider than its card, such as a long formula, can be scrolled by keys too.
function reachable() {
  for (const text of document.querySelectorAll(".text")) {
    if (text.scrollWidth > text.clientWidth) text.tabIndex = 0;
    else text.removeAttribute("tabindex");
  }
}

new ResizeObserver(reachable).observe(root);

show();
const said = sessionStorage.getItem("said");
sessionStorage.removeItem("said");
if (state.version > 0) say(state.state === "skipped" ? "You skipped this one." : "This is how you ranked it. Change it, and submit again.");
else if (rows.length) say("This is how far you were.");
else if (said) say(said);
root.dataset.ready = "true";
